"""Whatever was done to a pipeline before, it gives what a fresh one gives in the same state, or refuses alike."""

from __future__ import annotations

import copy
import functools
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    FirstBlockCacheConfig,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from diffusers.guiders import ClassifierFreeGuidance
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import ertacache
from contract.families import CASES
from contract.families.paper import UNIPC, video_call, wan
from contract.families.unets import SD_DDIM, sd, sd_call
from ertacache.errors import ERTACacheError
from ertacache.method.named_methods import Method
from ertacache.policy import Policy
from tests.adapters import load_lora

STEPS = 5
FAR = 4.0
"""A picture that nothing was said about is at most so many times as far from the full run's as calibration's were."""


@dataclass(frozen=True)
class Subject:
    """A pipeline, and what users do to it.

    Args:
        build: the pipeline as it comes.
        calls: arguments of its calls, by name; the policy is calibrated on the first.
        aspects: what can be set, each by name to one of its options; the first one is how the pipeline comes.
        switching: the prompt's name among a callback's tensors.
    """

    build: Callable[[], Any]
    calls: dict[str, Callable[[], dict[str, Any]]]
    aspects: dict[str, dict[str, Callable[[Any], Any]]]
    switching: str = "prompt_embeds"
    fresh: dict[Any, Any] = field(default_factory=dict)
    """What new pipelines gave, by state, policy, call and seed."""


def nothing(pipe: Any) -> None:
    pass


def scheduled(make):
    def apply(pipe):
        pipe.scheduler = make()

    return apply


def lora(name, seed, active=True):
    def apply(pipe):
        model = "unet" if hasattr(pipe, "unet") else "transformer"
        if not any("lora_" in key for key, _ in getattr(pipe, model).named_parameters()):
            shown = pipe if model == "transformer" else type("Shown", (), {"transformer": pipe.unet})
            load_lora(shown, name, seed)
        getattr(pipe, model).enable_lora() if active else getattr(pipe, model).disable_lora()

    return apply


def unloaded(pipe):
    getattr(pipe, "unet" if hasattr(pipe, "unet") else "transformer").unload_lora()


def cached(on):
    def apply(pipe):
        if pipe.transformer.is_cache_enabled:
            pipe.transformer.disable_cache()
        if on:
            pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.1))

    return apply


def guided(scale):
    def apply(pipe):
        pipe.guider = ClassifierFreeGuidance(guidance_scale=scale)

    return apply


ADAPTERS = {"none": unloaded, "on": lora("style", 0), "off": lora("style", 0, active=False)}
SUBJECTS = {
    "Wan": Subject(
        lambda: wan(FlowMatchEulerDiscreteScheduler(shift=3.0)),
        {
            "guided": video_call,
            "unguided": lambda: video_call(guidance_scale=1.0),
            "two videos": lambda: video_call(num_videos_per_prompt=2),
            "wider": lambda: video_call(width=32),
        },
        {
            "scheduler": {
                "Euler": scheduled(lambda: FlowMatchEulerDiscreteScheduler(shift=3.0)),
                "other shift": scheduled(lambda: FlowMatchEulerDiscreteScheduler(shift=1.0)),
                "UniPC": scheduled(lambda: UniPCMultistepScheduler(**UNIPC)),
                "DPM": scheduled(lambda: DPMSolverMultistepScheduler(**UNIPC)),
            },
            "adapter": ADAPTERS,
        },
    ),
    "FLUX": Subject(
        CASES["FLUX, true guidance"].build,
        {
            "guided": CASES["FLUX, true guidance"].call,
            "weaker": lambda: {**CASES["FLUX, true guidance"].call(), "true_cfg_scale": 2.0},
            "numpy": lambda: {**CASES["FLUX, true guidance"].call(), "height": torch.tensor(16).numpy()},
        },
        {"another cache": {"off": cached(False), "on": cached(True)}, "adapter": ADAPTERS},
    ),
    "Stable Diffusion": Subject(
        lambda: sd(DDIMScheduler(**SD_DDIM)),
        {
            "guided": sd_call,
            "two pictures": lambda: sd_call(num_images_per_prompt=2),
            "stronger": lambda: sd_call(guidance_scale=9.0),
            "noisy": lambda: sd_call(eta=0.5),
        },
        {
            "FreeU": {
                "off": lambda pipe: pipe.disable_freeu(),
                "on": lambda pipe: pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.4, b2=1.6),
            },
            "adapter": ADAPTERS,
            "attention": {
                "whole": lambda pipe: pipe.disable_attention_slicing(),
                "sliced": lambda pipe: pipe.enable_attention_slicing(),
            },
        },
    ),
    "HunyuanVideo 1.5": Subject(
        CASES["HunyuanVideo15"].build,
        {"guided": CASES["HunyuanVideo15"].call, "taller": CASES["HunyuanVideo15"].others[1]},
        {"guider": {"6": guided(6.0), "3": guided(3.0), "off": guided(1.0)}},
        switching="",
    ),
}


class Interruption(Exception):  # noqa: N818
    """Raised in the middle of a call."""


def built(subject, state):
    pipe = subject.build()
    pipe.set_progress_bar_config(disable=True)
    for aspect, option in state:
        if option != next(iter(subject.aspects[aspect])):
            subject.aspects[aspect][option](pipe)
    return pipe


@functools.cache
def policies(name):
    """By hand at two levels, and calibrated on the first call of the pipeline as it comes."""

    def by_hand(predictor, level="velocity", cached=(1, 3)):
        return Policy(num_inference_steps=STEPS, cached_steps=cached, method=Method(predictor=predictor, level=level))

    subject = SUBJECTS[name]
    call = next(iter(subject.calls.values()))()
    calibrated = ertacache.calibrate(
        built(subject, ()),
        [{**call, "generator": torch.Generator().manual_seed(seed)} for seed in (0, 1)],
        num_inference_steps=STEPS,
        num_computed_steps=3,
        method=Method(schedule="uniform", predictor="aligned"),
        progress=False,
    )
    found = {"reuse": by_hand("reuse"), "taylor": by_hand("taylor", cached=(2, 3)), "aligned": calibrated}
    return found if name == "Stable Diffusion" else {**found, "hidden": by_hand("reuse", "hidden")}


def generated(subject, pipe, call, seed, **more):
    """The latents; or that the policy was refused."""
    arguments = {**subject.calls[call](), "generator": torch.Generator().manual_seed(seed), **more}
    try:
        return pipe(**arguments, num_inference_steps=STEPS, output_type="latent")[0]
    except ERTACacheError:
        return None


def distance(one, other):
    return float((one.double() - other.double()).norm() / other.double().norm())


def fresh(name, state, policy, call, seed):
    """What a new process would give, and the notes of it."""
    subject, key = SUBJECTS[name], (state, policy, call, seed)
    if key not in subject.fresh:
        pipe, notes, out = built(subject, state), [], None
        try:
            run = ertacache.enable(pipe, policies(name)[policy]) if policy is not None else None
        except ERTACacheError:
            pass
        else:
            out = generated(subject, pipe, call, seed)
            notes = run.report.notes if run else []
        if policy == "aligned" and out is not None and not notes:  # nothing was said, so it is as it should be
            usual = policies(name)["aligned"].calibration.error
            assert distance(out, fresh(name, state, None, call, seed)[0]) < FAR * usual, key
        subject.fresh[key] = out, notes
    return subject.fresh[key]


class Session(RuleBasedStateMachine):
    """A user's session with one pipeline object."""

    name = "Wan"

    def __init__(self):
        super().__init__()
        self.subject = SUBJECTS[self.name]
        self.pipe = built(self.subject, ())
        self.state = {aspect: next(iter(options)) for aspect, options in self.subject.aspects.items()}
        self.first = next(iter(self.subject.calls))
        self.policy = self.run = None
        self.kind = type(self.pipe).__name__

    @rule(data=st.data())
    def enable(self, data):
        ertacache.disable(self.pipe)
        self.policy = self.run = None
        policy = data.draw(st.sampled_from(sorted(policies(self.name))))
        try:
            self.run = ertacache.enable(self.pipe, policies(self.name)[policy])
        except ERTACacheError:
            assert fresh(self.name, self.key, policy, self.first, 0)[0] is None
        else:
            self.policy = policy
        self.compare(self.first, 0)

    @rule()
    def disable(self):
        ertacache.disable(self.pipe)
        self.policy = self.run = None
        self.compare(self.first, 0)

    @rule(data=st.data())
    def change(self, data):
        aspect = data.draw(st.sampled_from(sorted(self.subject.aspects)))
        option = data.draw(st.sampled_from(sorted(self.subject.aspects[aspect])))
        self.subject.aspects[aspect][option](self.pipe)
        self.state[aspect] = option
        self.compare(self.first, 0)

    @rule(data=st.data(), seed=st.integers(0, 1))
    def generate(self, data, seed):
        self.compare(data.draw(st.sampled_from(sorted(self.subject.calls))), seed)

    @property
    def key(self):
        return tuple(self.state.items())

    def compare(self, call, seed, pipe=None):
        out = generated(self.subject, pipe or self.pipe, call, seed)
        wanted, notes = fresh(self.name, self.key, self.policy, call, seed)
        assert (out is None) == (wanted is None)
        assert out is None or torch.equal(out, wanted)
        if out is not None and self.run is not None:
            assert self.run.report.notes == notes

    @rule(data=st.data(), step=st.integers(0, STEPS - 1))
    def interrupt(self, data, step):
        calls = iter(range(100))

        def stop(module, args):
            if next(calls) == step:
                raise Interruption

        model = getattr(self.pipe, "unet", None) or self.pipe.transformer
        hook = model.register_forward_pre_hook(stop)
        try:
            generated(self.subject, self.pipe, data.draw(st.sampled_from(sorted(self.subject.calls))), 0)
        except Interruption:
            pass
        finally:
            hook.remove()
        if self.state.get("another cache") == "on":  # which itself carries over what an interrupted call has left
            cached(True)(self.pipe)
        self.compare(self.first, 0)

    @precondition(lambda self: self.subject.switching)
    @rule(step=st.integers(0, STEPS - 2))
    def switch_the_prompt(self, step):
        """Calls after one in which a callback acted are not touched by it; and it is said, where it matters."""
        name = self.subject.switching

        def callback(pipe, i, t, values):
            return {name: values[name].flip(-1)} if i == step else {}

        inputs = {"callback_on_step_end_tensor_inputs": ["latents", name]}
        out = generated(self.subject, self.pipe, self.first, 0, callback_on_step_end=callback, **inputs)
        if out is not None and self.policy == "aligned":
            assert self.run.report.notes
        self.compare(self.first, 0)

    @precondition(lambda self: self.state.get("another cache") != "on")  # whose own state threads would share
    @rule(seeds=st.tuples(st.integers(0, 1), st.integers(0, 1)))
    def two_threads(self, seeds):
        """Each with a copy of the pipeline, as the error of a shared one advises."""
        outs: dict[int, Any] = {}

        def request(number, seed):
            mine = copy.copy(self.pipe)
            mine.scheduler = copy.deepcopy(self.pipe.scheduler)
            for part in ("guider",):
                if hasattr(mine, part):
                    setattr(mine, part, copy.deepcopy(getattr(mine, part)))
            outs[number] = generated(self.subject, mine, self.first, seed), self.run and self.run.report

        threads = [threading.Thread(target=request, args=pair) for pair in enumerate(seeds)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for number, seed in enumerate(seeds):
            wanted, _ = fresh(self.name, self.key, self.policy, self.first, seed)
            out, report = outs[number]
            assert (out is None) == (wanted is None)
            assert out is None or torch.equal(out, wanted)
            if out is not None and report is not None:
                assert len(report.computed_steps) + len(report.cached_steps) == STEPS
        if self.run:
            assert outs[0][1] is not outs[1][1] or outs[0][0] is None or outs[1][0] is None
        self.compare(self.first, 0)

    @precondition(lambda self: self.policy is None)
    @rule(at=st.integers(0, 60))
    def calibrate_and_interrupt(self, at):
        """In the full runs, in a closed loop, or not at all; nothing stays behind."""
        calls = iter(range(10_000))

        def stop(module, args):
            if next(calls) == at:
                raise KeyboardInterrupt

        model = getattr(self.pipe, "unet", None) or self.pipe.transformer
        hook = model.register_forward_pre_hook(stop)
        call = {**self.subject.calls[self.first](), "generator": torch.Generator().manual_seed(0)}
        try:
            ertacache.calibrate(self.pipe, [call], num_inference_steps=STEPS, num_computed_steps=3, progress=False)
        except (KeyboardInterrupt, ERTACacheError):
            pass
        finally:
            hook.remove()
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("ertacache")]
        self.compare(self.first, 0)

    @invariant()
    def looks_like_itself(self):
        assert type(self.pipe).__name__ == self.kind
        model = getattr(self.pipe, "unet", None) or self.pipe.transformer
        assert "_compiled_call_impl" not in vars(model)
        assert not hasattr(type(self.pipe.scheduler), "_ertacache_seam")


def sessions(name, examples):
    machine = type(f"SessionOf{name.split()[0]}", (Session,), {"name": name})
    machine.TestCase.settings = settings(
        max_examples=examples,
        stateful_step_count=25,
        deadline=None,
        derandomize=True,
        phases=[Phase.generate],  # a failing session is told as it is: to shrink it takes minutes
        suppress_health_check=list(HealthCheck),
    )
    return machine.TestCase


TestWan = sessions("Wan", 10)
TestFLUX = sessions("FLUX", 10)
TestStableDiffusion = sessions("Stable Diffusion", 4)
TestHunyuanVideo = sessions("HunyuanVideo 1.5", 2)
TestManyOfWan = pytest.mark.slow(sessions("Wan", 70))
TestManyOfFLUX = pytest.mark.slow(sessions("FLUX", 70))
TestManyOfStableDiffusion = pytest.mark.slow(sessions("Stable Diffusion", 50))
TestManyOfHunyuanVideo = pytest.mark.slow(sessions("HunyuanVideo 1.5", 10))
