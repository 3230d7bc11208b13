"""What is read off a scheduler: its levels, how it depends on the model output, and which ones are served."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    KDPM2DiscreteScheduler,
    UniPCMultistepScheduler,
)

import ertacache
from ertacache.errors import PipelineError, RunError
from ertacache.runtime.driver import Driver
from ertacache.runtime.run import Run
from ertacache.runtime.scheduler_step import output_coefficient, plain_step
from ertacache.runtime.schedulers import sampler_of


def state_of(scheduler):
    return {name: v.clone() if isinstance(v, torch.Tensor) else copy.copy(v) for name, v in vars(scheduler).items()}


def same_state(a, b):
    return a.keys() == b.keys() and all(
        torch.equal(v, b[name]) if isinstance(v, torch.Tensor) else v == b[name] for name, v in a.items()
    )


@pytest.fixture
def scheduler():
    made = FlowMatchEulerDiscreteScheduler(shift=3.0)
    made.set_timesteps(8)
    return made


class Spy(Driver):
    """A driver that computes every step and looks at the scheduler in the middle of the run."""

    def __init__(self):
        self.rows = []

    def open_segment(self, scheduler):
        pass

    def is_cached(self, step):
        return False

    def model_output(self, step):
        before = state_of(step.scheduler)
        kind = type(step.scheduler)
        moved = plain_step(step.scheduler, step.arguments, step.model_output)
        slope = output_coefficient(step.scheduler, step.arguments)
        assert type(step.scheduler) is kind
        assert same_state(state_of(step.scheduler), before)
        self.rows.append((step.index, slope, moved))
        return step.model_output

    def stepped(self, index, sample, stream):
        assert index == self.rows[-1][0]
        torch.testing.assert_close(self.rows[-1][2], sample)


def test_the_noise_levels_are_the_sigmas_of_the_grid(scheduler):
    levels = sampler_of(scheduler).noise_levels(scheduler)
    assert levels == [float(sigma) for sigma in scheduler.sigmas]
    assert (len(levels), levels[0], levels[-1]) == (9, 1.0, 0.0)


def test_the_output_coefficient_is_the_change_of_sigma(scheduler):
    for i, t in enumerate(scheduler.timesteps):
        expected = float(scheduler.sigmas[i + 1] - scheduler.sigmas[i])
        assert output_coefficient(scheduler, {"timestep": t, "sample": torch.ones(1)}) == pytest.approx(
            expected, rel=1e-6
        )
        scheduler.step(torch.ones(1), t, torch.ones(1))


class Elsewhere(torch.Tensor):
    """A tensor that, as one on an accelerator, refuses to meet those in main memory that are more than a number."""

    def cpu(self):
        return self.as_subclass(torch.Tensor)

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if any(type(arg) is torch.Tensor and arg.ndim for arg in args):
            raise RuntimeError("Expected all tensors to be on the same device")
        return super().__torch_function__(func, types, args, kwargs or {})


def test_the_output_coefficient_of_a_grid_on_an_accelerator(scheduler):
    steps = list(scheduler.timesteps)
    expected = [float(scheduler.sigmas[i + 1] - scheduler.sigmas[i]) for i in range(len(steps))]
    scheduler.sigmas = scheduler.sigmas.as_subclass(Elsewhere)
    scheduler.timesteps = scheduler.timesteps.as_subclass(Elsewhere)
    with pytest.raises(RuntimeError, match="same device"):
        scheduler.step(torch.ones(1, 1), steps[0], torch.ones(1, 1))
    scheduler._step_index = None
    arguments = {"timestep": scheduler.timesteps[0], "sample": torch.ones(1, 3).as_subclass(Elsewhere)}
    assert output_coefficient(scheduler, arguments) == pytest.approx(expected[0], rel=1e-6)


def test_a_plain_step_leaves_the_scheduler_untouched(scheduler):
    sample, output = torch.full((1, 2), 5.0), torch.full((1, 2), 3.0)
    for i, t in enumerate(scheduler.timesteps):
        before = state_of(scheduler)
        moved = plain_step(scheduler, {"timestep": t, "sample": sample}, output)
        assert same_state(state_of(scheduler), before)
        torch.testing.assert_close(moved, sample + (scheduler.sigmas[i + 1] - scheduler.sigmas[i]) * output)
        assert torch.equal(moved, scheduler.step(output, t, sample, return_dict=False)[0])


def test_a_plain_step_is_at_least_float32(scheduler):
    t = scheduler.timesteps[0]
    for given, expected in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        one = torch.ones(1, dtype=given)
        assert plain_step(scheduler, {"timestep": t, "sample": one}, one).dtype == expected


def test_both_work_in_the_middle_of_a_run_and_do_not_disturb_it(flux, flux_call):
    plain = flux(**flux_call(guided=True)).images
    spy = Spy()
    with Run(flux, spy) as run:
        out = flux(**flux_call(guided=True)).images
    assert torch.equal(out, plain)
    sigmas = flux.scheduler.sigmas
    assert [row[0] for row in spy.rows] == list(range(8)) == run.report.computed_steps
    assert [row[1] for row in spy.rows] == pytest.approx(sigmas.diff().tolist(), rel=1e-6)


def test_a_subclass_is_served_by_the_row_of_its_base():
    class Mine(FlowMatchEulerDiscreteScheduler):
        pass

    assert sampler_of(Mine()) is sampler_of(FlowMatchEulerDiscreteScheduler())


@pytest.mark.parametrize("scheduler_class", [KDPM2DiscreteScheduler, HeunDiscreteScheduler])
def test_an_unsupported_scheduler_is_named_and_so_are_the_supported_ones(scheduler_class, flux, make_policy):
    flux.scheduler = scheduler_class()
    with pytest.raises(PipelineError) as caught:
        ertacache.enable(flux, make_policy(8, (2,)))
    assert scheduler_class.__name__ in str(caught.value)
    assert "2 times a step" in str(caught.value)
    assert "pipe.scheduler = UniPCMultistepScheduler.from_config" in str(caught.value)  # it adds noise by betas as well
    assert not hasattr(type(flux), "_ertacache_acceleration")


def test_a_scheduler_that_is_exchanged_while_enabled_is_refused_in_the_call(make_toy, make_policy):
    pipe = make_toy()
    with ertacache.accelerated(pipe, make_policy(8, (2,))):
        pipe(torch.ones(1, 4, 2))
        pipe.scheduler = HeunDiscreteScheduler()
        with pytest.raises(PipelineError, match=r"2 times a step.*HeunDiscreteScheduler.*DDIMScheduler"):
            pipe(torch.ones(1, 4, 2))
        assert type(pipe.scheduler) is HeunDiscreteScheduler
        pipe.scheduler = FlowMatchEulerDiscreteScheduler()
        assert pipe(torch.ones(1, 4, 2)).isfinite().all()


def test_stochastic_sampling_is_refused_with_the_reason(make_flux, make_policy):
    pipe = make_flux(stochastic_sampling=True)
    with pytest.raises(PipelineError, match=r"stochastic_sampling=True draws new noise at every step"):
        ertacache.enable(pipe, make_policy(8, (2,)))


@pytest.mark.parametrize("stays", [False, True])
def test_a_scheduler_that_the_pipeline_copies_is_followed(stays, make_toy, make_policy):
    """Within its loop; the copy may stay the pipeline's scheduler for the next call."""

    def denoise(pipe, i, sample, t):
        if i == 1:
            pipe.scheduler = copy.deepcopy(pipe.scheduler)
        return pipe.transformer(sample, t)

    pipe, own = make_toy(denoise=denoise), FlowMatchEulerDiscreteScheduler
    first = pipe.scheduler
    plain = make_toy()
    with ertacache.accelerated(plain, make_policy(8, (2, 3))):
        expected = plain(torch.ones(1, 4, 2))
    with ertacache.accelerated(pipe, make_policy(8, (2, 3))) as run:
        for _ in range(3):
            pipe.scheduler = pipe.scheduler if stays else first
            assert torch.equal(pipe(torch.ones(1, 4, 2)), expected)
            assert run.cached_steps == (2, 3)
    assert isinstance(pipe.scheduler, own)
    assert type(first) is own
    pipe.transformer.calls = 0
    assert not torch.equal(pipe(torch.ones(1, 4, 2)), expected)
    assert pipe.transformer.calls == 8


def with_a_second_latent(again):
    """A loop that steps a second latent after each call of the denoiser, by a copy of the scheduler; or twice."""

    def denoise(pipe, i, sample, t):
        both = pipe.transformer(sample, t)
        pipe.second = copy.deepcopy(pipe.scheduler) if i == 0 else pipe.second
        for _ in range(2 if again else 1):
            pipe.second.step(both, t, sample)
        return both

    return denoise


def test_two_latents_stepped_after_one_denoiser_call_have_a_history_each(make_toy, make_policy):
    pipe = make_toy(denoise=with_a_second_latent(again=False))
    with ertacache.accelerated(pipe, make_policy(8, (2, 3))) as run:
        pipe(torch.ones(1, 4, 2))
    assert run.cached_steps == (2, 3)


def test_a_latent_that_is_stepped_twice_after_one_denoiser_call_is_refused(make_toy, make_policy):
    pipe = make_toy(denoise=with_a_second_latent(again=True))
    with (
        ertacache.accelerated(pipe, make_policy(8, (2, 3))),
        pytest.raises(RunError, match=r"several steps of its sampler for each call of its denoiser"),
    ):
        pipe(torch.ones(1, 4, 2))


def test_a_step_that_only_passes_its_arguments_on_is_understood(make_toy, make_policy):
    class Passing(FlowMatchEulerDiscreteScheduler):
        def step(self, *args, **kwargs):
            return super().step(*args, **kwargs)

    outputs = []
    for scheduler in (Passing(), FlowMatchEulerDiscreteScheduler()):
        pipe = make_toy(scheduler=scheduler)
        with ertacache.accelerated(pipe, make_policy(8, (2, 3))) as run:
            outputs.append(pipe(torch.ones(1, 4, 2)))
        assert run.cached_steps == (2, 3)
    assert torch.equal(*outputs)


def test_the_first_step_after_set_timesteps_is_computed(make_toy, make_policy):
    """A second grid within one call is another trajectory: nothing of the first one is used."""
    seen = []

    def denoise(pipe, i, sample, t):
        if i == 3:
            pipe.scheduler.set_timesteps(8)
        seen.append(pipe.transformer(sample, t))
        return seen[-1]

    pipe = make_toy(denoise=denoise)
    with ertacache.accelerated(pipe, make_policy(8, (2, 3, 4, 5), "taylor")) as run:
        pipe(torch.ones(1, 4, 2))
    assert (run.computed_steps, run.cached_steps) == ((0, 1, 3, 6, 7), (2, 4, 5))
    assert run.report.notes == ["step 3 was computed: it is the first step of this call"]


def test_a_copy_of_the_scheduler_is_plain_in_another_thread(make_toy, make_policy):
    moved = []

    def denoise(pipe, i, sample, t):
        def elsewhere(scheduler):
            scheduler.set_timesteps(4)
            for timestep in scheduler.timesteps:
                moved.append(scheduler.step(torch.ones(1), timestep, torch.ones(1), return_dict=False)[0])

        out = pipe.transformer(sample, t)
        if i == 2:
            thread = threading.Thread(target=elsewhere, args=(copy.deepcopy(pipe.scheduler),))
            thread.start()
            thread.join()
        return out

    pipe = make_toy(denoise=denoise)
    with ertacache.accelerated(pipe, make_policy(8, (2, 3))) as run:
        pipe(torch.ones(1, 4, 2))
    assert (run.computed_steps, run.cached_steps) == ((0, 1, 4, 5, 6, 7), (2, 3))
    alone = FlowMatchEulerDiscreteScheduler()
    alone.set_timesteps(4)
    assert torch.cat(moved).tolist() == pytest.approx((1 + alone.sigmas.diff()).tolist())


@pytest.mark.parametrize("extra", [1, -1])
def test_calls_that_begin_or_end_at_a_cached_step_are_noted(make_toy, make_policy, extra):
    """Skip-layer guidance and guidance intervals begin and end wherever they like; a hand-made policy cannot know."""

    def denoise(pipe, i, sample, t):
        outputs = [pipe.transformer(sample, t) for _ in range(2 + (extra if i >= 3 else 0))]
        return sum(outputs) / len(outputs)

    pipe = make_toy(denoise=denoise)
    with ertacache.accelerated(pipe, make_policy(8, (2, 3))) as run:
        pipe(torch.ones(1, 4, 2))
    assert run.cached_steps == (2, 3)
    assert any("at cached step 3 the pipeline began to make other calls" in note for note in run.report.notes)


def test_thresholding_is_followed_by_hand_and_refused_where_weights_are_fitted(make_toy, make_policy):
    scheduler = UniPCMultistepScheduler(thresholding=True)
    pipe = make_toy(scheduler=scheduler)
    with ertacache.accelerated(pipe, make_policy(8, (2, 3))) as run:
        pipe(torch.ones(1, 4, 2))
    assert run.cached_steps == (2, 3)
    refused = pytest.raises(PipelineError, match="thresholds the predicted picture")
    with refused, ertacache.accelerated(pipe, speedup=2):
        pipe(torch.ones(1, 4, 2))
