"""Instant policies: no calibration, made in the call from its own noise levels and the prior."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxImg2ImgPipeline,
    UniPCMultistepScheduler,
)

import ertacache
from benchmarks.cost.measuring import following
from contract.case import Family
from contract.families import CASES
from ertacache import zoo
from ertacache.errors import ArgumentError, BudgetError, GuardError
from ertacache.evaluation.comparison import Variant, calls_of, compare, fewer_steps
from ertacache.method.named_methods import Method
from ertacache.method.prior import ANGLES, prior_outputs
from ertacache.method.schedule import evenly_spaced
from ertacache.method.worthwhile import FEW_STEPS
from ertacache.policy import Policy
from ertacache.runtime.denoisers import changes_of_expert
from ertacache.runtime.instant import Instant
from ertacache.runtime.sampler_response import response_of
from ertacache.runtime.schedulers import angles_of, sampler_of
from ertacache.runtime.step_budget import StepBudget


@pytest.mark.parametrize(
    ("steps", "speedup", "computed"), [(20, 2.0, 10), (20, 3.0, 6), (5, 1.5, 3), (2, 2.0, 2), (8, 9.0, 2)]
)
def test_the_budget_is_met_at_any_number_of_steps(flux, flux_call, counted, steps, speedup, computed):
    counter = counted(flux.transformer)
    with ertacache.accelerated(flux, speedup=speedup) as run:
        flux(**flux_call(steps=steps))
    assert counter.take() == computed == len(run.computed_steps)
    assert run.computed_steps[0] == 0
    assert "not calibrated" in str(run.report)
    assert "learn=" in str(run.report)
    assert ("leave little to skip" in str(run.report)) == (computed < steps <= FEW_STEPS)


def test_a_setting_is_solved_once_in_the_process(caplog):
    scheduler = FlowMatchEulerDiscreteScheduler()
    levels = tuple(np.linspace(1, 0, 22).tolist())
    with caplog.at_level("INFO", logger="ertacache.runtime.instant"):
        made = [Instant(StepBudget(speedup=2.25)).policy(scheduler, levels, 0, {}) for _ in range(2)]
        others = [
            Instant(StepBudget(speedup=2.5)).policy(scheduler, levels, 0, {}),
            Instant(StepBudget(speedup=2.25)).policy(scheduler, levels, 0, {"guidance_scale": 5.0}),
        ]
    assert made[0] is made[1]
    assert made[0] not in others
    assert caplog.text.count("instant policy for FlowMatchEulerDiscreteScheduler, 21 steps: made in") == 3


def test_with_everything_computed_nothing_changes(flux, flux_call):
    plain = flux(**flux_call(steps=8)).images
    with ertacache.accelerated(flux, speedup=1.0):
        assert torch.equal(flux(**flux_call(steps=8)).images, plain)
    assert torch.equal(flux(**flux_call(steps=8)).images, plain)


def test_a_budget_and_no_more_is_needed(flux, make_policy, tmp_path):
    policy = make_policy(8, (3, 5))
    for given in ({}, {"speedup": 2.0, "num_computed_steps": 4}, {"speedup": 0.5}, {"num_computed_steps": 1}):
        with pytest.raises(BudgetError):
            ertacache.enable(flux, **given)
    for given in ({"speedup": 2.0}, {"num_computed_steps": 4}, {"learn": tmp_path}):
        with pytest.raises(BudgetError, match="has its budget already"):
            ertacache.enable(flux, policy, **given)
    with pytest.raises(ArgumentError, match="audit is for learn"):
        ertacache.enable(flux, speedup=2.0, audit=0.1)
    with pytest.raises(GuardError, match="there was no calibration"):
        ertacache.enable(flux, speedup=2.0, guard="report")
    ertacache.enable(flux, speedup=2.0)
    ertacache.disable(flux)


def test_grids_that_rush_through_the_first_levels_are_computed_there():
    """Half of the computed steps lie in the first third of an unshifted grid; on a shifted one they are even."""
    places = {}
    for shift in (1.0, 3.0):
        scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
        scheduler.set_timesteps(sigmas=np.linspace(1, 1 / 30, 30).tolist())
        levels = sampler_of(scheduler).noise_levels(scheduler)
        policy = Instant(StepBudget(speedup=2.0)).policy(scheduler, levels, 0, {"guidance_scale": 7.0})
        computed = [step for step in range(30) if step not in policy.cached_steps]
        places[shift] = sum(step < 10 for step in computed) / len(computed)
    assert places[1.0] >= 0.45
    assert places[3.0] <= 0.34


def test_image_to_image_begins_within_the_grid(flux, flux_call, counted):
    pipe = FluxImg2ImgPipeline(**{name: part for name, part in flux.components.items()})
    pipe.set_progress_bar_config(disable=True)
    call = flux_call(steps=20) | {"image": torch.rand(1, 3, 64, 32), "strength": 0.5}
    call.pop("latents", None)
    counter = counted(pipe.transformer)
    with ertacache.accelerated(pipe, speedup=2.0) as run:
        pipe(**call)
    made = len(run.computed_steps) + len(run.cached_steps)
    assert counter.take() == len(run.computed_steps) == made // 2
    assert min(run.computed_steps) == 20 - made


@pytest.mark.parametrize("kind", [DDIMScheduler, EulerDiscreteScheduler, UniPCMultistepScheduler])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_angles_fall_from_noise_to_none_whatever_is_predicted(kind, prediction):
    scheduler = kind(prediction_type=prediction)
    scheduler.set_timesteps(20)
    angles = angles_of(scheduler, sampler_of(scheduler).noise_levels(scheduler))
    assert len(angles) == 21
    assert all(a > b for a, b in pairwise(angles))
    assert angles[0] < np.pi / 2 + 1e-6
    assert angles[-1] >= 0
    assert angles[0] > 1.4


def test_the_response_is_the_schedulers_own(flux):
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    scheduler.set_timesteps(8)
    levels = sampler_of(scheduler).noise_levels(scheduler)
    response = response_of(scheduler, 0, levels)
    outputs, latent, twin = (
        torch.randn(8, 1, 1, 1, 5),
        torch.zeros(1, 1, 1, 5),
        UniPCMultistepScheduler.from_config(scheduler.config),
    )
    twin.set_timesteps(8)
    for k, timestep in enumerate(twin.timesteps):
        latent = twin.step(outputs[k], timestep, latent).prev_sample
        expected = torch.tensor(response[k]) @ outputs.reshape(8, 5).double()
        assert torch.allclose(latent.flatten().double(), expected, atol=1e-4)
    assert scheduler.step_index is None  # it was left as it was


def test_the_prior_is_one_matrix_of_dot_products_at_any_guidance():
    angles = np.linspace(1.5, 0.0, 13).tolist()
    for guidance in (1.0, 4.0, 7.5):
        outputs = prior_outputs(angles, guidance)
        gram = outputs.rows @ outputs.rows.T
        assert gram.shape == (12, 12)
        assert np.linalg.eigvalsh(gram).min() > 0
        sizes = np.sqrt(np.diag(gram))
        assert (gram[:-1].diagonal(1) / (sizes[:-1] * sizes[1:])).min() > 0.7  # neighbours are alike
    assert len(ANGLES) == len(set(ANGLES))


def left_out(name):
    """An instant policy at 2x by a prior that has not seen the pipeline."""
    return partial(following, Instant(StepBudget(2.0), without=name))


def test_it_beats_fewer_steps_and_plain_taylor_on_a_pipeline_that_the_prior_has_not_seen():
    embedded = zoo.load("flux")
    calls = calls_of({**embedded.arguments, "num_inference_steps": 30}, embedded.held_out_prompts[:2], 1000)

    taylor = Policy(30, evenly_spaced(30, 15, ()), Method.named("taylor"))
    variants = [
        Variant("instant", 30, around=left_out("flux")),
        fewer_steps(15),
        Variant("taylor", 30, taylor),
    ]
    _, instant, fewer, extrapolated = (
        row.mean_psnr() for row in compare(embedded.pipe, Variant("full", 30), variants, calls)
    )
    assert instant > fewer + 4
    assert instant > extrapolated


@pytest.mark.parametrize("name", ["Wan 2.2", "Wan22Modular"])
def test_where_another_expert_takes_over_an_instant_policy_computes_and_begins_anew(name):
    family = Family(CASES[name])
    with ertacache.accelerated(family.pipe, speedup=2) as run:
        family.run()
    timesteps = family.pipe.scheduler.timesteps.tolist()
    (second,) = changes_of_expert(family.pipe, family.pipe.scheduler)
    boundary = 1000 * family.pipe.config["boundary_ratio"]
    assert timesteps[second] < boundary <= timesteps[second - 1]
    assert second in run.computed_steps
    assert len(run.computed_steps) == 4
    assert not any("was computed although" in note or "generic weights" in note for note in run.report.notes)


def test_a_pipeline_of_one_denoiser_has_no_change_of_experts():
    family = Family(CASES["Wan, UniPC"])
    family.run()
    assert changes_of_expert(family.pipe, family.pipe.scheduler) == ()


def test_it_keeps_far_above_fewer_steps_at_what_wan_is_run_with():
    """Guidance 5 and shift 5: where outputs are extrapolated as if they were sure, errors grow by 15 dB."""
    embedded = zoo.load("wan")
    pipe, steps = embedded.pipe, 25
    pipe.scheduler = type(pipe.scheduler).from_config({**pipe.scheduler.config, "flow_shift": 5.0})
    arguments = {**embedded.arguments, "num_inference_steps": steps, "guidance_scale": 5.0}
    variants = [Variant("instant", steps, around=left_out("wan")), fewer_steps(12)]
    calls = calls_of(arguments, embedded.held_out_prompts[:1], 1000)
    _, instant, fewer = (row.mean_psnr() for row in compare(pipe, Variant("full", steps), variants, calls))
    assert instant > fewer + 18
