"""Instant and learnt policies are evaluated as calls make them, beside as many plain steps."""

from __future__ import annotations

import pytest
import torch

import ertacache
from contract.case import Family
from contract.families import CASES
from contract.state import differences, state_of
from ertacache.errors import ArgumentError, BudgetError
from ertacache.evaluation import comparison
from ertacache.evaluation.comparison import Variant, compare, fewer_steps, started
from ertacache.evaluation.evaluate import evaluate, variants_of
from ertacache.evaluation.uncalibrated import uncalibrated
from ertacache.metrics import psnr
from ertacache.runtime import instant
from ertacache.runtime.instant import Instant
from ertacache.runtime.memo import Memo
from ertacache.runtime.schedulers import sampler_of

STEPS = 8


@pytest.fixture
def call(flux_call):
    """A call of the tiny pipeline as evaluations take it."""
    given = {**flux_call(guided=True), "seed": 3}
    return {name: value for name, value in given.items() if name not in ("num_inference_steps", "generator")}


def test_it_is_the_policy_that_calls_follow(flux, call):
    found = uncalibrated(flux, call, STEPS, 2.0)
    with ertacache.accelerated(flux, speedup=2.0) as run:
        flux(**started(call), num_inference_steps=STEPS)
    assert found.policy.computed_steps == run.computed_steps
    assert found.policy.asked_steps == STEPS
    assert found.policy.origin.noise_levels == pytest.approx(sampler_of(flux.scheduler).noise_levels(flux.scheduler))
    own, plain, same_levels = variants_of({"instant 2x": found})
    assert (own.policy, own.speedup, own.computed_steps) == (None, 2.0, 4)
    assert plain.num_inference_steps == 4
    levels = found.policy.origin.noise_levels
    assert same_levels.noise_levels == (*(levels[step] for step in run.computed_steps), levels[-1])


def test_a_comparison_does_not_time_the_making_of_an_instant_policy(flux, call, monkeypatch):
    order, solved, generate = [], Instant._solved, comparison.generate

    def making(*given):
        order.append("made")
        return solved(*given)

    def generating(pipe, variant, arguments, **options):
        order.append(variant.name)
        return generate(pipe, variant, arguments, **options)

    monkeypatch.setattr(instant, "_MADE", Memo(1))
    monkeypatch.setattr(Instant, "_solved", making)
    monkeypatch.setattr(comparison, "generate", generating)
    ways = [Variant("instant 2x", STEPS, speedup=2.0), fewer_steps(4)]
    compare(flux, Variant("full", STEPS), ways, [call])
    assert order == ["full", "made", "full", "instant 2x", "fewer steps"]


def test_the_pipeline_is_left_as_it_was(flux, call):
    before, drawn = state_of(flux), torch.get_rng_state()
    uncalibrated(flux, call, STEPS, 2.0)
    assert differences(state_of(flux), before) == []
    assert torch.equal(torch.get_rng_state(), drawn)


def test_image_to_image_has_the_steps_that_it_makes():
    family = Family(CASES["StableDiffusionXLImg2Img"])
    given = {k: v for k, v in family.all_arguments().items() if k not in ("num_inference_steps", "generator")}
    found = uncalibrated(family.pipe, {**given, "strength": 0.5, "seed": 0}, 20, 2.0)
    assert (found.policy.first_step, found.policy.num_made_steps, len(found.policy.computed_steps)) == (10, 10, 5)
    assert [variant.num_inference_steps for variant in variants_of({"instant": found})] == [20, 10]
    with pytest.raises(ArgumentError, match="no step at all"):
        uncalibrated(family.pipe, {**given, "strength": 0.02, "seed": 0}, 20, 2.0)


def test_a_folder_must_know_the_setting_and_nothing_is_learnt_from_the_measured_prompts(flux, call, tmp_path):
    with pytest.raises(ArgumentError, match="knows nothing of this setting") as refused:
        uncalibrated(flux, call, STEPS, 2.0, tmp_path)
    assert f"--learn {tmp_path}" in refused.value.cure
    assert "8 steps, true_cfg_scale=" in str(refused.value)
    assert list(tmp_path.glob("learnt-*")) == []
    with ertacache.accelerated(flux, speedup=2.0, learn=tmp_path) as run:
        flux(**started({**call, "seed": 8}), num_inference_steps=STEPS)
        flux(**started({**call, "seed": 9}), num_inference_steps=STEPS)
    (known,) = tmp_path.glob("learnt-*.safetensors")
    before = known.read_bytes()
    found = uncalibrated(flux, call, STEPS, 2.0, tmp_path)
    assert found.policy.computed_steps == run.computed_steps
    rows = evaluate(flux, {"learnt 2x": found}, [call], tmp_path / "work")
    assert rows[0].flops == pytest.approx([0.5])
    assert known.read_bytes() == before


def test_what_is_measured_is_the_instant_policy(flux, call, tmp_path):
    """Beside a calibrated one, and to the bit what `accelerated` makes."""
    found = uncalibrated(flux, call, STEPS, 2.0)
    prompt = {name: value for name, value in call.items() if name != "seed"}
    quick = {"speedup": 2.0, "full_runs": 1, "progress": False}
    policy = ertacache.calibrate(flux, [prompt], num_inference_steps=STEPS, **quick)
    rows = {row.name: row for row in evaluate(flux, {"mine": policy, "instant": found}, [call], tmp_path)}
    assert len(rows) == 6
    shown = {**call, "num_inference_steps": STEPS, "output_type": "pt"}
    full = flux(**started(shown)).images
    with ertacache.accelerated(flux, speedup=2.0):
        fast = flux(**started(shown)).images
    assert rows["instant"].psnr == [psnr(fast.float(), full.float())]
    other = uncalibrated(flux, call, STEPS, 4.0)
    evaluate(flux, {"mine": policy, "instant": other}, [call], tmp_path)
    assert len(list(tmp_path.iterdir())) == 2, "what was measured at 2x was taken for 4x"


@pytest.mark.parametrize("speedup", [0.5, float("nan"), "2"])
def test_a_speedup_out_of_range_is_refused(flux, call, speedup):
    with pytest.raises(BudgetError):
        uncalibrated(flux, call, STEPS, speedup)
