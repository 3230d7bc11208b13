"""A time grid warps the scheduler's own curve; without one the scheduler's own code runs untouched."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

import ertacache
from ertacache.method.timesteps import step_lengths, time_grid
from ertacache.runtime.schedulers import retime

CACHED = (2, 3, 5)
GRID = tuple(time_grid(step_lengths(8, CACHED, {2: 0.3, 3: 0.5, 5: 0.0})))
OPTIONS = {
    "plain": ({"shift": 1.0}, {}),
    "shifted": ({"shift": 3.0}, {}),
    "dynamically shifted": ({"use_dynamic_shifting": True}, {"mu": 0.7}),
    "linearly shifted": ({"use_dynamic_shifting": True, "time_shift_type": "linear"}, {"mu": 0.7}),
    "stretched": ({"shift": 3.0, "shift_terminal": 0.1}, {}),
    "inverted": ({"invert_sigmas": True}, {}),
    "Karras": ({"use_karras_sigmas": True}, {}),
}


def tensors_of(scheduler):
    return {name: v.clone() for name, v in vars(scheduler).items() if isinstance(v, torch.Tensor)}


def call_with(pipe, policy, arguments):
    with ertacache.accelerated(pipe, policy) as run:
        return pipe(**arguments).images, run


@pytest.mark.parametrize("options", OPTIONS)
def test_the_warped_levels_lie_on_the_schedulers_own_curve(options):
    config, arguments = OPTIONS[options]
    scheduler = FlowMatchEulerDiscreteScheduler(**config)
    scheduler.set_timesteps(8, **arguments)
    before = tensors_of(scheduler)
    retime(scheduler, GRID)
    after = tensors_of(scheduler)
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert (after[name].shape, after[name].dtype, after[name].device) == (tensor.shape, tensor.dtype, tensor.device)
    old, new = before["sigmas"], after["sigmas"]
    assert torch.equal(new[[0, -1]], old[[0, -1]])
    torch.testing.assert_close(after["timesteps"], new[:-1] * 1000)
    falls = new.diff() * (1 if config.get("invert_sigmas") else -1)
    assert (falls > 0).all()
    expected = np.interp(np.array(GRID) * 8, np.arange(9), old.double().numpy())
    torch.testing.assert_close(new, torch.from_numpy(expected).float())
    assert (new - old).abs().max() > 0.02


def test_a_float64_scheduler_stays_float64_and_timesteps_keep_their_own_dtype():
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(8)
    scheduler.sigmas, scheduler.timesteps = scheduler.sigmas.double(), scheduler.timesteps.half()
    retime(scheduler, GRID)
    assert (scheduler.sigmas.dtype, scheduler.timesteps.dtype) == (torch.float64, torch.float16)


def test_the_identity_grid_changes_nothing():
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(8)
    before = tensors_of(scheduler)
    retime(scheduler, [i / 8 for i in range(9)])
    for name, tensor in tensors_of(scheduler).items():
        torch.testing.assert_close(tensor, before[name])


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_run_samples_on_the_warped_grid(dynamic, make_flux, flux_call, make_policy):
    pipe = make_flux(use_dynamic_shifting=dynamic)
    pipe(**flux_call())
    own = pipe.scheduler.sigmas.clone()
    seen = []

    def callback(pipe, i, t, kwargs):
        seen.append(float(t))
        return {}

    warped, run = call_with(pipe, make_policy(8, CACHED, time_grid=GRID), flux_call(callback_on_step_end=callback))
    expected = torch.from_numpy(np.interp(np.array(GRID) * 8, np.arange(9), own.double().numpy())).float()
    torch.testing.assert_close(pipe.scheduler.sigmas, expected)
    torch.testing.assert_close(torch.tensor(seen), expected[:-1] * 1000)
    assert run.cached_steps == CACHED
    unwarped, _ = call_with(pipe, make_policy(8, CACHED), flux_call())
    assert (warped - unwarped).norm() > 0.02 * unwarped.norm()


def test_reused_velocity_on_a_warped_grid_is_fewer_steps_on_its_sub_grid(make_flux, flux_call, make_policy):
    pipe = make_flux(shift=1.0)
    warped, run = call_with(pipe, make_policy(8, CACHED, time_grid=GRID), flux_call())
    kept = pipe.scheduler.sigmas[list(run.computed_steps)].tolist()
    plain = pipe(**flux_call(steps=len(kept), sigmas=kept)).images
    torch.testing.assert_close(warped, plain, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("options", OPTIONS)
def test_without_a_time_grid_the_scheduler_is_bit_identical(options, make_toy, make_policy):
    config, arguments = OPTIONS[options]

    class Passing(FlowMatchEulerDiscreteScheduler):
        """Brings what a dynamic shift needs, since the toy pipeline does not."""

        def set_timesteps(self, num_inference_steps):
            super().set_timesteps(num_inference_steps, **arguments)

    alone = Passing(**config)
    alone.set_timesteps(8)
    before, seen = tensors_of(alone), []

    def denoise(pipe, i, sample, t):
        seen.append(tensors_of(pipe.scheduler))
        return pipe.transformer(sample, t)

    pipe = make_toy(denoise=denoise, scheduler=Passing(**config))
    with ertacache.accelerated(pipe, make_policy(8, CACHED)) as run:
        pipe(torch.ones(1, 4, 2))
    assert run.cached_steps == CACHED
    assert len(seen) == 8
    for here in seen:
        assert all(torch.equal(here[name], before[name]) for name in before)


def test_the_next_plain_call_has_the_schedulers_own_grid_again(flux, flux_call, make_policy):
    plain = flux(**flux_call()).images
    own = tensors_of(flux.scheduler)
    call_with(flux, make_policy(8, CACHED, time_grid=GRID), flux_call())
    assert not torch.equal(flux.scheduler.sigmas, own["sigmas"])
    assert torch.equal(flux(**flux_call()).images, plain)
    assert all(torch.equal(v, own[name]) for name, v in tensors_of(flux.scheduler).items())
