"""Whatever was done to a pipeline before, it gives what a fresh one gives in the same state."""

from __future__ import annotations

import functools

import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
    WanPipeline,
)
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import ertacache
from contract.families.paper import UNIPC, video_call, wan
from ertacache.errors import ERTACacheError, PolicyMismatchError
from ertacache.method.named import Method
from ertacache.policy import Policy
from tests.adapters import burn_in, load_lora

STEPS = 5
SCHEDULERS = {
    "Euler": lambda: FlowMatchEulerDiscreteScheduler(shift=3.0),
    "other shift": lambda: FlowMatchEulerDiscreteScheduler(shift=1.0),
    "UniPC": lambda: UniPCMultistepScheduler(**UNIPC),
    "DPM": lambda: DPMSolverMultistepScheduler(**UNIPC),
}
CALLS = {
    "guided": video_call,
    "unguided": lambda: video_call(guidance_scale=1.0),
    "two videos": lambda: video_call(num_videos_per_prompt=2),
    "wider": lambda: video_call(width=32),
}


class Interruption(Exception):  # noqa: N818
    """Raised in the middle of a call."""


ADAPTER = {
    "load": ("none", "loaded", load_lora),
    "disable": ("loaded", "disabled", lambda pipe: pipe.disable_lora()),
    "enable": ("disabled", "loaded", lambda pipe: pipe.enable_lora()),
    "unload": ("loaded", "none", lambda pipe: pipe.unload_lora_weights()),
    "burn": ("loaded", "burnt", burn_in),
}
"""What may be done with an adapter: from which state it leads to which."""
WAY_TO = {"none": (), "loaded": ("load",), "disabled": ("load", "disable"), "burnt": ("load", "burn")}


@functools.cache
def policies():
    """By hand at two levels, and calibrated: on the guided call, with Euler, without an adapter."""

    def by_hand(name, level="velocity", cached=(1, 3)):
        return Policy(num_inference_steps=STEPS, cached_steps=cached, method=Method(predictor=name, level=level))

    calibrated = ertacache.calibrate(
        built("Euler", "none"),
        [video_call()],
        num_inference_steps=STEPS,
        num_computed_steps=3,
        method=Method(schedule="uniform", predictor="aligned"),
        progress=False,
    )
    return {
        "reuse": by_hand("reuse"),
        "taylor": by_hand("taylor", cached=(2, 3)),
        "hidden": by_hand("reuse", "hidden"),
        "aligned": calibrated,
    }


def built(scheduler, adapter):
    pipe = wan(SCHEDULERS[scheduler]())
    assert isinstance(pipe, WanPipeline)
    pipe.set_progress_bar_config(disable=True)
    for what in WAY_TO[adapter]:
        ADAPTER[what][2](pipe)
    return pipe


def generated(pipe, call, seed):
    """The latents; or that the policy was refused."""
    arguments = {**CALLS[call](), "generator": torch.Generator().manual_seed(seed)}
    try:
        return pipe(**arguments, num_inference_steps=STEPS, output_type="latent").frames
    except PolicyMismatchError:
        return None


@functools.cache
def fresh(scheduler, adapter, policy, call, seed):
    """What a new process would give."""
    pipe = built(scheduler, adapter)
    if policy is not None:
        try:
            ertacache.enable(pipe, policies()[policy])
        except PolicyMismatchError:
            return None
    return generated(pipe, call, seed)


class Session(RuleBasedStateMachine):
    """A user's session with one pipeline object."""

    def __init__(self):
        super().__init__()
        self.pipe = built("Euler", "none")
        self.scheduler, self.adapter, self.policy = "Euler", "none", None

    @rule(policy=st.sampled_from(["aligned", "hidden", "reuse", "taylor"]))
    def enable(self, policy):
        ertacache.disable(self.pipe)
        self.policy = None
        try:
            ertacache.enable(self.pipe, policies()[policy])
        except PolicyMismatchError:
            assert policy == "aligned"
        else:
            self.policy = policy
        self.compare("guided", 0)

    @rule()
    def disable(self):
        ertacache.disable(self.pipe)
        self.policy = None
        self.compare("guided", 0)

    @precondition(lambda self: self.adapter != "burnt")
    @rule(data=st.data())
    def adapt(self, data):
        possible = [what for what, (before, _, _) in ADAPTER.items() if before == self.adapter]
        _, self.adapter, act = ADAPTER[data.draw(st.sampled_from(possible))]
        act(self.pipe)
        self.compare("guided", 0)

    @rule(scheduler=st.sampled_from(sorted(SCHEDULERS)))
    def change_scheduler(self, scheduler):
        self.pipe.scheduler = SCHEDULERS[scheduler]()
        self.scheduler = scheduler
        self.compare("guided", 0)

    @rule(call=st.sampled_from(sorted(CALLS)), seed=st.integers(0, 1))
    def generate(self, call, seed):
        self.compare(call, seed)

    def compare(self, call, seed):
        out = generated(self.pipe, call, seed)
        wanted = fresh(self.scheduler, self.adapter, self.policy, call, seed)
        assert (out is None) == (wanted is None)
        assert out is None or torch.equal(out, wanted)

    @rule(call=st.sampled_from(sorted(CALLS)), step=st.integers(0, STEPS - 1))
    def interrupt(self, call, step):
        def stop(pipe, i, t, kwargs):
            if i == step:
                raise Interruption
            return kwargs

        arguments = {**CALLS[call](), "generator": torch.Generator().manual_seed(0), "callback_on_step_end": stop}
        with pytest.raises((Interruption, ERTACacheError)):
            self.pipe(**arguments, num_inference_steps=STEPS, output_type="latent")
        self.compare("guided", 0)

    @invariant()
    def looks_like_itself(self):
        assert type(self.pipe).__name__ == "WanPipeline"
        assert isinstance(self.pipe, WanPipeline)
        assert type(self.pipe.scheduler) is type(SCHEDULERS[self.scheduler]())
        assert "_compiled_call_impl" not in vars(self.pipe.transformer)


Session.TestCase.settings = settings(
    max_examples=30,
    stateful_step_count=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
test_a_session = Session.TestCase
