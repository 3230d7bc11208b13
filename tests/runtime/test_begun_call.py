"""A call that is begun to see how it follows a policy ends early, and leaves nothing behind."""

from __future__ import annotations

import logging

import pytest
import torch

import ertacache
from contract.case import Family
from contract.families import CASES
from contract.state import differences, state_of
from ertacache.errors import PolicyMismatchError
from ertacache.runtime.begun_call import begun
from ertacache.runtime.instant import Instant
from ertacache.runtime.policy_source import GivenPolicy
from ertacache.runtime.step_budget import StepBudget

STEPS = 8


@pytest.fixture
def counted(flux):
    """The pipeline, and how often its denoiser has run."""
    calls = []
    flux.transformer.register_forward_pre_hook(lambda module, args: calls.append(1))
    return flux, calls


@pytest.mark.parametrize(("with_first_step", "expected"), [(False, 0), (True, 2)])
def test_it_ends_at_the_noise_levels_or_after_the_first_step(counted, flux_call, with_first_step, expected):
    flux, calls = counted
    before, drawn = state_of(flux), torch.get_rng_state()
    call = {**flux_call(guided=True), "num_inference_steps": STEPS}
    driver = begun(flux, Instant(StepBudget(2.0)), call, with_first_step=with_first_step)
    assert len(calls) == expected
    assert len(driver.levels) == STEPS + 1
    assert (driver.first is not None) == with_first_step
    assert differences(state_of(flux), before) == []
    assert torch.equal(torch.get_rng_state(), drawn)


def test_it_raises_what_a_whole_call_raises(flux, flux_call, make_policy):
    policy, call = make_policy(STEPS, (2, 3)), {**flux_call(), "num_inference_steps": STEPS + 1}
    with pytest.raises(PolicyMismatchError) as expected, ertacache.accelerated(flux, policy):
        flux(**call)
    with pytest.raises(PolicyMismatchError) as raised:
        begun(flux, GivenPolicy(policy), call, with_first_step=False)
    assert str(raised.value) == str(expected.value)


def test_parts_that_are_offloaded_whole_are_sent_away_again(flux, flux_call):
    flux.enable_model_cpu_offload(device="cpu")
    hooks = flux._all_hooks
    begun(flux, Instant(StepBudget(2.0)), {**flux_call(), "num_inference_steps": STEPS}, with_first_step=True)
    assert flux._all_hooks is not hooks, "a finished call takes them off and puts up new ones"
    assert flux.transformer._hf_hook in [each.hook for each in flux._all_hooks]


def test_a_refusal_of_a_modular_pipeline_logs_no_traceback(make_policy):
    family, logged = Family(CASES["WanModular"]), []
    log, handler = logging.getLogger("diffusers"), logging.Handler()
    handler.emit = logged.append
    log.addHandler(handler)
    try:
        with pytest.raises(PolicyMismatchError):
            begun(family.pipe, GivenPolicy(make_policy(4, (2,))), family.all_arguments(), with_first_step=False)
    finally:
        log.removeHandler(handler)
    assert logged == []
