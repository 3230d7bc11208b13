"""Switching a policy on and off leaves no trace, and whatever ends a call leaves the next one as it should be."""

from __future__ import annotations

import copy
import inspect
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Barrier

import pytest
import torch
from diffusers import DiffusionPipeline, FluxPipeline
from torch import nn

import ertacache
from ertacache.errors import BudgetError, PipelineError, PolicyMismatchError

CACHED = (2, 3, 5)
COMPUTED = (0, 1, 4, 6, 7)


def attributes_of(pipe):
    """Every attribute of the pipeline, its scheduler and all its modules: (owner, name) -> the object itself."""
    owners = {"pipe": pipe, "scheduler": pipe.scheduler}
    for name, component in pipe.components.items():
        if isinstance(component, nn.Module):
            owners |= {f"{name}.{path}": module for path, module in component.named_modules()}
    found = {(owner, "__class__"): type(thing) for owner, thing in owners.items()}
    return found | {(owner, name): value for owner, thing in owners.items() for name, value in vars(thing).items()}


def same(a, b):
    """Identical, or equal for what every call makes anew: tensors and plain values."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b) and a.dtype == b.dtype
    return a is b or (type(a) is type(b) and isinstance(a, (int, float, dict, list, type(None))) and a == b)


@pytest.mark.parametrize("name", ["flux", "sd3"])
@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("method", ["uniform", "reuse", "taylor", "aligned", "paper"])
def test_with_nothing_to_skip_the_output_is_bit_identical(name, guided, method, request, make_policy, counted):
    pipe, call = request.getfixturevalue(name), request.getfixturevalue(f"{name}_call")
    plain = pipe(**call(guided=guided)).images
    counter = counted(pipe.transformer)
    with ertacache.accelerated(pipe, make_policy(8, (), method)) as run:
        assert torch.equal(pipe(**call(guided=guided)).images, plain)
    assert counter.take() == run.report.denoiser_calls == (16 if guided and name == "flux" else 8)
    assert (run.computed_steps, run.cached_steps, run.report.notes) == (tuple(range(8)), (), [])


@pytest.mark.parametrize("ending", ["return", "exception"])
def test_afterwards_every_attribute_is_what_it_was(ending, flux, flux_call, make_policy):
    def callback(pipe, i, t, kwargs):
        if ending == "exception" and i == 4:
            raise OSError("disk full")
        return {}

    flux(**flux_call(guided=True))  # pipelines set attributes of their own in a call
    before, size = attributes_of(flux), len(vars(flux))
    try:
        with ertacache.accelerated(flux, make_policy(8, CACHED)):
            assert len(vars(flux)) == size
            flux(**flux_call(guided=True, callback_on_step_end=callback))
    except OSError:
        assert ending == "exception"
        assert flux.scheduler.step_index == 5
        flux.scheduler._step_index, flux._current_timestep = 8, None  # where the plain call ended
    after = attributes_of(flux)
    assert list(before) == list(after)
    assert [place for place in before if not same(before[place], after[place])] == []
    assert type(flux) is FluxPipeline


def test_an_accelerated_pipeline_looks_like_itself(flux, make_policy):
    signature, own = inspect.signature(flux.__call__), type(flux)
    with ertacache.accelerated(flux, make_policy(8, CACHED)):
        assert type(flux) is not own
        assert isinstance(flux, FluxPipeline)
        assert isinstance(flux, DiffusionPipeline)
        assert (type(flux).__name__, type(flux).__module__) == (own.__name__, own.__module__)
        assert inspect.signature(flux.__call__) == signature
        assert flux.__call__.__doc__ == own.__call__.__doc__
        assert inspect.signature(flux.scheduler.step) == inspect.signature(type(flux.scheduler).step.__get__(0))


def test_while_a_call_runs_the_scheduler_looks_like_itself(flux, flux_call, make_policy):
    own, seen = type(flux.scheduler), []

    def look(pipe, i, t, kwargs):
        here = type(pipe.scheduler)
        seen.append((here.__name__, here.__module__, isinstance(pipe.scheduler, own), here is own))
        assert inspect.signature(pipe.scheduler.step) == inspect.signature(own.step.__get__(0))
        assert inspect.signature(pipe.scheduler.set_timesteps) == inspect.signature(own.set_timesteps.__get__(0))
        return {}

    with ertacache.accelerated(flux, make_policy(8, CACHED)):
        flux(**flux_call(callback_on_step_end=look))
    assert seen == [(own.__name__, own.__module__, True, False)] * 8


def test_enable_lasts_until_disable(flux, flux_call, make_policy, counted):
    plain = flux(**flux_call()).images
    counter = counted(flux.transformer)
    run = ertacache.enable(flux, make_policy(8, CACHED))
    assert (run.computed_steps, run.cached_steps) == ((), ())
    outputs = [flux(**flux_call()).images for _ in range(3)]
    assert counter.take() == 3 * 5
    assert torch.equal(outputs[0], outputs[2])
    assert run.computed_steps == COMPUTED
    ertacache.disable(flux)
    assert torch.equal(flux(**flux_call()).images, plain)
    assert counter.take() == 8
    assert run.computed_steps == COMPUTED


def test_a_block_holds_and_gives_back_what_was_enabled(flux, flux_call, make_policy):
    own = type(flux)
    first = ertacache.enable(flux, make_policy(8, (1,)))
    enabled = type(flux)
    with ertacache.accelerated(flux, make_policy(8, CACHED)) as run:
        for again in (ertacache.enable, lambda *given: ertacache.accelerated(*given).__enter__()):
            with pytest.raises(PipelineError, match=r"accelerated already .*ertacache\.disable\(pipe\)"):
                again(flux, make_policy(8, (4,)))
        flux(**flux_call())
    assert (run.cached_steps, first.cached_steps) == (CACHED, ())
    assert type(flux) is enabled
    flux(**flux_call())
    assert (run.cached_steps, first.cached_steps) == (CACHED, (1,))
    with ertacache.accelerated(flux, make_policy(8, CACHED)):
        ertacache.disable(flux)
    assert type(flux) is own


def test_a_second_enable_takes_the_place_of_the_first_unless_it_is_refused(flux, flux_call, make_policy):
    before = attributes_of(flux)
    first = ertacache.enable(flux, make_policy(8, (1,)))
    second = ertacache.enable(flux, make_policy(8, CACHED))
    flux(**flux_call())
    assert (first.cached_steps, second.cached_steps) == ((), CACHED)
    with pytest.raises(BudgetError):
        ertacache.enable(flux, speedup=0.5)
    flux(**flux_call())
    assert second.cached_steps == CACHED
    ertacache.disable(flux)
    assert type(flux) is FluxPipeline
    after = attributes_of(flux)
    assert [place for place in before if place[1] == "__class__" and before[place] is not after[place]] == []


def test_disabled_calls_run_in_full_and_what_was_enabled_is_back(flux, flux_call, make_policy, counted):
    plain = flux(**flux_call()).images
    counter = counted(flux.transformer)
    with ertacache.disabled(flux):  # nothing is enabled
        assert torch.equal(flux(**flux_call()).images, plain)
    run = ertacache.enable(flux, make_policy(8, CACHED))
    fast = flux(**flux_call()).images
    counter.take()
    with ertacache.disabled(flux):
        assert torch.equal(flux(**flux_call()).images, plain)
        with ertacache.disabled(flux):
            assert torch.equal(flux(**flux_call()).images, plain)
        assert torch.equal(flux(**flux_call()).images, plain)
        with ertacache.accelerated(flux, make_policy(8, (1,))) as inner:
            flux(**flux_call())
        assert inner.cached_steps == (1,)
    with suppress(OSError), ertacache.disabled(flux):
        raise OSError("disk full")
    assert counter.take() == 3 * 8 + 7
    assert torch.equal(flux(**flux_call()).images, fast)
    assert (counter.take(), run.cached_steps) == (5, CACHED)


def test_disabled_is_for_one_pipeline_and_one_thread(flux, flux_call, make_policy):
    run = ertacache.enable(flux, make_policy(8, CACHED))
    copied = copy.copy(flux)
    copied.scheduler = copy.deepcopy(flux.scheduler)
    with ertacache.disabled(flux):
        copied(**flux_call())
        assert run.cached_steps == CACHED
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(lambda: (flux(**flux_call()), run.report)[1]).result().cached_steps == list(CACHED)
    pauses, overlap = [ertacache.disabled(flux), ertacache.disabled(flux)], Barrier(2)

    def pause(number):
        with pauses[number]:
            overlap.wait()

    with ThreadPoolExecutor(2) as pool:  # the blocks overlap, and neither leaves anything behind
        list(pool.map(pause, (0, 1)))
    flux(**flux_call())
    assert run.report.cached_steps == list(CACHED)


def test_disabling_a_plain_pipeline_does_nothing(flux):
    before = attributes_of(flux)
    ertacache.disable(flux)
    after = attributes_of(flux)
    assert list(before) == list(after)
    assert all(before[place] is after[place] for place in before)


def test_what_is_not_a_policy_or_not_a_pipeline_is_refused(flux, make_policy):
    with pytest.raises(PipelineError, match="no denoiser"):
        ertacache.enable(object(), make_policy(8, CACHED))
    with pytest.raises(PolicyMismatchError, match=r"not a policy .*Policy\.load"):
        ertacache.enable(flux, {"cached_steps": [1]})
    with pytest.raises(
        PolicyMismatchError, match=r"given: 'flux.safetensors'.*pass Policy\.load\('flux.safetensors'\)"
    ):
        ertacache.enable(flux, "flux.safetensors")
    with pytest.raises(PolicyMismatchError, match=r"pass Policy\.load\('flux.safetensors'\)"):
        ertacache.enable(flux, Path("flux.safetensors"))
    with pytest.raises(PolicyMismatchError, match=r"passed by its name: speedup=2\.0"):
        ertacache.enable(flux, 2.0)
    with pytest.raises(PipelineError, match=r"not a pipeline .*Flux.*Pass the pipeline, not its denoiser"):
        ertacache.enable(flux.transformer, speedup=2.0)
    flux.transformer = None
    with pytest.raises(PipelineError, match=r"no denoiser .*transformer, transformer_2, unet"):
        ertacache.enable(flux, make_policy(8, CACHED))
    assert type(flux) is FluxPipeline


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt, GeneratorExit])
@pytest.mark.parametrize(
    ("where", "step"), [("callback", 0), ("callback", 3), ("callback", 4), ("denoiser", 0), ("denoiser", 4)]
)
def test_after_an_exception_the_next_call_is_like_the_first(error, where, step, flux, flux_call, make_policy):
    fresh, policy = copy.deepcopy(flux), make_policy(8, CACHED)
    with ertacache.accelerated(fresh, policy):
        cached = fresh(**flux_call(guided=True)).images
    plain = fresh(**flux_call(guided=True)).images
    calls = 0

    def callback(pipe, i, t, kwargs):
        if where == "callback" and i == step:
            raise error
        return {}

    def hook(module, args):
        nonlocal calls
        calls += 1
        if where == "denoiser" and calls == 2 * (COMPUTED.index(step) + 1):  # the second branch of this step
            raise error

    handle = flux.transformer.transformer_blocks[0].register_forward_pre_hook(hook)
    with ertacache.accelerated(flux, policy):
        with pytest.raises(error):
            flux(**flux_call(guided=True, callback_on_step_end=callback))
        handle.remove()
        assert torch.equal(flux(**flux_call(guided=True)).images, cached)
    assert torch.equal(flux(**flux_call(guided=True)).images, plain)


@pytest.mark.parametrize("step", [0, 2, 3, 4])
def test_after_an_interrupted_call_the_next_one_is_like_the_first(step, flux, flux_call, make_policy, counted):
    policy, counter = make_policy(8, CACHED), counted(flux.transformer)
    plain = flux(**flux_call()).images

    def interrupt(pipe, i, t, kwargs):
        pipe._interrupt = i == step
        return {}

    with ertacache.accelerated(flux, policy) as run:
        cached = flux(**flux_call()).images
        counter.take()
        flux(**flux_call(callback_on_step_end=interrupt))
        assert counter.take() == len(run.computed_steps) == sum(i <= step for i in COMPUTED)
        assert len(run.cached_steps) == sum(i <= step for i in CACHED)
        assert torch.equal(flux(**flux_call()).images, cached)
    assert torch.equal(flux(**flux_call()).images, plain)


def test_a_batch_gives_what_its_prompts_give_alone(flux, flux_call, make_policy):
    both = flux_call(prompts=2, guided=True, latents=torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(5)))
    with ertacache.accelerated(flux, make_policy(8, CACHED, "taylor")) as run:
        together = flux(**both).images
        for k in range(2):
            own = {name: v[k : k + 1] if isinstance(v, torch.Tensor) else v for name, v in both.items()}
            torch.testing.assert_close(flux(**own).images, together[k : k + 1], rtol=1e-3, atol=1e-3)
        assert run.cached_steps == CACHED
        assert torch.equal(flux(**both).images, together)


def test_several_images_a_prompt_and_then_another_number(flux, flux_call, make_policy, counted):
    def encode_prompt(*, prompt_embeds, pooled_prompt_embeds, num_images_per_prompt, **more):
        """What text encoders would do, and ready embeddings do not."""
        embeds = (e.repeat_interleave(num_images_per_prompt, dim=0) for e in (prompt_embeds, pooled_prompt_embeds))
        return *embeds, torch.zeros(4, 3)

    flux.encode_prompt, counter = encode_prompt, counted(flux.transformer)
    with ertacache.accelerated(flux, make_policy(8, CACHED)) as run:
        for prompts, images in ((2, 2), (1, 3), (2, 2), (1, 1)):
            out = flux(**flux_call(prompts=prompts, num_images_per_prompt=images)).images
            assert len(out) == prompts * images
            assert (counter.take(), run.cached_steps, run.report.notes) == (5, CACHED, [])
    latents = torch.randn(1, 16, 16, generator=torch.Generator().manual_seed(0))
    with ertacache.accelerated(flux, make_policy(8, CACHED)):
        one = flux(**flux_call(latents=latents)).images
        two = flux(**flux_call(latents=latents.repeat(2, 1, 1), num_images_per_prompt=2)).images
    torch.testing.assert_close(two, one.expand(2, -1, -1), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("output_type", ["latent", "pt", "np", "pil"])
def test_every_form_of_output_works(output_type, flux, flux_call, make_policy):
    with ertacache.accelerated(flux, make_policy(8, CACHED)) as run:
        images = flux(**flux_call(output_type=output_type)).images
        (same_images,) = flux(**flux_call(output_type=output_type), return_dict=False)
    assert type(images) is type(same_images)
    if isinstance(images, torch.Tensor):
        assert torch.equal(images, same_images)
        assert images.shape == ((1, 16, 16) if output_type == "latent" else (1, 3, 16, 16))
    else:
        assert len(images) == len(same_images) == 1
    assert run.cached_steps == CACHED


def test_a_callback_that_changes_the_latents_is_heeded(flux, flux_call, make_policy):
    def double(at):
        return lambda pipe, i, t, kwargs: {"latents": kwargs["latents"] * (2 if i == at else 1)}

    outputs = []
    with ertacache.accelerated(flux, make_policy(8, (3, 4, 5, 6))):
        for at in (None, 7, 3):
            outputs.append(flux(**flux_call(callback_on_step_end=double(at))).images)
    assert torch.equal(outputs[1], outputs[0] * 2)  # after the last step
    assert (outputs[2] - outputs[0]).norm() > 0.1 * outputs[0].norm()  # between cached steps


def test_the_output_of_a_bfloat16_pipeline_stays_bfloat16(flux, flux_call, make_policy):
    flux.to(torch.bfloat16)
    arguments = {name: v.bfloat16() if isinstance(v, torch.Tensor) else v for name, v in flux_call(guided=True).items()}
    seen = []
    step = flux.scheduler.step
    flux.scheduler.step = lambda v, t, x, **more: seen.append((v.dtype, x.dtype)) or step(v, t, x, **more)
    flux(**arguments)
    del flux.scheduler.step
    with ertacache.accelerated(flux, make_policy(8, CACHED, "taylor")):
        out = flux(**arguments).images
    assert seen == [(torch.bfloat16, torch.bfloat16)] * 8
    assert out.dtype == torch.bfloat16
    assert out.isfinite().all()
