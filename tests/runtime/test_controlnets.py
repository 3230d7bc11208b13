"""ControlNets run at computed steps only: what they give is for the denoiser, which does not run at cached steps."""

from __future__ import annotations

import pytest

import ertacache
from contract.case import STEPS, Family
from contract.families import CASES
from ertacache.method.named_methods import Method
from ertacache.policy import Policy
from ertacache.runtime.denoisers import controls_of, denoisers_of

CONTROLLED = [name for name in CASES if "ControlNet" in name]
CACHED = (2, 3, 6)


def counting(modules):
    """How often each module's forward runs from now on."""
    counts = dict.fromkeys(modules, 0)

    def count(name):
        def hook(module, args, output):
            counts[name] += 1

        return hook

    for name, module in modules.items():
        module.register_forward_hook(count(name))
    return counts


def test_many_families_have_one():
    assert len(CONTROLLED) >= 12


@pytest.mark.parametrize("name", CONTROLLED)
def test_a_controlnet_does_not_run_at_cached_steps(name):
    family = Family(CASES[name])
    controls = controls_of(family.pipe)
    if not controls:
        pytest.skip("the control is a part of the denoiser's own weights")
    plain = family.run()
    counts = counting(controls)
    with ertacache.accelerated(family.pipe, Policy(STEPS, (), Method())) as run:
        assert (family.run() == plain).all()
    made = len(run.computed_steps)
    full = dict(counts)
    with ertacache.accelerated(family.pipe, Policy(STEPS, CACHED, Method())) as run:
        family.run()
    cached = len(run.cached_steps)
    assert cached
    for control, count in full.items():
        assert counts[control] - count == count * (made - cached) // made, (counts, full)


def test_denoiser_calls_are_counted_without_those_of_controlnets():
    family = Family(CASES["FluxControlNet"])
    counts = counting(denoisers_of(family.pipe))
    with ertacache.accelerated(family.pipe, Policy(STEPS, CACHED, Method())) as run:
        family.run()
    assert run.report.denoiser_calls == sum(counts.values()) == STEPS - len(CACHED)
    calls = [family.arguments(seed) for seed in (1, 2)]
    policy = ertacache.calibrate(family.pipe, calls, num_inference_steps=STEPS, speedup=2, progress=False)
    assert policy.origin.calls_per_step == 1
