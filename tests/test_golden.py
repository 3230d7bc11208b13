"""The tree of all schedules is the pipeline itself, and what is read from its table."""

import json
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.golden.choice import agreement, chosen_by_few, described, least_share
from benchmarks.golden.exhaustion import METHODS
from benchmarks.golden.prompt import apart, figures, fitted_tree, full_run, run_tree
from benchmarks.golden.tree import (
    REUSE,
    all_schedules,
    cached_of,
    evaluations,
    known,
    predictions_along,
    walk,
    weights_by_node,
)
from ertacache import Policy, zoo
from ertacache.calibration.announcement import RECORDINGS
from ertacache.calibration.full_runs import open_session
from ertacache.calibration.options import CalibrationOptions
from ertacache.evaluation.comparison import Variant, calls_of, generate, started
from ertacache.method.prediction import Prediction
from ertacache.metrics import psnr, ssim

STEPS, COMPUTED = 5, 3
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def embedded():
    found = zoo.load("flux")
    found.arguments["num_inference_steps"] = STEPS
    return found


@pytest.fixture(scope="module")
def run(embedded):
    (call,) = calls_of(embedded.arguments, embedded.held_out_prompts[:1], 1000)
    return full_run(embedded.pipe, call, STEPS)


@pytest.fixture(scope="module")
def loops(embedded):
    arguments = {name: value for name, value in embedded.arguments.items() if name != "num_inference_steps"}
    options = CalibrationOptions(STEPS, call_arguments=arguments)
    with open_session(embedded.pipe, embedded.calibration_prompts[:2], options, RECORDINGS) as session:
        yield session.loops


@pytest.fixture(scope="module")
def fitted(embedded):
    calls = calls_of(embedded.arguments, embedded.calibration_prompts[:2], 0)
    return fitted_tree([full_run(embedded.pipe, call, STEPS) for call in calls], COMPUTED)


@pytest.fixture
def predictions(loops, fitted):
    recordings = weights_by_node(STEPS, all_schedules(STEPS, COMPUTED), partial(loops.surrogate.solved, order=3))
    return {"reuse": REUSE, "recordings": recordings, "fitted": fitted[0]}


@pytest.mark.parametrize("name", METHODS)
def test_the_tree_ends_where_the_pipeline_with_each_policy_does(name, run, predictions):
    schedules = all_schedules(STEPS, COMPUTED)
    assert len(schedules) == 6
    ends = run_tree(run, COMPUTED, predictions[name])
    assert sorted(ends) == schedules
    table = figures(run, ends, {})
    for k, schedule in enumerate(schedules):
        along = predictions_along(schedule, STEPS, predictions[name])
        policy = Policy(STEPS, cached_of(schedule, STEPS), METHODS[name], along)
        one = generate(run.pipe, Variant("", STEPS, policy=policy), started(run.call), keep_latents=True)
        assert tuple(one.report.computed_steps) == schedule
        assert not one.report.notes
        assert apart(ends[schedule][None], one.latents[-1]) < 5e-6
        assert table["psnr"][k] == pytest.approx(psnr(one.pictures, run.pictures), abs=2e-3)
        assert table["ssim"][k] == pytest.approx(ssim(one.pictures, run.pictures), abs=2e-5)
        others = [end for other, end in ends.items() if other != schedule]
        assert min(apart(other, ends[schedule]) for other in others) > 1e-3  # no two are the same run


def test_the_tree_fits_the_weights_that_a_calibration_fits_without_the_prior(loops, fitted, monkeypatch):
    monkeypatch.setattr(loops, "surrogate", replace(loops.surrogate, prior=None))
    for schedule in all_schedules(STEPS, COMPUTED):
        wanted = loops.predict(cached_of(schedule, STEPS), METHODS["fitted"])
        along = predictions_along(schedule, STEPS, fitted[0])
        assert along.keys() == wanted.predictions.keys()
        for step, prediction in wanted.predictions.items():
            assert along[step].history == prediction.history
            assert along[step].factors == pytest.approx(prediction.factors, rel=1e-3, abs=1e-3)
            assert along[step].contrast_factors == pytest.approx(prediction.contrast_factors, rel=1e-3, abs=1e-3)


def test_a_tree_computes_what_runs_share_once(run):
    asked = []

    def counted(step, latents):
        asked.append(len(latents))
        return run.denoised(step, latents)

    with torch.inference_mode():
        walk(counted, run.start, run.lengths, COMPUTED, known(REUSE))
    assert sum(asked) == evaluations(STEPS, COMPUTED) == 10 < 6 * COMPUTED


def test_policies_of_other_weights_are_noticed(run, predictions):
    policy = Policy(STEPS, (1, 3), METHODS["fitted"], predictions_along((0, 2, 4), STEPS, predictions["fitted"]))
    with pytest.raises(ValueError, match="not the pipeline with a policy"):
        figures(run, run_tree(run, COMPUTED, REUSE), {(0, 2, 4): Variant("", STEPS, policy=policy)})


def test_weights_that_depend_on_later_steps_are_noticed():
    def looking_ahead(cached):
        return {cached[0]: Prediction((0,), (float(sum(cached)),))}

    with pytest.raises(ValueError, match="depend on later steps"):
        weights_by_node(4, [(0, 2), (0, 3)], looking_ahead)


PSNR = np.array([[30.0, 31.0, 20.0], [30.0, 28.5, 20.0], [30.0, 29.5, 33.0]])


def test_the_best_shared_schedule_and_how_far_prompts_are_from_their_own_best():
    row = described(PSNR, PSNR / 100, 0)
    assert row["rank"] == 1
    assert row["below_best_shared"] == 0
    assert row["below_own_best"] == pytest.approx((1 + 0 + 3) / 3)
    assert row["within"] == pytest.approx({"0.25": 1 / 3, "0.5": 1 / 3, "1": 2 / 3})
    other = described(PSNR, PSNR / 100, 2)
    assert other["rank"] == 3
    assert other["below_best_shared"] == pytest.approx(30 - 73 / 3)


@pytest.mark.parametrize(("hits", "prompts", "bound"), [(0, 16, 0.0), (16, 16, 0.05 ** (1 / 16)), (9, 10, 0.6058)])
def test_the_bound_of_clopper_and_pearson(hits, prompts, bound):
    assert least_share(hits, prompts) == pytest.approx(bound, abs=1e-4)


def test_few_prompts_choose_worse_than_many_where_prompts_differ():
    noisy = 30 + np.linspace(0, 1, 20) + np.random.default_rng(1).normal(0, 1, (16, 20))
    one, many = chosen_by_few(noisy, 1, 8), chosen_by_few(noisy, 8, 8)
    assert 0 < many["gap"] < one["gap"]
    assert one["0.1"] <= one["0.5"] < 1
    alike = np.tile([30.0, 31.0, 29.0], (4, 1))
    assert chosen_by_few(alike, 1, 3, draws=10) == {"gap": 0, "0.1": 1, "0.5": 1}


def test_whether_two_metrics_choose_the_same():
    same = agreement(PSNR, PSNR / 100)
    assert (same["same"], same["psnr_lost_by_ssim"], same["same_on_share_of_prompts"]) == (1, 0, 1)
    other = agreement(PSNR, -PSNR / 100)
    assert other["same"] == 0
    assert other["psnr_lost_by_ssim"] == pytest.approx(30 - 73 / 3)


@pytest.mark.slow  # it changes with its own benchmark alone, which nothing else imports
def test_the_quick_form_goes_on_from_what_it_had(tmp_path):
    command = [sys.executable, "-m", "benchmarks.golden", "flux", "--quick", "--out", tmp_path]
    command += ["--work", tmp_path / "work"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "golden-flux.json").read_text())
    assert (found["schedules"], found["prompts"]) == (10, 2)
    for result in found["methods"].values():
        rows = result["rows"]
        assert rows["best shared"]["psnr"] == max(row["psnr"] for row in rows.values()) <= result["own_best"]
        assert result["farthest_from_the_pipeline"] < 1e-5
    ours = found["methods"]["fitted"]["rows"]["our search"]
    calibrated = found["our_policy_as_calibrated"]
    assert calibrated["taylor_kept"] or ours["psnr"] == pytest.approx(np.mean(calibrated["psnr"]), abs=0.05)

    kept = {path: path.stat().st_mtime for path in (tmp_path / "work").rglob("*.json")}
    assert subprocess.run(command, cwd=ROOT, capture_output=True, timeout=600).returncode == 0
    assert {path: path.stat().st_mtime for path in kept} == kept
    assert json.loads((tmp_path / "golden-flux.json").read_text()) == found
