"""SenCache: its sensitivities and its rule by hand, and what it does to pipelines."""

from math import sqrt

import numpy as np
import pytest
import torch

from benchmarks.rivals.base import Subject
from benchmarks.rivals.sencache import SENCACHE, Rule, Sensitivity, measured, timestep_of
from ertacache.evaluation.cost import counting_flops
from tests.rivals.subjects import CALLS_PER_STEP, STEPS, found, generate, subject_of

ALWAYS = {"thresh_main": 1e9, "thresh_start": 1e9, "n": 3}


def decisions(rule: Rule, latents: list[float], timesteps: list[float]) -> list[bool]:
    """On latents of four equal elements."""
    return [
        rule.skips(n, torch.full((4,), float(x)), t) for n, (x, t) in enumerate(zip(latents, timesteps, strict=True))
    ]


def rule(main: float, *, start: float = 0.0, early: int = 1, most: int = 9, steps: int = 7) -> Rule:
    # Those of skipped steps, which are zero here, do not count.
    sensitivity = Sensitivity([0.5, 0.0, 0.0, 2.0, 0.0, 0.0], [0.1, 0.0, 0.0, 0.0, 0.0, 0.0])
    return Rule(sensitivity, main, start, early, most, steps)


def test_the_expected_change_is_taken_from_the_last_computed_step():
    # A change of 1 of each of four elements has norm 2: 0.5 * 2 + 0.1 * 2 = 1.2 is expected at step 1, 2.4 at step 2
    # and 3.6 at step 3; of each element 0.6, 1.2 and 1.8. From step 3 on it is 2 a step, from step 4 on nothing.
    latents, timesteps = [0.0, 1, 2, 3, 4, 5, 6], [14.0, 12, 10, 8, 6, 4, 2]
    assert decisions(rule(1.7), latents, timesteps) == [False, True, True, False, False, True, True]
    assert decisions(rule(0.5), latents, timesteps)[:4] == [False, False, True, True]


def test_the_timestep_alone_counts_too():
    skips = decisions(rule(0.25), [0.0] * 7, [14.0, 12, 10, 8, 6, 4, 2])
    # 0.1 * 2, 4, 6 over the root of four elements: 0.1, 0.2 and 0.3.
    assert skips[:4] == [False, True, True, False]


def test_early_steps_have_their_own_tolerance():
    latents, timesteps = [0.0] * 7, [14.0, 12, 10, 8, 6, 4, 2]
    assert decisions(rule(9.0, start=0.15, early=4), latents, timesteps)[:4] == [False, True, False, True]
    assert decisions(rule(9.0, early=1), latents, timesteps) == [False, *[True] * 6]


def test_so_many_consecutive_steps_are_skipped_at_most_and_never_the_last():
    still = [0.0] * 7
    assert decisions(rule(9.0, most=2), still, still) == [False, True, True, False, True, True, False]
    assert decisions(rule(9.0, steps=5), still, still)[4:6] == [True, False]


def test_a_tolerance_of_zero_skips_nothing():
    assert not any(decisions(rule(0.0), [0.0] * 7, [0.0] * 7))


def test_sensitivities_are_differences_to_the_next_steps_input():
    flux, seen = subject_of("flux"), []
    hook = flux.denoiser.register_forward_hook(
        lambda module, args, kwargs, output: seen.append((kwargs, output[0].clone())), with_kwargs=True
    )
    generate(flux)
    hook.remove()
    by_latents, by_timestep = measured(flux, flux.calibration_prompts[0], 0)
    assert len(by_latents) == len(by_timestep) == STEPS - 1
    for step in (0, 3, 6):
        (given, left), (later, _) = seen[2 * step], seen[2 * step + 2]
        with torch.no_grad():
            moved = flux.denoiser(**{**given, "hidden_states": later["hidden_states"]})[0] - left
            shifted = flux.denoiser(**{**given, "timestep": later["timestep"]})[0] - left
        way = (later["hidden_states"] - given["hidden_states"]).norm()
        assert by_latents[step] == pytest.approx((moved.norm() / way).item(), rel=1e-4)
        apart = timestep_of(given) - timestep_of(later)
        assert apart > 0
        assert by_timestep[step] == pytest.approx(shifted.norm().item() / apart, rel=1e-4)


@pytest.mark.parametrize("name", ["flux", "opensora"])
def test_measuring_takes_two_more_calls_a_step_and_is_averaged_over_prompts(name):
    subject, calls = subject_of(name), []
    plain, before = generate(subject), found(subject)
    hook = subject.denoiser.proj_out.register_forward_hook(lambda *args: calls.append(1)) if name == "flux" else None
    prepared = SENCACHE.prepare(subject)
    if hook is not None:
        hook.remove()
        assert len(calls) == 2 * (2 * STEPS + 2 * (STEPS - 1))
    runs = [measured(subject, prompt, seed) for seed, prompt in enumerate(subject.calibration_prompts)]
    np.testing.assert_allclose(prepared.latents, np.mean([run[0] for run in runs], axis=0))
    np.testing.assert_allclose(prepared.timestep, np.mean([run[1] for run in runs], axis=0))
    assert found(subject) == before
    assert torch.equal(generate(subject), plain)


@pytest.mark.parametrize("name", CALLS_PER_STEP)
def test_at_a_tolerance_of_zero_nothing_changes_and_at_a_strong_one_both_branches_skip(name):
    subject = subject_of(name)
    with counting_flops(subject.pipe) as full:
        plain = generate(subject)
    before = found(subject)
    some = Sensitivity([1.0] * (STEPS - 1), [1.0] * (STEPS - 1))
    with SENCACHE.attach(subject, {"thresh_main": 0.0, "thresh_start": 0.0, "n": 3}, some):
        assert torch.equal(generate(subject), plain)

    with SENCACHE.attach(subject, ALWAYS, some) as cache, counting_flops(subject.pipe) as cost:
        made = generate(subject)
    assert 3 / 8 < cost.flops / full.flops < 3.7 / 8  # 0, 4 and 7 of eight steps, and the heads
    assert cache.reference is not None
    assert cache.reference[0] == STEPS - 1
    assert cache.early == 2
    assert made.isfinite().all()
    assert not torch.equal(made, plain)
    assert found(subject) == before


def test_the_tolerance_is_a_root_mean_square():
    flux = subject_of("flux")
    some = Sensitivity([1.0] * (STEPS - 1), [0.0] * (STEPS - 1))
    entered = []
    hook = flux.denoiser.register_forward_pre_hook(
        lambda module, args, kwargs: entered.append(kwargs["hidden_states"].clone()), with_kwargs=True
    )
    generate(flux)
    hook.remove()
    moved = (entered[2] - entered[0]).norm().item() / sqrt(entered[0].numel())
    for factor, reference in ((1.01, 0), (0.99, 1)):
        with SENCACHE.attach(flux, {"thresh_main": 0.0, "thresh_start": factor * moved, "n": 1}, some) as cache:
            assert references(flux, cache)[2] == reference


def references(subject: Subject, cache: Rule) -> list[int]:
    """The last computed step after each call."""
    steps: list[int] = []
    hook = subject.denoiser.register_forward_hook(lambda *args: steps.append(cache.reference[0]))
    generate(subject)
    hook.remove()
    return steps
