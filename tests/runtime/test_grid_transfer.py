"""A calibrated policy at another number of steps: transferred and said so, or refused with the command."""

from __future__ import annotations

import copy
import dataclasses
import gc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

import ertacache
from ertacache import zoo
from ertacache.errors import PolicyFileError, PolicyMismatchError
from ertacache.evaluation.comparison import Variant, calls_of, compare, fewer_steps
from ertacache.method.gram_weights import Outputs
from ertacache.method.grid_mapping import coarser
from ertacache.method.named_methods import Method
from ertacache.policy import Policy
from ertacache.policy.drift_envelope import Envelope
from ertacache.runtime.call_setting import CallSetting
from ertacache.runtime.grid_transfer import FARTHER, Transfer, carries, on_grid, refusal, response
from ertacache.runtime.mismatch import mismatch
from ertacache.runtime.policy_for_call import Resolved, at_near_guidance
from ertacache.runtime.transfer_memo import KEPT, PolicyMemo

STEPS = 12


@pytest.fixture
def calibrated(flux, flux_call):
    """A policy for guided calls of ``flux`` at 12 steps, 6 of them computed."""
    call = {name: value for name, value in flux_call(guided=True).items() if name != "num_inference_steps"}
    return ertacache.calibrate(flux, [call], num_inference_steps=STEPS, num_computed_steps=6, progress=False)


def levels_of(flux, flux_call, steps):
    flux(**flux_call(steps=steps, guided=True))
    return [float(sigma) for sigma in flux.scheduler.sigmas]


def test_calibration_keeps_the_gram_matrix_of_outputs_and_contrasts(calibrated):
    assert calibrated.gram.shape == (2 * STEPS, 2 * STEPS)
    assert calibrated.gram.dtype == torch.float64
    assert torch.linalg.eigvalsh(calibrated.gram).min() > -1e-9 * calibrated.gram.trace()


@pytest.mark.parametrize("method", ["taylor", "uniform", "paper"])
def test_other_methods_keep_none(method, flux, flux_call):
    call = {name: value for name, value in flux_call().items() if name != "num_inference_steps"}
    policy = ertacache.calibrate(
        flux, [call], num_inference_steps=8, num_computed_steps=4, method=method, progress=False
    )
    assert policy.gram is None
    with ertacache.accelerated(flux, policy), pytest.raises(PolicyMismatchError, match="cannot be transferred"):
        flux(**flux_call(steps=10))


def test_on_its_own_grid_a_policy_is_what_it_is(calibrated, flux, flux_call):
    levels = levels_of(flux, flux_call, STEPS)
    own = Resolved(calibrated)
    assert own.on_grid(flux.scheduler, levels) is own
    assert own.as_calibrated
    assert own.notes == ()


def test_a_transfer_to_its_own_grid_gives_the_policy_back(calibrated, flux):
    same = on_grid(calibrated, flux.scheduler, calibrated.origin.noise_levels).policy
    assert same.cached_steps == calibrated.cached_steps
    assert sorted(same.predictions) == sorted(calibrated.predictions)
    for step, prediction in calibrated.predictions.items():
        assert same.predictions[step].history == prediction.history
        assert same.predictions[step].factors == pytest.approx(prediction.factors, rel=1e-6, abs=1e-6)
        assert same.predictions[step].contrast_factors == pytest.approx(prediction.contrast_factors, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize(
    "scheduler",
    [
        FlowMatchEulerDiscreteScheduler(shift=3.0),
        UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
        UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, solver_order=3),
    ],
)
def test_the_response_says_where_the_scheduler_goes_on_any_outputs(scheduler):
    scheduler.set_timesteps(14)
    levels = [float(sigma) for sigma in scheduler.sigmas]
    scheduler.set_timesteps(10)
    before = copy.deepcopy(vars(scheduler))
    found = response(scheduler, levels)
    for name, value in vars(scheduler).items():
        same = torch.equal(value, before[name]) if isinstance(value, torch.Tensor) else value == before[name]
        assert same, name
    assert found.shape == (14, 14)
    assert np.array_equal(found, np.tril(found))
    assert len(set(np.diag(found))) > 7
    scheduler.set_timesteps(14)
    outputs = torch.randn(14, 1, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    latent = torch.zeros(1, 5, dtype=torch.float64)
    for i, timestep in enumerate(scheduler.timesteps):
        latent = scheduler.step(outputs[i], timestep, latent, return_dict=False)[0]
        assert latent[0].tolist() == pytest.approx((found[i] @ outputs[:, 0].numpy()).tolist(), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(("steps", "computed"), [(8, 4), (9, 4), (16, 8), (20, 10)])
def test_on_another_grid_the_step_ratio_is_kept_and_the_report_says_so(steps, computed, calibrated, flux, flux_call):
    with ertacache.accelerated(flux, calibrated) as run:
        out = flux(**flux_call(steps=steps, guided=True)).images
    assert out.isfinite().all()
    assert len(run.computed_steps) == computed
    assert len(run.computed_steps) + len(run.cached_steps) == steps
    assert run.report.notes == [
        f"the policy was calibrated on other noise levels (12 steps) and was transferred to these {steps}: {computed} "
        "of them are computed, with weights solved anew; a policy calibrated on them may be closer to the full run"
    ]


def test_another_shift_is_refused_unless_it_moves_no_level_by_half_a_step(calibrated, flux, flux_call):
    flux.scheduler = FlowMatchEulerDiscreteScheduler(shift=2.0)
    with ertacache.accelerated(flux, calibrated), pytest.raises(PolicyMismatchError, match="the calibrated curve"):
        flux(**flux_call(steps=STEPS, guided=True))
    flux.scheduler = FlowMatchEulerDiscreteScheduler(shift=2.9)
    with ertacache.accelerated(flux, calibrated) as run:
        flux(**flux_call(steps=STEPS, guided=True))
    assert len(run.computed_steps) == 6
    assert "transferred to these" in str(run.report)


@pytest.mark.parametrize("steps", [6, 24])
def test_too_far_is_refused_with_the_reason_and_the_command(steps, calibrated, flux, flux_call):
    with ertacache.accelerated(flux, calibrated), pytest.raises(PolicyMismatchError) as caught:
        flux(**flux_call(steps=steps, guided=True))
    message = str(caught.value)
    assert f"num_inference_steps was 12 when it was calibrated, and is {steps} now; it cannot be transferred" in message
    assert "from 0.6 to 1.7 times the calibrated number of steps" in message
    assert f"ertacache calibrate MODEL --prompts FILE --steps {steps} --speedup 2" in message
    assert "--set true_cfg_scale=4" in message


def test_a_scheduler_that_was_not_measured_is_refused(calibrated, flux, flux_call):
    levels = levels_of(flux, flux_call, 16)
    other = dataclasses.replace(calibrated, origin=dataclasses.replace(calibrated.origin, scheduler_class="Other"))
    with pytest.raises(PolicyMismatchError, match="transfers with Other on such noise levels were not tested"):
        Resolved(other).on_grid(flux.scheduler, levels)
    diffusion = dataclasses.replace(
        calibrated.origin, noise_levels=tuple(14 * s for s in calibrated.origin.noise_levels)
    )
    with pytest.raises(PolicyMismatchError, match="on such noise levels were not tested"):
        Resolved(dataclasses.replace(calibrated, origin=diffusion)).on_grid(flux.scheduler, levels)


def test_the_command_for_other_guidance_names_it(calibrated, flux, flux_call):
    with ertacache.accelerated(flux, calibrated), pytest.raises(PolicyMismatchError) as caught:
        flux(**flux_call(steps=STEPS, guided=True, true_cfg_scale=7.0))
    assert "--steps 12 --speedup 2 --set guidance_scale=3.5 --set true_cfg_scale=7" in str(caught.value)
    assert "num_inference_steps=12, speedup=2, guidance_scale=3.5, true_cfg_scale=7)" in str(caught.value)


def test_levels_outside_of_the_calibrated_ones_are_refused(calibrated, flux, flux_call):
    levels = levels_of(flux, flux_call, STEPS)
    below = [*levels[:-2], levels[-2] / 100, 0.0]
    with pytest.raises(PolicyMismatchError, match="outside of the calibrated ones"):
        Resolved(calibrated).on_grid(flux.scheduler, below)
    still = [levels[0], *levels[:-2], 0.0]
    with pytest.raises(PolicyMismatchError, match="do not decrease from step to step"):
        Resolved(calibrated).on_grid(flux.scheduler, still)


def test_kept_taylor_weights_are_refused_and_nothing_else_passes_for_them(calibrated, flux, flux_call):
    levels = levels_of(flux, flux_call, 16)
    taylors = dataclasses.replace(calibrated.calibration, taylor_kept=True)
    with pytest.raises(PolicyMismatchError, match="kept plain extrapolation"):
        Resolved(dataclasses.replace(calibrated, calibration=taylors)).on_grid(flux.scheduler, levels)
    only = {step: p for step, p in calibrated.predictions.items() if step in calibrated.cached_steps}
    assert refusal(dataclasses.replace(calibrated, predictions=only), levels) is None  # none of a computed step


@pytest.mark.parametrize("level", ["velocity", "hidden"])
@pytest.mark.parametrize("schedule", ["uniform", "offline", "search"])
def test_only_what_was_measured_is_transferred(schedule, level, calibrated, flux, flux_call):
    levels, method = levels_of(flux, flux_call, 16), Method(schedule=schedule, level=level, predictor="aligned")
    measured = (schedule, level) == ("search", "velocity")
    policy = dataclasses.replace(calibrated, method=method)  # with a Gram matrix that it would not have been given
    assert carries(policy) == measured
    assert (at_near_guidance(policy, {**policy.origin.guidance, "true_cfg_scale": 3.0}) is not None) == measured
    if measured:
        assert Resolved(policy).on_grid(flux.scheduler, levels).policy.num_inference_steps == 16
    else:
        with pytest.raises(PolicyMismatchError, match="only policies of method 'aligned'"):
            Resolved(policy).on_grid(flux.scheduler, levels)


def test_evenly_spaced_steps_are_calibrated_without_what_a_transfer_needs(flux, flux_call):
    call = {name: value for name, value in flux_call().items() if name != "num_inference_steps"}
    method = Method(predictor="aligned")
    policy = ertacache.calibrate(
        flux, [call], num_inference_steps=8, num_computed_steps=4, method=method, progress=False
    )
    assert policy.gram is None
    with (
        ertacache.accelerated(flux, policy),
        pytest.raises(PolicyMismatchError, match="only policies of method 'aligned'"),
    ):
        flux(**flux_call(steps=10))


def test_a_transfer_that_is_predicted_to_be_worse_than_plain_steps_is_refused(calibrated, flux, flux_call):
    """Corrections that are turned around make errors grow, on other grids more than on the calibrated one."""
    levels = levels_of(flux, flux_call, 16)
    wild = {
        step: p if step in calibrated.cached_steps else dataclasses.replace(p, factors=tuple(-c for c in p.factors))
        for step, p in calibrated.predictions.items()
    }
    policy = dataclasses.replace(calibrated, predictions=wild)
    good, bad = on_grid(calibrated, flux.scheduler, levels), on_grid(policy, flux.scheduler, levels)
    assert good.refusal is None
    assert bad.missed > FARTHER * max(bad.missed_by_plain, bad.missed_there)
    with ertacache.accelerated(flux, policy), pytest.raises(PolicyMismatchError) as caught:
        flux(**flux_call(steps=16, guided=True))
    assert (
        f"with 8 of 16 steps computed its predicted error is {bad.missed:.2g} (0 is the full run), against "
        f"{bad.missed_by_plain:.2g} of simply running 8 steps without a cache"
    ) in str(caught.value)
    assert "num_inference_steps=16" in caught.value.cure


@pytest.mark.parametrize(
    ("missed", "by_plain", "there", "made"),
    [(0.14, 0.1, 0.01, True), (0.16, 0.1, 0.01, False), (0.16, 0.1, 0.11, True), (float("nan"), 0.1, 0.1, False)],
)
def test_a_transfer_may_miss_half_as_much_again_as_plain_steps_or_as_the_calibrated_policy(
    missed, by_plain, there, made, calibrated
):
    assert (Transfer(calibrated, missed, by_plain, there).refusal is None) == made


def test_plain_steps_are_those_that_the_pipeline_makes_of_so_many(calibrated, flux, flux_call):
    levels, fewer = (levels_of(flux, flux_call, steps) for steps in (16, 8))
    assert coarser(levels, 8) == pytest.approx(fewer, abs=1e-5)


def test_a_policy_is_solved_once_for_a_grid_and_a_scheduler(calibrated, flux, flux_call, monkeypatch):
    solved = []
    original = Outputs.solved
    monkeypatch.setattr(Outputs, "solved", lambda self, *rest: solved.append(self.levels) or original(self, *rest))

    def solves(policy, steps):
        before = len(solved)
        flux.scheduler = type(flux.scheduler).from_config(flux.scheduler.config)  # another object, configured alike
        with ertacache.accelerated(flux, policy) as run:
            out = flux(**flux_call(steps=steps, guided=True)).images
        assert "solved anew" in str(run.report)
        return len(solved) - before, out

    (first, picture), (again, same) = solves(calibrated, 16), solves(calibrated, 16)
    assert (first, again) == (2, 0)  # on both grids, once
    assert torch.equal(picture, same)
    assert solves(calibrated, 14)[0] == 2
    assert solves(calibrated, 16)[0] == 0
    assert solves(dataclasses.replace(calibrated), 16)[0] == 2
    flux.scheduler = FlowMatchEulerDiscreteScheduler.from_config(flux.scheduler.config, shift=2.9)
    assert solves(calibrated, 16)[0] == 2


def test_near_guidance_is_taken_once(calibrated):
    near = {**calibrated.origin.guidance, "true_cfg_scale": 3.0}
    assert at_near_guidance(calibrated, near) is at_near_guidance(calibrated, dict(near))
    assert at_near_guidance(calibrated, {**near, "true_cfg_scale": 3.5}).origin.guidance["true_cfg_scale"] == 3.5


def test_what_was_made_is_kept_for_a_few_settings_while_its_policy_lives(calibrated):
    kept, policy, made = PolicyMemo(), dataclasses.replace(calibrated), []
    for key in [*range(KEPT), 0, KEPT, 0, 1]:
        assert kept.get(policy, key, lambda key=key: made.append(key) or key) == key
    assert made == [*range(KEPT), KEPT, 1]  # 1 was the oldest when there was one too many
    assert len(kept) == KEPT
    del policy
    gc.collect()
    assert len(kept) == 0


def test_threads_that_ask_at_once_get_what_belongs_to_their_setting(calibrated):
    kept, policies = PolicyMemo(), [dataclasses.replace(calibrated) for _ in range(3)]

    def ask(k):
        policy, key = policies[k % 3], k % (KEPT + 3)
        return kept.get(policy, key, lambda: (id(policy), key)) == (id(policy), key)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(2000)))
    assert len(kept) == 3 * KEPT


def test_a_transfer_leaves_nothing_behind(calibrated, flux, flux_call):
    def out(steps):
        return flux(**flux_call(steps=steps, guided=True)).images

    before = calibrated.fingerprint
    plain = out(16)
    with ertacache.accelerated(flux, calibrated) as run:
        first = out(STEPS)
        moved = out(16)
        assert torch.equal(out(STEPS), first)
        assert run.report.notes == []
        assert torch.equal(out(16), moved)
    assert not torch.equal(moved, plain)
    assert calibrated.fingerprint == before
    assert torch.equal(out(16), plain)


def test_a_policy_from_a_file_is_transferred_alike(tmp_path, calibrated, flux, flux_call):
    calibrated.save(tmp_path / "policy.safetensors")
    loaded = Policy.load(tmp_path / "policy.safetensors")
    assert torch.equal(loaded.gram, calibrated.gram)
    assert loaded.fingerprint == calibrated.fingerprint
    levels = levels_of(flux, flux_call, 16)
    moved = [on_grid(policy, flux.scheduler, levels).policy.predictions for policy in (loaded, calibrated)]
    assert moved[0] == moved[1]


@pytest.mark.parametrize("gram", [torch.eye(STEPS - 1), torch.full((STEPS, STEPS), float("nan"))])
def test_a_gram_matrix_that_does_not_fit_is_no_policy(gram, calibrated):
    with pytest.raises(PolicyFileError, match="Gram matrix"):
        dataclasses.replace(calibrated, gram=gram.double())


def test_other_guidance_is_taken_on_demand_only(calibrated, flux, flux_call):
    policy = ertacache.transferred(calibrated, true_cfg_scale=7)
    with ertacache.accelerated(flux, policy) as run:
        flux(**flux_call(steps=STEPS, guided=True, true_cfg_scale=7.0))
        assert run.cached_steps == calibrated.cached_steps
        with pytest.raises(PolicyMismatchError, match="true_cfg_scale was 7"):
            flux(**flux_call(steps=STEPS, guided=True))
    assert policy.calibration.notes[-1] == ("used at other guidance than it was calibrated at: true_cfg_scale 4 -> 7")
    with pytest.raises(PolicyMismatchError, match="no such guidance argument"):
        ertacache.transferred(calibrated, cfg=7)


def test_near_guidance_is_taken_unasked_and_the_report_says_so(calibrated, flux, flux_call):
    def out(policy, scale, **more):
        with ertacache.accelerated(flux, policy) as run:
            return flux(**flux_call(steps=STEPS, guided=True, true_cfg_scale=scale, **more)).images, run.report

    asked, _ = out(ertacache.transferred(calibrated, true_cfg_scale=3), 3.0)
    unasked, report = out(calibrated, 3.0)
    assert torch.equal(asked, unasked)
    assert report.notes == ["used at other guidance than it was calibrated at: true_cfg_scale 4 -> 3"]
    assert out(calibrated, 4.0)[1].notes == []
    for scale, more in ((2.5, {}), (4.5, {}), (3.0, {"guidance_scale": 3.0}), (4.0, {"guidance_scale": 3.0})):
        with pytest.raises(PolicyMismatchError, match="scale was"):
            out(calibrated, scale, **more)


def test_guidance_is_near_only_where_that_was_measured(calibrated):
    def moved(scheduler="FlowMatchEulerDiscreteScheduler", gram=calibrated.gram, now=3.0, **known):
        guidance = {"guidance_scale": 4.0, **known}
        origin = dataclasses.replace(calibrated.origin, guidance=guidance, scheduler_class=scheduler)
        policy = dataclasses.replace(calibrated, origin=origin, gram=gram)
        return at_near_guidance(policy, {**guidance, "guidance_scale": now}) is not None

    assert moved()
    assert moved("UniPCMultistepScheduler")
    assert not moved("DDIMScheduler")
    assert not moved(gram=None)
    assert not moved(guidance_rescale=0.7)
    assert not moved(use_dynamic_cfg=1.0)
    assert not moved(guidance_scale_2=3.0)
    assert not moved(now=2.9)
    origin = dataclasses.replace(calibrated.origin, guidance={"guidance_scale": 1.3})
    barely = dataclasses.replace(calibrated, origin=origin)
    assert at_near_guidance(barely, {"guidance_scale": 1.0}) is None  # which switches guidance off


def test_what_a_transfer_did_not_measure_it_does_not_state(calibrated):
    record = dataclasses.replace(calibrated.calibration, psnr=(40.0,), ssim=(0.9,), seconds=1.0)
    moved = ertacache.transferred(dataclasses.replace(calibrated, calibration=record), true_cfg_scale=7).calibration
    assert (moved.error, moved.step_errors, moved.psnr, moved.ssim, moved.seconds) == (None, (), (), (), None)


def test_another_size_is_followed_and_the_report_says_so(calibrated, flux, flux_call):
    with ertacache.accelerated(flux, calibrated) as run:
        for height, notes in ((32, 1), (16, 0)):
            flux(**flux_call(steps=STEPS, guided=True, height=height))
            assert run.cached_steps == calibrated.cached_steps
            assert len(run.report.notes) == notes
        flux(**flux_call(steps=STEPS, guided=True, height=32))
    assert "of shape (16, 16), and these have shape (32, 16); it is followed unchanged" in run.report.notes[0]


def test_a_guard_compares_no_drifts_of_other_guidance(calibrated, flux, flux_call):
    steps = calibrated.computed_steps[1:]
    envelope = Envelope(steps, steps[0], (-99.0,) * len(steps), (1.0,) * len(steps), limit=0.0)
    watched = dataclasses.replace(calibrated, envelope=envelope)
    with ertacache.accelerated(flux, watched, guard="compute") as run:
        flux(**flux_call(steps=STEPS, guided=True, true_cfg_scale=3.0))
    assert run.cached_steps == calibrated.cached_steps
    assert "guard: no verdict" in str(run.report)


def test_at_other_guidance_the_branches_are_predicted_as_they_were(calibrated):
    moved = ertacache.transferred(calibrated, true_cfg_scale=7)
    assert moved.cached_steps == calibrated.cached_steps
    contrasts = np.random.default_rng(0).normal(size=STEPS)
    for step, was in calibrated.predictions.items():
        now, at = moved.predictions[step], list(was.history)
        assert (now.history, now.factors) == (was.history, was.factors)
        # What is added per unit of guidance, where an output is u + g d: the same share of d at any g.
        share = [np.dot(p.contrast_factors, contrasts[at]) / g for p, g in ((was, 4.0), (now, 7.0))]
        assert share[0] == pytest.approx(share[1])
    assert any(any(p.contrast_factors) for p in moved.predictions.values())
    assert moved.gram is moved.envelope is None


def test_a_second_scale_follows_the_first_where_they_were_one(calibrated):
    for second, expected, ratio in ((4.0, 6.0, 1.5), (3.0, 3.0, 1.0)):
        origin = dataclasses.replace(calibrated.origin, guidance={"guidance_scale": 4.0, "guidance_scale_2": second})
        moved = ertacache.transferred(dataclasses.replace(calibrated, origin=origin), guidance_scale=6)
        assert moved.origin.guidance == {"guidance_scale": 6.0, "guidance_scale_2": expected}
        factors, were = (policy.predictions[STEPS - 1].contrast_factors for policy in (moved, calibrated))
        assert factors == pytest.approx([ratio * factor for factor in were])


@pytest.fixture
def by_size(make_flux):
    """FLUX with noise levels that are shifted by size."""
    return make_flux(use_dynamic_shifting=True)


def of_size(pipe, call, **size):
    """A policy that is calibrated at a size, or at the pipeline's own."""
    call = {k: v for k, v in call.items() if k not in ("num_inference_steps", "height", "width")} | size
    return ertacache.calibrate(pipe, [call], num_inference_steps=8, num_computed_steps=5, method=EVEN, progress=False)


EVEN = Method(predictor="aligned")
SMALL, LARGE = {"height": 16, "width": 16}, {"height": 32, "width": 32}


@pytest.mark.parametrize(
    ("was", "now", "steps", "told", "calibrated", "cure"),
    [
        (SMALL, LARGE, 8, "height=16, width=16 and is height=32, width=32,", "height=16, width=16", LARGE),
        (SMALL, LARGE, 9, "", "height=16, width=16", LARGE),
        (SMALL, {**SMALL, "width": 64}, 8, "width=16 and is width=64,", "width=16", {**SMALL, "width": 64}),
        (LARGE, {}, 8, "height=32, width=32 and is the pipeline's own height and width,", "height=32, width=32", {}),
        ({}, LARGE, 8, "the pipeline's own height and width and is", "the pipeline's own height and width", LARGE),
    ],
)
def test_another_size_is_named_where_the_scheduler_shifts_by_it(
    was, now, steps, told, calibrated, cure, by_size, flux_call
):
    arguments = {k: v for k, v in flux_call(steps=steps).items() if k not in ("height", "width")}
    policy = of_size(by_size, arguments, **(was or SMALL))  # the pipeline's own takes long
    policy = dataclasses.replace(policy, origin=dataclasses.replace(policy.origin, sizes=was))
    with ertacache.accelerated(by_size, policy), pytest.raises(PolicyMismatchError) as caught:
        by_size(**arguments, **now)
    message, cured = str(caught.value), caught.value.cure
    named = f"noise levels (the size, which was {told}" if told else "num_inference_steps was 8"
    assert named in message
    steps_too = ["num_inference_steps=8"] * (steps != 8)
    if was:
        assert cured.startswith(f"Pass {', '.join([*steps_too, calibrated])} to the call, or calibrate")
    else:
        assert cured.startswith("Leave height and width out of the call, or calibrate")
    assert "".join(f", {name}={value}" for name, value in cure.items()) + ")" in cured
    assert "".join(f" --set {name}={value}" for name, value in cure.items()) in cured
    assert ("height=" in cured.split("ertacache.calibrate")[1]) == bool(cure)


def test_a_size_that_is_the_same_is_not_named(by_size, flux_call):
    arguments = flux_call(**SMALL)
    policy = of_size(by_size, arguments, **SMALL)
    with ertacache.accelerated(by_size, policy), pytest.raises(PolicyMismatchError) as caught:
        by_size(**arguments, sigmas=[1 - i / 9 for i in range(8)])
    assert "(the scheduler's shift, which follows the size, or sigmas of your own)" in str(caught.value)
    assert "height=" not in str(caught.value)


def test_a_size_by_which_nothing_is_shifted_is_named_last(flux, flux_call):
    arguments = flux_call(**SMALL)
    policy = of_size(flux, arguments, **SMALL)
    flux.scheduler = FlowMatchEulerDiscreteScheduler(shift=2.0)
    with ertacache.accelerated(flux, policy), pytest.raises(PolicyMismatchError) as caught:
        flux(**{**arguments, **LARGE})
    assert "(the scheduler's shift, sigmas of your own, or the size, which was height=16" in str(caught.value)


def test_another_curve_is_blamed_on_the_size_where_that_differs(calibrated, flux, flux_call):
    given = CallSetting(None, {**calibrated.origin.sizes, **LARGE})
    flux.scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    flux.scheduler.set_timesteps(sigmas=[1 - i / 16 for i in range(16)], mu=2.0)
    levels = [float(sigma) for sigma in flux.scheduler.sigmas]
    with pytest.raises(PolicyMismatchError, match=r"possible cause: the size, which was .* and is height=32"):
        Resolved(calibrated, setting=given).on_grid(flux.scheduler, levels)
    with pytest.raises(PolicyMismatchError, match=r"possible cause: the scheduler's shift, which follows"):
        Resolved(calibrated, setting=CallSetting(None, calibrated.origin.sizes)).on_grid(flux.scheduler, levels)


def test_frames_are_named_and_no_argument_is_advised_that_the_call_does_not_take(calibrated):
    origin = dataclasses.replace(calibrated.origin, sizes={"height": 32, "width": 48, "num_frames": 9})
    policy = dataclasses.replace(calibrated, origin=origin)
    clip = CallSetting(
        frozenset({"height", "width", "num_frames", "guidance_scale"}), {**origin.sizes, "num_frames": 17}
    )
    cure = mismatch(policy, "noise levels", "1", "2", call=clip).cure
    assert "Pass num_frames=9 to the call, or" in cure
    assert "speedup=2, guidance_scale=3.5, height=32, width=48, num_frames=17)" in cure
    assert "true_cfg_scale" not in cure
    assert "true_cfg_scale=4" in mismatch(policy, "noise levels", "1", "2", call=CallSetting(None)).cure


def test_at_another_number_of_steps_it_is_nearer_to_the_full_run_than_fewer_steps():
    embedded = zoo.load("flux")
    arguments = {**embedded.arguments, "num_inference_steps": STEPS}
    policy = ertacache.calibrate(
        embedded.pipe, embedded.calibration_prompts[:2], num_computed_steps=6, progress=False, **arguments
    )
    calls = calls_of(arguments, embedded.held_out_prompts[:2], 1000)
    variants = [Variant("transferred", 18, policy), fewer_steps(9)]
    _, moved, fewer = compare(embedded.pipe, Variant("full", 18), variants, calls)
    assert moved.computed_steps == fewer.computed_steps == 9
    assert moved.mean_psnr() > fewer.mean_psnr() + 1


def test_the_advised_commands_name_a_second_scale_only_where_it_is_one_of_its_own(calibrated):
    for second, shown in ((4.0, False), (3.0, True)):
        guidance = {"guidance_scale": 4.0, "guidance_scale_2": second}
        policy = dataclasses.replace(calibrated, origin=dataclasses.replace(calibrated.origin, guidance=guidance))
        for differing in ({}, {"guidance_scale": 5.0}):
            error = mismatch(policy, "num_inference_steps", "10", "20", steps=20, guidance=differing)
            assert ("guidance_scale_2=3" in str(error)) == shown
            assert "guidance_scale_2=4" not in str(error)
    both = {"guidance_scale": 5.0, "guidance_scale_2": 5.0}
    assert "guidance_scale_2" not in str(mismatch(calibrated_with(calibrated, 4.0), "x", "1", "2", guidance=both))


def calibrated_with(policy, scale):
    guidance = {"guidance_scale": scale, "guidance_scale_2": scale}
    return dataclasses.replace(policy, origin=dataclasses.replace(policy.origin, guidance=guidance))
