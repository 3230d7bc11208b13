"""A run follows its policy through real pipelines: what is skipped, what it is replaced by, what it reports."""

from __future__ import annotations

import itertools
import sys
from contextlib import nullcontext

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxImg2ImgPipeline
from torch.utils._python_dispatch import TorchDispatchMode

import ertacache
from ertacache.errors import PipelineError
from ertacache.method.named_methods import Method
from ertacache.method.prediction import Prediction, coefficients, taylor_weights

CACHED = (2, 3, 5, 8)
COMPUTED = (0, 1, 4, 6, 7, 9)


def unshift(sigmas: torch.Tensor, shift: float = 3.0) -> list[float]:
    """The sigmas to pass to a call so that the scheduler's shift makes ``sigmas`` of them."""
    return (sigmas / (shift - (shift - 1) * sigmas)).tolist()


def output_of(pipe, policy, arguments):
    with ertacache.accelerated(pipe, policy) as run:
        return pipe(**arguments).images, run


@pytest.mark.parametrize("guided", [False, True])
def test_only_the_computed_steps_call_the_denoiser(flux, flux_call, make_policy, counted, guided):
    counter = counted(flux.transformer)
    _, run = output_of(flux, make_policy(10, CACHED), flux_call(steps=10, guided=guided))
    calls = len(COMPUTED) * (2 if guided else 1)
    assert counter.take() == run.report.denoiser_calls == calls
    assert (run.computed_steps, run.cached_steps) == (COMPUTED, CACHED)
    assert run.report.notes == []
    assert str(run.report) == f"6 of 10 steps computed, {calls} denoiser calls"


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("name", ["flux", "sd3"])
def test_reused_velocity_is_fewer_steps_on_the_sub_grid(name, guided, request, make_policy, counted):
    pipe, call = request.getfixturevalue(name), request.getfixturevalue(f"{name}_call")
    counter = counted(pipe.transformer)
    cached, _ = output_of(pipe, make_policy(10, CACHED), call(steps=10, guided=guided))
    calls = counter.take()
    kept = pipe.scheduler.sigmas[list(COMPUTED)]
    plain = pipe(**call(steps=len(COMPUTED), guided=guided, sigmas=unshift(kept))).images
    torch.testing.assert_close(pipe.scheduler.sigmas[:-1], kept)
    assert calls == counter.take()
    torch.testing.assert_close(cached, plain, rtol=1e-3, atol=1e-3)
    full = pipe(**call(steps=10, guided=guided)).images
    assert (full - cached).norm() > 0.05 * full.norm()


def test_level_output_adds_the_change_of_the_sample(make_toy, make_policy):
    pipe = make_toy(lambda sample, timestep: torch.ones_like(sample))  # v = 1, so r = 1 - x
    start = torch.full((1, 4, 2), 3.0)
    with ertacache.accelerated(pipe, make_policy(4, (1,), "uniform")):
        out = pipe(start, num_inference_steps=4)
    sigmas = pipe.scheduler.sigmas
    expected, residual = start.clone(), None
    for i in range(4):
        v = expected + residual if i == 1 else torch.ones_like(expected)
        residual = v - expected if i != 1 else residual
        expected = expected + (sigmas[i + 1] - sigmas[i]) * v
    torch.testing.assert_close(out, expected)
    assert not torch.allclose(out, pipe(start, num_inference_steps=4))


def test_taylor_is_exact_where_the_output_is_linear_in_the_noise_level(make_toy, make_policy):
    pipe = make_toy(lambda sample, timestep: torch.full_like(sample, 7.0) * timestep / 1000)
    start = torch.zeros(1, 4, 2)
    full = pipe(start, num_inference_steps=10)
    outputs = {}
    for method in ("taylor", "reuse"):
        with ertacache.accelerated(pipe, make_policy(10, CACHED, method)):
            outputs[method] = pipe(start, num_inference_steps=10)
    torch.testing.assert_close(outputs["taylor"], full)
    assert (outputs["reuse"] - full).abs().min() > 0.1


def test_calibrated_factors_are_used_where_the_history_is_the_calibrated_one(make_toy, make_policy):
    answers = iter([1.0, 10.0, 100.0])
    pipe = make_toy(lambda sample, timestep: torch.full_like(sample, next(answers)))
    policy = make_policy(4, (2,), "aligned", predictions={2: Prediction(history=(1, 0), factors=(3.0, -5.0))})
    with ertacache.accelerated(pipe, policy) as run:
        out = pipe(torch.zeros(1, 4, 2), num_inference_steps=4)
    expected = pipe.scheduler.sigmas.diff() @ torch.tensor([1.0, 10.0, 3 * 10.0 - 5 * 1.0, 100.0])
    torch.testing.assert_close(out, expected.expand(1, 4, 2))
    assert run.report.notes == []


def test_a_computed_step_goes_on_with_its_correction_and_leaves_its_own_output_in_the_history(make_toy, make_policy):
    answers = iter([1.0, 10.0, 100.0, 1000.0])
    pipe = make_toy(lambda sample, timestep: torch.full_like(sample, next(answers)))
    predictions = {
        1: Prediction((0,), (2.0,)),
        2: Prediction((2, 0), (0.5, 3.0)),
        3: Prediction((2, 0), (1.0, -1.0)),
    }
    policy = make_policy(5, (1, 3), "aligned", predictions=predictions)
    with ertacache.accelerated(pipe, policy):
        out = pipe(torch.zeros(1, 4, 2), num_inference_steps=5)
    used = torch.tensor([1.0, 2.0, 0.5 * 10 + 3 * 1, 10.0 - 1.0, 100.0])
    torch.testing.assert_close(out, (pipe.scheduler.sigmas.diff() @ used).expand(1, 4, 2))


@pytest.mark.parametrize("batched", [False, True], ids=["two calls", "one batched call"])
def test_what_the_guidance_branches_differ_by_is_one_more_thing_to_predict_from(batched, make_toy, make_policy):
    """The denoiser answers 3 and 1 in the first branch's and the last one's place; guidance makes 1 + 4 (3 - 1) = 9."""

    def denoise(pipe, i, sample, t):
        if batched:
            first, last = pipe.transformer(torch.cat([sample, sample + 1]), t).chunk(2)
        else:
            first, last = pipe.transformer(sample, t), pipe.transformer(sample + 1, t)
        return last + 4 * (first - last)

    def answer(sample, timestep):
        count[0] += len(sample)
        values = torch.tensor([3.0, 1.0]) if batched else torch.tensor([3.0 if count[0] % 2 else 1.0])
        return values[:, None, None].expand(len(values), *sample.shape[1:]).clone()

    count = [0]
    pipe = make_toy(answer, denoise)
    policy = make_policy(4, (2,), "aligned", predictions={2: Prediction((1, 0), (1.0, 0.5), (10.0, 100.0))})
    with ertacache.accelerated(pipe, policy) as run:
        out = pipe(torch.zeros(1, 4, 2), num_inference_steps=4)
    used = torch.tensor([9.0, 9.0, 1.5 * 9 + 110 * (3 - 1), 9.0])
    torch.testing.assert_close(out, (pipe.scheduler.sigmas.diff() @ used).expand(1, 4, 2))
    assert run.report.notes == []


def test_factors_of_a_contrast_are_left_alone_where_there_is_one_branch(make_toy, make_policy):
    pipe = make_toy()
    policy = make_policy(4, (2,), "aligned", predictions={2: Prediction((1, 0), (1.0, 0.5), (10.0, 100.0))})
    start = torch.ones(1, 4, 2)
    with ertacache.accelerated(pipe, policy) as run:
        out = pipe(start, num_inference_steps=4)
    assert [note[:23] for note in run.report.notes] == ["step 2 was extrapolated"]
    with ertacache.accelerated(pipe, make_policy(4, (2,), "taylor")):
        assert torch.equal(out, pipe(start, num_inference_steps=4))


def test_a_start_in_the_middle_computes_its_first_step_and_falls_back_to_taylor(flux, flux_call, make_policy, counted):
    cached, shift = (4, 6, 7, 9), 3.0
    pipe = FluxImg2ImgPipeline(**flux.components)
    pipe.set_progress_bar_config(disable=True)
    counter = counted(pipe.transformer)
    linear = torch.linspace(1, 1 / 11, 11)
    levels = (shift * linear / (1 + (shift - 1) * linear)).tolist()
    at_nine = Prediction(history=(8, 5), factors=coefficients(taylor_weights(levels, 9, (8, 5))))
    elsewhere = {i: Prediction(history=(3, 2), factors=(1.7, -0.7)) for i in (4, 6, 7)}
    elsewhere[8] = Prediction(history=(8, 5), factors=(0.5, 9.0))  # a correction of what step 4 would have left
    policies = {
        "aligned": make_policy(11, cached, "aligned", predictions={**elsewhere, 9: at_nine}),
        "taylor": make_policy(11, cached, "taylor"),
    }
    outputs = {}
    for name, policy in policies.items():
        image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        outputs[name], run = output_of(pipe, policy, flux_call(steps=11, image=image, strength=0.6))
        assert (run.computed_steps, run.cached_steps) == ((4, 5, 8, 10), (6, 7, 9))
        assert counter.take() == 4
        # at step 9 the run has the history that the policy's factors were fitted on
        notes = ["step 4 was", *(["step 6 was", "step 7 was", "fitted corrections of"] if name == "aligned" else [])]
        assert [" ".join(note.split(" ")[:3]) for note in run.report.notes] == notes
    torch.testing.assert_close(outputs["aligned"], outputs["taylor"])


def test_level_output_is_refused_where_v_and_x_differ_in_shape(make_toy, make_policy):
    class HalfScheduler(FlowMatchEulerDiscreteScheduler):
        """As with a learned variance: of twice as many channels, the first half is the model output."""

        def step(self, model_output, timestep, sample, return_dict=True):
            return super().step(model_output.chunk(2, dim=1)[0], timestep, sample, return_dict=return_dict)

    pipe = make_toy(lambda sample, timestep: torch.cat([sample, sample], dim=1), scheduler=HalfScheduler())
    with (
        ertacache.accelerated(pipe, make_policy(8, (2, 3), Method(level="output"))),
        pytest.raises(PipelineError, match=r"differ in shape .*latents \(1, 4, 2\), model output \(1, 8, 2\)"),
    ):
        pipe(torch.ones(1, 4, 2))
    with ertacache.accelerated(pipe, make_policy(8, (2, 3))) as run:
        out = pipe(torch.ones(1, 4, 2))
    assert run.cached_steps == (2, 3)
    assert out.shape == (1, 4, 2)


class TestAPatternThatChanges:
    """Guidance ends, or the resolution changes, in the middle of a call."""

    @staticmethod
    def guided_until(last):
        def denoise(pipe, i, sample, t):
            conditional = pipe.transformer(sample, t)
            return conditional if i >= last else conditional * 4 - pipe.transformer(-sample, t) * 3

        return denoise

    @staticmethod
    def unguided_until(first):
        def denoise(pipe, i, sample, t):
            conditional = pipe.transformer(sample, t)
            return conditional if i < first else conditional * 4 - pipe.transformer(-sample, t) * 3

        return denoise

    @staticmethod
    def batched_until(last):
        def denoise(pipe, i, sample, t):
            if i >= last:
                return pipe.transformer(sample, t)
            both = pipe.transformer(torch.cat([sample, -sample]), t).chunk(2)
            return both[0] * 4 - both[1] * 3

        return denoise

    @pytest.mark.parametrize("change", ["guided_until", "unguided_until"])
    def test_is_noted_where_the_first_changed_step_is_cached(self, change, make_toy, make_policy):
        pipe = make_toy(denoise=getattr(self, change)(3))
        with ertacache.accelerated(pipe, make_policy(8, (3, 5))) as run:
            pipe(torch.ones(1, 4, 2))
        assert run.cached_steps == (3, 5)
        assert any("at cached step 3 the pipeline began to make other calls" in note for note in run.report.notes)

    @pytest.mark.parametrize(("change", "calls"), [("guided_until", 3 * 2 + 3), ("unguided_until", 3 + 3 * 2)])
    def test_works_where_the_first_changed_step_is_computed(self, change, calls, make_toy, make_policy):
        pipe = make_toy(denoise=getattr(self, change)(3))
        with ertacache.accelerated(pipe, make_policy(8, (4, 6))) as run:
            pipe(torch.ones(1, 4, 2))
        assert pipe.transformer.calls == run.report.denoiser_calls == calls
        assert (run.cached_steps, run.report.notes) == ((4, 6), [])

    def test_computes_a_step_whose_shapes_are_new_and_says_so(self, make_toy, make_policy):
        pipe = make_toy(denoise=self.batched_until(3))
        with ertacache.accelerated(pipe, make_policy(8, (3, 5))) as run:
            out = pipe(torch.ones(1, 4, 2))
        assert (run.computed_steps, run.cached_steps) == ((0, 1, 2, 3, 4, 6, 7), (5,))
        assert [note[:19] for note in run.report.notes] == ["step 3 was computed"]
        with ertacache.accelerated(pipe, make_policy(8, (5,))):
            assert torch.equal(out, pipe(torch.ones(1, 4, 2)))


class Work(TorchDispatchMode):
    """Counts the lines of Python and the operations of torch."""

    def __init__(self):
        super().__init__()
        self.lines, self.operations = 0, []

    def __enter__(self):
        self.before = sys.gettrace()
        sys.settrace(self.trace)
        return super().__enter__()

    def __exit__(self, *args):
        sys.settrace(self.before)
        return super().__exit__(*args)

    def trace(self, frame, event, arg):
        self.lines += event == "line"
        return self.trace

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.operations.append(func.overloadpacket)
        return func(*args, **(kwargs or {}))


def test_a_cached_step_costs_little_beside_the_scheduler(make_toy, make_policy):
    """Counted, since a clock also tells what else the machine does; a line of Python is a tenth of a microsecond."""

    def spent(steps, accelerate):
        """On each step, from one denoiser call to the next: lines, and operations in order."""
        marks = []

        def denoise(pipe, i, sample, t):
            marks.append((work.lines, len(work.operations)))
            return pipe.transformer(sample, t)

        pipe, latents, work = make_toy(denoise=denoise), torch.randn(1, 144, 16), Work()
        policy = make_policy(steps, tuple(i for i in range(1, steps - 1) if i % 4), "taylor")
        with ertacache.accelerated(pipe, policy) if accelerate else nullcontext(), work:
            pipe(latents, num_inference_steps=steps)
        return [(b[0] - a[0], work.operations[a[1] : b[1]]) for a, b in itertools.pairwise(marks)]

    for cached in (7, 27, 38):
        (lines, operations), (plain_lines, plain) = spent(40, True)[cached], spent(40, False)[cached]
        print(f"{lines} lines for {plain_lines}, {len(operations)} operations for {len(plain)}")
        assert lines - plain_lines < 400
        assert len(operations) - len(plain) < 8
        waits = torch.ops.aten._local_scalar_dense  # for the device
        assert operations.count(waits) <= plain.count(waits)
    assert spent(80, True)[38][0] <= spent(40, True)[38][0]  # nothing is looked for among all steps
