"""The gate sees the denoiser calls of its own run, whatever they return, and nobody else's."""

from __future__ import annotations

import copy
import gc
import sys
import threading
import weakref
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxImg2ImgPipeline, FluxPipeline
from diffusers.models.modeling_outputs import Transformer2DModelOutput

import ertacache
from ertacache import zoo
from ertacache.errors import ERTACacheError, PipelineError, RunError
from ertacache.runtime import gate

CACHED = (2, 3, 5)


@dataclass
class Plain:
    """An output class that pytrees do not know."""

    sample: torch.Tensor


CONTAINERS = {
    "tensor": (lambda v: v, lambda out: out),
    "tuple": (lambda v: (v, None), lambda out: out[0]),
    "list": (lambda v: [v, v + 1], lambda out: out[0]),
    "dict": (lambda v: {"sample": v, "name": "v"}, lambda out: out["sample"]),
    "ordered dict": (lambda v: OrderedDict(a=v), lambda out: out["a"]),
    "nested": (lambda v: ([{"v": (v,)}], 3), lambda out: out[0][0]["v"][0]),
    "diffusers output": (lambda v: Transformer2DModelOutput(sample=v), lambda out: out.sample),
    "dataclass": (lambda v: Plain(v), lambda out: out.sample),
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_any_container_of_outputs_is_kept_as_it_is(container, make_toy, make_policy):
    pack, unpack = CONTAINERS[container]
    seen = []

    def denoise(pipe, i, sample, t):
        seen.append(pipe.transformer(sample, t))
        return unpack(seen[-1])

    def answer(sample, timestep):
        return sample * 0.5 + timestep / 1000

    pipe = make_toy(lambda sample, timestep: pack(answer(sample, timestep)), denoise)
    plain = make_toy(answer)
    with ertacache.accelerated(pipe, make_policy(8, CACHED)), ertacache.accelerated(plain, make_policy(8, CACHED)):
        assert torch.equal(pipe(torch.ones(1, 4, 2)), plain(torch.ones(1, 4, 2)))
    assert pipe.transformer.calls == 5
    assert len({type(out) for out in seen}) == 1
    assert torch.equal(unpack(seen[2]), unpack(seen[1]))


@pytest.mark.parametrize("container", CONTAINERS)
def test_what_is_kept_does_not_change_when_the_pipeline_works_in_place(container, make_toy, make_policy):
    pack, unpack = CONTAINERS[container]
    seen = []

    def denoise(pipe, i, sample, t):
        out = unpack(pipe.transformer(sample, t))
        seen.append(out.clone())
        return out.mul_(2.0)

    pipe = make_toy(lambda sample, timestep: pack(sample * 0.5 + timestep / 1000), denoise)
    with ertacache.accelerated(pipe, make_policy(8, CACHED)):
        pipe(torch.ones(1, 4, 2))
    assert torch.equal(seen[2], seen[1])
    assert torch.equal(seen[3], seen[1])


def test_a_sibling_that_shares_the_modules_is_not_accelerated(flux, flux_call, make_policy, counted):
    counter = counted(flux.transformer)
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    siblings = [
        (FluxPipeline(**flux.components), flux_call, 8),
        (FluxImg2ImgPipeline(**flux.components), lambda: flux_call(image=image, strength=0.5), 4),
    ]
    for sibling, call, steps in siblings:
        sibling.set_progress_bar_config(disable=True)
        assert sibling.transformer is flux.transformer
        assert sibling.scheduler is flux.scheduler
        before = sibling(**call()).images
        counter.take()
        with ertacache.accelerated(flux, make_policy(8, CACHED)):
            assert torch.equal(sibling(**call()).images, before)
            assert counter.take() == steps
            flux(**flux_call())
            assert counter.take() == 5
            assert torch.equal(sibling(**call()).images, before)
            assert counter.take() == steps


def test_from_pipe_of_an_accelerated_pipeline_gives_a_plain_one(flux, flux_call, make_policy, counted):
    counter = counted(flux.transformer)
    with ertacache.accelerated(flux, make_policy(8, CACHED)):
        sibling = FluxPipeline.from_pipe(flux, dtype=torch.float32)
        sibling.set_progress_bar_config(disable=True)
        sibling(**flux_call())
        assert counter.take() == 8


def test_a_bare_call_of_the_denoiser_is_not_accelerated(flux, flux_call, make_policy, counted):
    arguments = {
        "hidden_states": torch.ones(1, 16, 16),
        "encoder_hidden_states": torch.ones(1, 4, 8),
        "pooled_projections": torch.ones(1, 8),
        "img_ids": torch.zeros(16, 3),
        "txt_ids": torch.zeros(4, 3),
    }
    counter = counted(flux.transformer)
    with ertacache.accelerated(flux, make_policy(8, CACHED)), torch.no_grad():
        flux(**flux_call())
        counter.take()
        bare = [flux.transformer(timestep=torch.tensor([t]), **arguments).sample for t in (0.2, 0.8)]
    assert counter.take() == 2
    assert not torch.equal(*bare)


def test_two_policies_in_one_process_do_not_meet(make_flux, flux_call, make_policy):
    pipes = [make_flux(seed=k) for k in range(2)]
    policies = [make_policy(8, (1, 3, 5)), make_policy(8, (2, 3, 4, 6), "taylor")]
    alone = []
    for pipe, policy in zip(pipes, policies, strict=True):
        with ertacache.accelerated(pipe, policy):
            alone.append(pipe(**flux_call()).images)
    with ertacache.accelerated(pipes[0], policies[0]) as one, ertacache.accelerated(pipes[1], policies[1]) as two:
        for _ in range(2):
            together = [pipe(**flux_call()).images for pipe in pipes]
            assert [torch.equal(a, b) for a, b in zip(alone, together, strict=True)] == [True, True]
    assert (one.cached_steps, two.cached_steps) == ((1, 3, 5), (2, 3, 4, 6))


def test_threads_with_copies_of_one_pipeline_do_not_meet(flux, flux_call, make_policy):
    policies = [make_policy(8, (1, 3, 5)), make_policy(8, (2, 3, 4, 6), "taylor"), None]
    pipes = [copy.copy(flux) for _ in policies]
    for pipe in pipes:
        pipe.scheduler = copy.deepcopy(flux.scheduler)
    meeting = threading.Barrier(len(pipes), timeout=30)

    def meet(pipe, i, t, kwargs):
        meeting.wait()
        return {}

    def run(k, **more):
        if policies[k] is None:
            return pipes[k](**flux_call(seed=k, **more)).images
        with ertacache.accelerated(pipes[k], policies[k]):
            return pipes[k](**flux_call(seed=k, **more)).images

    alone = [run(k) for k in range(3)]
    together = {}
    threads = [
        threading.Thread(target=lambda k=k: together.update({k: run(k, callback_on_step_end=meet)})) for k in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [torch.equal(alone[k], together[k]) for k in range(3)] == [True, True, True]
    assert "_compiled_call_impl" not in vars(flux.transformer)


def test_a_call_within_the_callback_of_another_call_has_a_run_of_its_own(flux, flux_call, make_policy, counted):
    inner = copy.copy(flux)
    inner.scheduler, counter = copy.deepcopy(flux.scheduler), counted(flux.transformer)
    previews = []

    def preview(pipe, i, t, kwargs):
        if i in (0, 2, 4):
            previews.append(inner(**flux_call(steps=6, seed=1)).images)
        return {}

    ertacache.enable(inner, make_policy(6, (1, 3), "taylor"))
    with ertacache.accelerated(flux, make_policy(8, CACHED)) as run:
        alone = flux(**flux_call()).images, inner(**flux_call(steps=6, seed=1)).images
        counter.take()
        assert torch.equal(flux(**flux_call(callback_on_step_end=preview)).images, alone[0])
        assert counter.take() == run.report.denoiser_calls + 3 * 4 == 5 + 3 * 4
    assert [torch.equal(image, alone[1]) for image in previews] == [True] * 3
    assert "_compiled_call_impl" not in vars(flux.transformer)


@pytest.mark.parametrize("at", range(7))
def test_a_plain_call_within_a_callback_is_plain(at, flux, flux_call, make_policy, counted):
    """It has the same denoiser, and a scheduler of its own; the call that it is made in goes on as if it were not."""
    inner, counter = copy.copy(flux), counted(flux.transformer)
    inner.scheduler = copy.deepcopy(flux.scheduler)
    alone, found = inner(**flux_call(steps=3, seed=1)).images, []

    def preview(pipe, i, t, kwargs):
        if i == at:
            found.append(inner(**flux_call(steps=3, seed=1)).images)
        return {}

    with ertacache.accelerated(flux, make_policy(8, CACHED, "taylor")) as run:
        expected = flux(**flux_call()).images
        counter.take()
        assert torch.equal(flux(**flux_call(callback_on_step_end=preview)).images, expected)
    assert torch.equal(found[0], alone)
    assert counter.take() == run.report.denoiser_calls + 3 == 5 + 3
    assert run.report.notes == []


def test_one_pipeline_in_two_threads_at_once_is_refused(flux, flux_call, make_policy):
    errors = []

    def call_from_another_thread():
        try:
            flux(**flux_call())
        except RunError as error:
            errors.append(str(error))

    def interfere(pipe, i, t, kwargs):
        if i == 3:
            thread = threading.Thread(target=call_from_another_thread)
            thread.start()
            thread.join()
        return {}

    with ertacache.accelerated(flux, make_policy(8, CACHED)):
        alone = flux(**flux_call()).images
        assert torch.equal(flux(**flux_call(callback_on_step_end=interfere)).images, alone)
    assert len(errors) == 1
    assert "copy of the pipeline with its own scheduler" in errors[0]


@pytest.fixture
def hectic():
    """Threads take turns after every few instructions."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def at_once(call, threads=4, rounds=150):
    """What ``call()`` returns or raises, by many threads that begin each round together."""
    meeting, found = threading.Barrier(threads, timeout=60), []

    def calls():
        for _ in range(rounds):
            meeting.wait()
            try:
                found.append(call())
            except Exception as error:
                found.append(error)

    workers = [threading.Thread(target=calls) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return found


@pytest.mark.parametrize("enabled_by", ["each thread", "one for all"])
def test_calls_at_once_on_one_pipeline_are_right_or_refused(enabled_by, hectic, make_toy, make_policy):
    """Whatever the threads' turns: never another picture, and never another error."""
    pipe, policy = make_toy(), make_policy(4, (1, 2))
    start = torch.ones(1, 4, 2)
    patched, own = lambda *args, **kwargs: own(*args, **kwargs), pipe.scheduler.step
    pipe.scheduler.step = patched
    with ertacache.accelerated(pipe, policy):
        alone = pipe(start, num_inference_steps=4)

    def call():
        if enabled_by == "one for all":
            return pipe(start, num_inference_steps=4)
        with ertacache.accelerated(pipe, policy):
            return pipe(start, num_inference_steps=4)

    with ertacache.accelerated(pipe, policy) if enabled_by == "one for all" else nullcontext():
        found = at_once(call)
    pictures = [out for out in found if isinstance(out, torch.Tensor)]
    assert all(torch.equal(picture, alone) for picture in pictures)
    reasons = {
        (type(error), error.what) if isinstance(error, ERTACacheError) else repr(error)
        for error in found
        if isinstance(error, Exception)
    }
    assert reasons <= {
        (RunError, "this pipeline's scheduler is in the middle of another call"),
        (PipelineError, "this pipeline is accelerated already"),
    }
    assert len(pictures) >= 150  # of each round, at least the first one's
    assert len(found) == 600
    assert (type(pipe).__name__, type(pipe.scheduler)) == ("ToyPipeline", FlowMatchEulerDiscreteScheduler)
    assert not hasattr(type(pipe), "_ertacache_class")
    assert vars(pipe.scheduler)["step"] is patched
    assert "_compiled_call_impl" not in vars(pipe.transformer)


def test_a_plain_sibling_in_another_thread_does_not_step_the_scheduler_of_a_call(flux, flux_call, make_policy):
    """It is refused, since its own picture would be wrong too; the call goes on undisturbed."""
    sibling, errors = FluxPipeline(**flux.components), []
    sibling.set_progress_bar_config(disable=True)
    expected = sibling(**flux_call()).images

    def elsewhere():
        try:
            sibling(**flux_call())
        except RunError as error:
            errors.append(error.what)

    def interfere(pipe, i, t, kwargs):
        if i == 3:
            thread = threading.Thread(target=elsewhere)
            thread.start()
            thread.join()
        return {}

    with ertacache.accelerated(flux, make_policy(8, CACHED)):
        alone = flux(**flux_call()).images
        assert torch.equal(flux(**flux_call(callback_on_step_end=interfere)).images, alone)
    assert errors == ["this pipeline's scheduler is in the middle of another call"]
    assert torch.equal(sibling(**flux_call()).images, expected)


def test_a_pipeline_that_calls_forward_directly_is_refused(make_toy, make_policy):
    pipe = make_toy(denoise=lambda pipe, i, sample, t: pipe.transformer.forward(sample, t))
    with (
        ertacache.accelerated(pipe, make_policy(8, CACHED)),
        pytest.raises(RunError, match=r"no call of the denoiser was seen .*calls its denoiser's forward\(\) directly"),
    ):
        pipe(torch.ones(1, 4, 2))
    assert pipe(torch.ones(1, 4, 2)).isfinite().all()


def test_a_run_keeps_no_output_alive_and_no_keeper(make_toy, make_policy):
    kept = []

    def answer(sample, timestep):
        kept.append(weakref.ref(out := sample * 0.5))
        return out

    pipe = make_toy(answer)
    with ertacache.accelerated(pipe, make_policy(8, CACHED)):
        pipe(torch.ones(1, 4, 2))
        gc.collect()
        assert [ref() for ref in kept] == [None] * 5
        assert not isinstance(vars(pipe.transformer).get("_compiled_call_impl"), gate.Gate)


def test_threads_with_copies_that_own_their_scheduler_and_vae_decode_the_clips_of_one_thread():
    """Wan's VAE keeps state on itself while it decodes, so copies that share it would damage each other's clips."""
    wan = zoo.load("wan")
    call = {**wan.arguments, "num_inference_steps": 4, "output_type": "pt"}

    def clip(pipe, prompt):
        generator = torch.Generator().manual_seed(0)
        with ertacache.accelerated(pipe, speedup=2.0):
            return pipe(prompt, generator=generator, **call).frames

    def copied():
        twin = copy.copy(wan.pipe)
        twin.scheduler, twin.vae = copy.deepcopy(wan.pipe.scheduler), copy.deepcopy(wan.pipe.vae)
        return twin

    prompts = wan.held_out_prompts[:2]
    alone = [clip(wan.pipe, prompt) for prompt in prompts]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(clip, [copied(), copied()], prompts))
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
