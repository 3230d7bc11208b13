"""The contract that every served scheduler keeps, each on a model whose trajectory is known in closed form."""

from __future__ import annotations

import inspect
import itertools
import math

import pytest
import torch
from diffusers import (
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    DDIMScheduler,
    DDPMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)

from ertacache.errors import PipelineError
from ertacache.opensora import OpenSoraRectifiedFlowScheduler
from ertacache.runtime.driver import Driver
from ertacache.runtime.run import Run
from ertacache.runtime.scheduler_step import is_affine, output_coefficient, plain_step
from ertacache.runtime.schedulers import retime, sampler_of

STEPS = 10
COGVIDEOX = {
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "snr_shift_scale": 1.0,
    "timestep_spacing": "trailing",
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "set_alpha_to_one": True,
}
WAN = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
CURVE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
TABLE = {**CURVE, "timestep_spacing": "trailing"}
SCHEDULERS = {
    "flow-match Euler": lambda: FlowMatchEulerDiscreteScheduler(shift=3.0),
    "UniPC 2": lambda: UniPCMultistepScheduler(**WAN),
    "UniPC 3": lambda: UniPCMultistepScheduler(**WAN, solver_order=3),
    "UniPC without corrector": lambda: UniPCMultistepScheduler(**WAN, disable_corrector=list(range(STEPS))),
    "Open-Sora": lambda: OpenSoraRectifiedFlowScheduler(use_timestep_transform=False),
    "UniPC, noise": lambda: UniPCMultistepScheduler(**TABLE),
    "DPM, flow": lambda: DPMSolverMultistepScheduler(**WAN),
    "DPM, noise": lambda: DPMSolverMultistepScheduler(**TABLE, use_karras_sigmas=True),
    "DPM, v": lambda: DPMSolverMultistepScheduler(**TABLE, prediction_type="v_prediction"),
    "DPM, stochastic": lambda: DPMSolverMultistepScheduler(**TABLE, algorithm_type="sde-dpmsolver++"),
    "DPM, singlestep": lambda: DPMSolverSinglestepScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        lower_order_final=True,
        final_sigmas_type="zero",
    ),
    "DEIS": lambda: DEISMultistepScheduler(**TABLE),
    "Euler, noise": lambda: EulerDiscreteScheduler(**TABLE),
    "Euler, v": lambda: EulerDiscreteScheduler(**TABLE, prediction_type="v_prediction"),
    "Euler ancestral": lambda: EulerAncestralDiscreteScheduler(**TABLE),
    "DDIM, noise": lambda: DDIMScheduler(**TABLE, clip_sample=False),
    "DDIM, v": lambda: DDIMScheduler(
        **TABLE, prediction_type="v_prediction", rescale_betas_zero_snr=True, clip_sample=False
    ),
    "DDPM": lambda: DDPMScheduler(**TABLE, clip_sample=False),
    "CogVideoX DDIM": lambda: CogVideoXDDIMScheduler(**COGVIDEOX),
    "CogVideoX DPM": lambda: CogVideoXDPMScheduler(**COGVIDEOX),
}
DISCRETE = ("CogVideoX DDIM", "CogVideoX DPM", "DDIM, noise", "DDIM, v")
BESIDE = ("UniPC, noise", "DPM, noise", "DPM, v", "DPM, singlestep", "DEIS", "Euler, noise", "Euler, v", "DDIM, noise")
RETIMED = tuple(name for name in SCHEDULERS if name != "DDPM")


@pytest.fixture(params=SCHEDULERS)
def scheduler(request):
    return SCHEDULERS[request.param]()


@pytest.fixture(params=DISCRETE)
def discrete(request):
    return SCHEDULERS[request.param]()


class Spread:
    """A denoiser that knows its data: a Gaussian of this mean and spread, whatever the scheduler's parametrisation."""

    def __init__(self, scheduler, mean=2.0, spread=0.5):
        kind = scheduler.config.get("prediction_type", "flow_prediction")
        self.kind = {"epsilon": "noise", "v_prediction": "circle", "flow_prediction": "flow"}[kind]
        exploding = (EulerDiscreteScheduler, EulerAncestralDiscreteScheduler)
        self.exploding = isinstance(scheduler, exploding)  # its latents are x_0 + sigma noise
        self.sign = -1.0 if isinstance(scheduler, OpenSoraRectifiedFlowScheduler) else 1.0
        self.mean, self.spread = mean, spread

    def at(self, level):
        """``alpha, sigma`` of the latents."""
        if self.kind == "flow":
            return 1 - level, level
        angle = level if self.kind == "circle" else math.atan(level)
        return (1.0, math.tan(angle)) if self.exploding else (math.cos(angle), math.sin(angle))

    def along(self, level, noise):
        """What has the model output as its slope over the level, of data in one point."""
        if self.kind == "noise":
            return self.mean + level * noise
        if self.kind == "circle":
            return math.cos(level) * self.mean + math.sin(level) * noise
        return self.sign * ((1 - level) * self.mean + level * noise)

    def __call__(self, x, level):
        alpha, sigma = self.at(level)
        variance = alpha**2 * self.spread**2 + sigma**2
        x0 = self.mean + alpha * self.spread**2 / variance * (x - alpha * self.mean)
        noise = sigma / variance * (x - alpha * self.mean)
        if self.kind == "noise":
            return noise
        return math.cos(level) * noise - math.sin(level) * x0 if self.kind == "circle" else self.sign * (noise - x0)


def sample(scheduler, denoiser, *, seed=0, shape=(2, 3, 4), spy=lambda *a: None):
    """The loop of a pipeline, CogVideoX's arguments of ``step`` included."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator) * getattr(scheduler, "init_noise_sigma", 1.0)
    levels = sampler_of(scheduler).noise_levels(scheduler)
    takes = inspect.signature(scheduler.step).parameters
    old, extra = None, {"generator": generator} if "generator" in takes else {}
    for i, t in enumerate(scheduler.timesteps):
        v = denoiser(x, levels[i])
        arguments = {"model_output": v, "timestep": t, "sample": x, "return_dict": False, **extra}
        if "timestep_back" in takes:
            back = scheduler.timesteps[i - 1] if i > 0 else None
            arguments |= {"old_pred_original_sample": old, "timestep_back": back}
        spy(i, arguments)
        out = scheduler.step(**arguments)
        x, old = out[0], out[1] if len(out) > 1 else None
        yield x


def test_the_levels_fall_from_noise_to_data(scheduler):
    scheduler.set_timesteps(STEPS)
    levels = sampler_of(scheduler).noise_levels(scheduler)
    assert len(levels) == STEPS + 1
    assert all(a > b for a, b in itertools.pairwise(levels))
    assert levels[-1] == (pytest.approx(0.03, abs=0.01) if isinstance(scheduler, DEISMultistepScheduler) else 0)
    first = {"flow": 1, "circle": math.pi / 2, "noise": 14.6}[Spread(scheduler).kind]
    if isinstance(scheduler, DDPMScheduler):
        first = 1
    near = isinstance(scheduler, (DPMSolverMultistepScheduler, EulerDiscreteScheduler, DDPMScheduler)) or first == 14.6
    assert levels[0] == (pytest.approx(first, rel=0.05) if near else pytest.approx(first, abs=1e-5))


def test_the_model_output_is_the_slope_over_the_level(scheduler):
    """Which is why Taylor expands in the level: for data in one point, v along the trajectory is linear in nothing
    simpler."""
    scheduler.set_timesteps(STEPS)
    denoiser = Spread(scheduler, spread=1e-9)
    noise = torch.randn(5, dtype=torch.float64)
    slope = (denoiser.along(0.7 + 1e-5, noise) - denoiser.along(0.7 - 1e-5, noise)) / 2e-5
    alpha, sigma = denoiser.at(0.7)
    torch.testing.assert_close(denoiser(alpha * 2.0 + sigma * noise, 0.7), slope, rtol=1e-6, atol=1e-6)


def test_a_plain_step_is_the_step_to_come_and_the_coefficient_its_slope(scheduler):
    scheduler.set_timesteps(STEPS)
    moved, slopes = [], []

    def spy(i, arguments):
        v = arguments["model_output"]
        other = torch.randn(v.shape, generator=torch.Generator().manual_seed(i))
        moved.append(plain_step(scheduler, arguments, v))
        slopes.append(output_coefficient(scheduler, arguments))
        shifted = plain_step(scheduler, arguments, v + other)
        torch.testing.assert_close(shifted - moved[-1], slopes[-1] * other, rtol=1e-3, atol=1e-4)

    watched = list(sample(scheduler, Spread(scheduler), spy=spy))
    for expected, seen in zip(watched, moved, strict=True):
        torch.testing.assert_close(seen, expected)
    assert all(slope != 0 for slope in slopes)
    scheduler.set_timesteps(STEPS)
    unwatched = list(sample(scheduler, Spread(scheduler)))
    assert torch.equal(unwatched[-1], watched[-1])  # nothing was disturbed, the generator neither


@pytest.mark.parametrize("name", SCHEDULERS)
def test_all_steps_are_affine(name):
    scheduler = SCHEDULERS[name]()
    scheduler.set_timesteps(STEPS)
    found = []
    list(sample(scheduler, Spread(scheduler), spy=lambda i, a: found.append(is_affine(scheduler, a))))
    assert found == [True] * STEPS


@pytest.mark.parametrize(("name", "options"), [("DDIM, noise", {"clip_sample": True}), ("DDPM", {"clip_sample": True})])
def test_a_step_that_clips_is_found_not_to_be_affine(name, options):
    scheduler = SCHEDULERS[name]()
    scheduler.register_to_config(**options)
    scheduler.set_timesteps(STEPS)
    found = []
    list(sample(scheduler, Spread(scheduler), spy=lambda i, a: found.append(is_affine(scheduler, a))))
    assert not any(found[:-1])


@pytest.mark.parametrize("name", RETIMED)
def test_a_warped_grid_leads_to_the_same_data(name):
    """Every sampler, retimed by a policy within a run, still solves its own equation."""
    finals = []
    for grid in (None, [0, 0.05, 0.2, 0.25, 0.3, 0.5, 0.55, 0.6, 0.8, 0.9, 1]):
        scheduler = SCHEDULERS[name]()
        pipe = LoopPipeline(scheduler, Spread(scheduler, spread=1.0))
        with Run(pipe, Warping(grid)):
            finals.append(pipe())
        assert type(pipe.scheduler) is type(SCHEDULERS[name]())
    for final in finals:
        # Those that know a noisiest latent, and not pure noise, begin beside its mean.
        assert float(final.mean()) == pytest.approx(2.0, abs=0.2 if name in BESIDE else 0.1)
        assert float(final.std()) == pytest.approx(1.0, abs=0.35)  # ten steps of first order shrink it
    assert not torch.equal(*finals)


class Denoiser(torch.nn.Module):
    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x, level):
        return self.answer(x, level)


class LoopPipeline:
    """`sample` as a pipeline."""

    def __init__(self, scheduler, answer, steps=STEPS):
        self.scheduler, self.transformer, self.steps = scheduler, Denoiser(answer), steps

    def __call__(self):
        self.scheduler.set_timesteps(self.steps)
        return list(sample(self.scheduler, self.transformer, shape=(4, 16, 64)))[-1]


class Warping(Driver):
    """A driver that computes every step on a warped grid."""

    def __init__(self, grid):
        self.grid = grid

    def open_segment(self, scheduler):
        return None if self.grid is None else retime(scheduler, self.grid)

    def is_cached(self, step):
        return False

    def model_output(self, step):
        return step.model_output

    def stepped(self, index, sample, stream):
        pass


@pytest.mark.parametrize("steps", [5, 7, 10, 15, 28, 30, 60])
def test_without_adjustment_a_discrete_scheduler_takes_its_own_path_to_the_bit(discrete, steps):
    """Stepping over a table of alphas is stepping as ever, also where the scheduler misses its own next timestep."""
    finals = []
    for grid in (None, [i / steps for i in range(steps + 1)]):
        pipe = LoopPipeline(type(discrete).from_config(discrete.config), Spread(discrete), steps)
        with Run(pipe, Warping(grid)):
            finals.append(pipe())
    assert torch.equal(*finals)


def test_a_discrete_scheduler_tells_the_denoiser_fractional_timesteps(discrete):
    discrete.set_timesteps(STEPS)
    before = discrete.timesteps.clone()
    grid = [0, 0.05, 0.2, 0.25, 0.3, 0.5, 0.55, 0.6, 0.8, 0.9, 1]
    levels = retime(discrete, grid)
    after = discrete.timesteps
    assert (len(after), after.device, after[0]) == (STEPS, before.device, before[0])
    assert after.is_floating_point()
    assert (after.diff() < 0).all()
    assert sampler_of(discrete).noise_levels(discrete) == pytest.approx(levels, abs=1e-5)
    table = discrete.alphas_cumprod.double()
    for t, level in zip(after.tolist(), levels, strict=False):
        low, high = table[math.floor(t)], table[math.ceil(t)]
        alpha, _ = Spread(discrete).at(level)
        assert high <= alpha**2 + 1e-6
        assert low >= alpha**2 - 1e-6


def test_a_discrete_scheduler_is_plain_again_after_a_retimed_run(discrete):
    pipe = LoopPipeline(discrete, Spread(discrete))
    plain = pipe()
    state = set(vars(discrete))
    with Run(pipe, Warping([0, 0.05, 0.2, 0.25, 0.3, 0.5, 0.55, 0.6, 0.8, 0.9, 1])):
        assert not torch.equal(pipe(), plain)
    assert set(vars(discrete)) == state
    assert torch.equal(pipe(), plain)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({**WAN, "solver_p": FlowMatchEulerDiscreteScheduler()}, "second scheduler"),
    ],
)
def test_a_configuration_of_unipc_that_cannot_be_served_is_refused_with_the_reason(options, reason):
    with pytest.raises(PipelineError, match=reason):
        sampler_of(UniPCMultistepScheduler(**options))


@pytest.mark.parametrize("kind", [CogVideoXDDIMScheduler, CogVideoXDPMScheduler])
def test_another_prediction_type_on_a_discrete_grid_is_refused_with_the_reason(kind):
    with pytest.raises(PipelineError, match="prediction_type='sample'"):
        sampler_of(kind(prediction_type="sample"))


def test_one_that_evaluates_the_denoiser_more_than_once_a_step_is_refused_with_the_reason():
    with pytest.raises(PipelineError, match=r"2 times a step.*DPMSolverMultistepScheduler"):
        sampler_of(HeunDiscreteScheduler())
    pndm = PNDMScheduler(skip_prk_steps=True)
    pndm.set_timesteps(STEPS)
    with pytest.raises(PipelineError, match="11 timesteps for 10 steps"):
        sampler_of(pndm).noise_levels(pndm)


def test_one_that_takes_no_other_levels_says_so():
    scheduler = DDPMScheduler(clip_sample=False)
    scheduler.set_timesteps(STEPS)
    with pytest.raises(PipelineError, match="method without timestep adjustment"):
        retime(scheduler, [i / STEPS for i in range(STEPS + 1)])
