"""Budgets of quality and of seconds: what is judged, what is promised, and what is refused."""

from statistics import fmean
from types import SimpleNamespace

import pytest
import torch

import ertacache
from ertacache.calibration import by_quality, by_seconds
from ertacache.calibration.announcement import Workload
from ertacache.calibration.budget import QualityBudget
from ertacache.calibration.by_quality import fewest
from ertacache.calibration.full_runs import open_session
from ertacache.calibration.options import CalibrationOptions
from ertacache.calibration.plan import QUALITY_RUNS
from ertacache.calibration.prompts import calls_for
from ertacache.calibration.quality import Judge, Quality, lower_bound
from ertacache.calibration.timing import REPEATS, Costs, timed
from ertacache.errors import BudgetError, PipelineError
from ertacache.method.named_methods import Method
from ertacache.metrics import psnr
from ertacache.runtime.call_results import pictures_of
from ertacache.student_t import student_t


def test_students_quantiles_are_those_of_the_tables():
    for freedom, expected in ((1, 6.314), (3, 2.353), (7, 1.895), (15, 1.753), (31, 1.696), (400, 1.649)):
        assert student_t(freedom, 0.95) == pytest.approx(expected, abs=1e-3)


def test_the_bound_holds_for_the_mean_of_others_like_these_as_often_as_it_says():
    generator = torch.Generator().manual_seed(0)
    samples = 40 + 5 * torch.randn(2000, 8, generator=generator)
    held = sum(lower_bound(row.tolist()) <= 40 for row in samples) / 2000
    assert held == pytest.approx(0.95, abs=0.015)


def test_the_least_number_that_is_enough_is_found_by_halving():
    for wanted in range(2, 31):
        asked = []

        def enough(n, wanted=wanted, asked=asked):
            asked.append(n)
            return n >= wanted

        assert fewest(2, 30, enough) == wanted
        assert len(asked) <= 5
    assert fewest(2, 30, lambda n: False) == 30


@pytest.fixture(scope="module")
def of_quality(embedded):
    settings = {**embedded.arguments, "num_inference_steps": 10, "progress": False}
    return ertacache.calibrate(embedded.pipe, embedded.calibration_prompts[:12], min_psnr=24, **settings)


def test_a_quality_is_reached_with_confidence_and_no_step_more(embedded, of_quality):
    record = of_quality.calibration
    assert len(record.psnr) == len(record.ssim) == 12
    assert lower_bound(record.psnr) >= 24
    assert 2 <= len(of_quality.computed_steps) < 10
    assert record.full_runs <= QUALITY_RUNS
    assert record.budget == "min_psnr=24"
    assert "95% confidence" in record.notes[0]


def test_what_was_judged_are_the_pictures_that_the_prompts_get(embedded, of_quality):
    """Up to what a prompt's own part in the weights changes."""
    arguments = {**embedded.arguments, "num_inference_steps": 10, "output_type": "pt"}
    found = []
    for k, prompt in enumerate(embedded.calibration_prompts[:12]):
        full = embedded.pipe(prompt, generator=torch.Generator().manual_seed(k), **arguments).images
        with ertacache.accelerated(embedded.pipe, of_quality):
            fast = embedded.pipe(prompt, generator=torch.Generator().manual_seed(k), **arguments).images
        found.append(psnr(fast, full))
    assert fmean(found) == pytest.approx(fmean(of_quality.calibration.psnr), abs=2.5)


def test_a_quality_that_only_the_full_run_has_caches_nothing(embedded, settings, monkeypatch):
    monkeypatch.setattr(by_quality, "fewest", lambda low, high, enough: high)
    prompts = embedded.calibration_prompts[:12]
    policy = ertacache.calibrate(embedded.pipe, prompts, min_ssim=0.9999, full_runs=12, **settings)
    assert policy.cached_steps == ()
    assert "only the full run" in policy.calibration.notes[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"min_psnr": 40}, "too few"),
        ({"min_psnr": 40, "speedup": 2}, "exactly one budget"),
        ({"min_psnr": 100}, "only the full run"),
        ({"min_ssim": 1}, "only the full run"),
        ({"min_ssim": -1}, "positive"),
        ({"seconds": 0}, "positive"),
        ({"min_psnr": 40, "method": "paper"}, "do not work with this method"),
    ],
)
def test_an_impossible_quality_is_refused_before_anything_runs(embedded, settings, prompts, changes, message):
    with pytest.raises(BudgetError, match=message):
        ertacache.calibrate(embedded.pipe, prompts, **settings, **changes)


def test_pictures_are_found_where_pipelines_put_them():
    picture = torch.rand(1, 3, 8, 8)
    assert torch.equal(pictures_of(SimpleNamespace(images=picture)), picture)
    assert torch.equal(pictures_of(SimpleNamespace(frames=picture[None].bfloat16())), picture[None].bfloat16().float())
    with pytest.raises(PipelineError, match="list"):
        pictures_of(SimpleNamespace(images=["not a tensor"]))
    assert Judge([SimpleNamespace(images=picture)])([SimpleNamespace(images=picture)]).psnr == (100.0,)


def test_seconds_become_the_most_steps_that_stay_under_them():
    costs = Costs(num_steps=10, full=10.5, fewest=2, fast=2.5, denoiser_calls=0)
    assert costs.seconds(5) == pytest.approx(5.5)
    assert costs.most_steps(6.0) == 5
    assert costs.most_steps(5.5) == 4  # a plan keeps a margin
    assert costs.most_steps(60.0) == 10
    with pytest.raises(BudgetError, match=r"full call takes 10\.5 s"):
        costs.most_steps(1.0)


@pytest.mark.parametrize("slow", [0, 1])
def test_a_budget_of_seconds_is_timed_and_mended(embedded, settings, prompts, monkeypatch, slow):
    """A machine on which a computed step takes one second and all else nothing; at first the policy takes one more."""
    asked = []

    def time_call(pipe, call, policy):
        assert call.arguments().get("output_type") is None  # as the user will call it, decoding included
        asked.append(len(policy.computed_steps))
        late = slow if len(set(asked)) == 1 else 0
        return len(policy.computed_steps) + late, 2 * len(policy.computed_steps)

    monkeypatch.setattr(by_seconds, "timed", lambda pipe, call, setting: Costs(10, 10.0, 2, 2.0, 24))
    monkeypatch.setattr(by_seconds, "time_call", time_call)
    policy = ertacache.calibrate(embedded.pipe, prompts, seconds=6.5, method="taylor", **settings)
    assert len(policy.computed_steps) == 6 - slow
    assert policy.calibration.seconds == 6 - slow
    assert policy.calibration.budget == "seconds=6.5"
    # full runs, timing, the closed loop at 6 (and at 5), and three timed calls of each
    loops = 2 * 2 * sum(dict.fromkeys(asked))
    assert policy.calibration.denoiser_calls == 2 * 10 * 2 + 24 + loops + sum(2 * n for n in asked)


def test_seconds_that_the_full_call_keeps_to_cache_nothing_and_too_few_are_refused(
    embedded, settings, prompts, monkeypatch
):
    monkeypatch.setattr(by_seconds, "timed", lambda pipe, call, setting: Costs(10, 10.0, 2, 2.0, 24))
    policy = ertacache.calibrate(embedded.pipe, prompts, seconds=11, **settings)
    assert policy.cached_steps == ()
    assert policy.calibration.seconds == 10.0
    monkeypatch.setattr(by_seconds, "time_call", lambda pipe, call, policy: (60.0, 0))
    with pytest.raises(BudgetError, match="a call takes 60 s"):
        ertacache.calibrate(embedded.pipe, prompts, seconds=3, method="taylor", **settings)


def test_a_call_is_timed_for_real(embedded, settings, prompts):
    arguments = {k: v for k, v in settings.items() if k not in ("num_inference_steps", "progress")}
    options = CalibrationOptions(10, call_arguments=arguments)
    with open_session(embedded.pipe, prompts[:1], options, Workload()) as session:
        costs = timed(embedded.pipe, session.loops.calls[0].as_given(), session.loops.setting)
    assert costs.fewest == 2
    assert costs.denoiser_calls == REPEATS * 2 * (10 + 2)
    assert 0 < costs.fast < costs.full


def test_calls_are_given_out_as_the_user_gave_them_and_for_pictures(embedded):
    (call,) = calls_for(embedded.pipe, ["a red star"], {"num_inference_steps": 4}, 0)
    assert call.arguments()["output_type"] == "latent"
    assert "output_type" not in call.as_given().arguments()
    assert call.decoded().arguments()["output_type"] == "pt"


def test_the_sound_of_clips_is_judged_beside_their_pictures():
    clip, sound = torch.rand(1, 3, 3, 16, 16), torch.rand(1, 2, 800)
    judge = Judge([SimpleNamespace(frames=clip, audio=sound)] * 2)
    quality = judge([SimpleNamespace(frames=clip, audio=sound * factor) for factor in (1.1, 1.01)])
    assert quality.sound == pytest.approx((20.0, 40.0), abs=0.01)
    assert Judge([SimpleNamespace(frames=clip)])([SimpleNamespace(frames=clip)]).sound == ()


def test_a_budget_of_sound_needs_sound():
    fit = SimpleNamespace(quality=Quality((50.0,), (0.9,)))
    session = SimpleNamespace(loops=SimpleNamespace(full_run=1, surrogate=None))
    budget = QualityBudget(asked="min_sound=20", measure="sound", least=20.0)
    with pytest.raises(BudgetError, match="returns no sound"):
        by_quality._Trials(session, Method.named("taylor"), budget).values(fit)
