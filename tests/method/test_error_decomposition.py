"""Eqs. (7) to (11) in numbers: the deviation of a cached trajectory is feature shift times step length, summed.

An Euler sampler on a small ODE in float64, whose "network" depends on state and time. The identity is exact when the
error is measured against the outputs *of the reference trajectory*. Measured on the cached trajectory instead, as
Eq. (23) and calibration do, each error but the first misses what the network makes of the deviation so far,
``f(x~) - f(x)``. That is of the size of the deviation: the identity then holds to first order in the step lengths only.
"""

from __future__ import annotations

import numpy as np
import pytest

T, DIM, START = 20, 6, 7
LENGTHS = np.linspace(0.02, 0.08, T)
TIMES = 1 - np.concatenate([[0.0], np.cumsum(LENGTHS)])
RNG = np.random.default_rng(0)
MIX = RNG.normal(size=(DIM, DIM)) / DIM**0.5
NOISE = RNG.normal(size=DIM)


def network(x: np.ndarray, t: float) -> np.ndarray:
    return np.tanh(MIX @ x) + np.cos(3 * t) * x


def reference(lengths: np.ndarray = LENGTHS) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """``x_0 .. x_T`` and ``v_0 .. v_{T-1}`` of the full run."""
    latents, outputs = [NOISE], []
    for i, length in enumerate(lengths):
        outputs.append(network(latents[-1], TIMES[i]))
        latents.append(latents[-1] + length * outputs[-1])
    return latents, outputs


def shifts(m: int, size: float = 0.1) -> np.ndarray:
    return size * np.random.default_rng(m).normal(size=(m, DIM))


@pytest.mark.parametrize("m", [1, 2, 5, 10])
def test_the_deviation_is_the_sum_of_step_length_times_feature_shift(m: int) -> None:
    latents, outputs = reference()
    x, eps = latents[START], shifts(m)
    for k in range(m):
        x = x + LENGTHS[START + k] * (outputs[START + k] + eps[k])
    expected = sum(LENGTHS[START + k] * eps[k] for k in range(m))
    assert x - latents[START + m] == pytest.approx(expected, abs=1e-13)


@pytest.mark.parametrize("m", [1, 4])
def test_the_identity_is_exact_for_a_reused_output_too(m: int) -> None:
    latents, outputs = reference()
    reused = outputs[START - 1]
    x = latents[START] + sum(LENGTHS[START : START + m]) * reused
    eps = [reused - outputs[START + k] for k in range(m)]
    assert x - latents[START + m] == pytest.approx(sum(LENGTHS[START + k] * eps[k] for k in range(m)), abs=1e-13)


def cached_on_its_own_trajectory(lengths: np.ndarray, eps: np.ndarray) -> np.ndarray:
    """The deviation where every error is added to the network's output *at the cached latent*."""
    latents, _ = reference(lengths)
    x = latents[START]
    for k, shift in enumerate(eps):
        x = x + lengths[START + k] * (network(x, TIMES[START + k]) + shift)
    return x - latents[START + len(eps)]


def test_after_a_single_step_it_does_not_matter_on_which_trajectory_the_error_is_measured() -> None:
    eps = shifts(1)
    assert cached_on_its_own_trajectory(LENGTHS, eps) == pytest.approx(LENGTHS[START] * eps[0], abs=1e-14)


def test_on_the_cached_trajectory_the_identity_misses_the_network_s_answer_to_the_deviation() -> None:
    eps, lengths = shifts(2), LENGTHS[START : START + 2]
    latents, _ = reference()
    missed = cached_on_its_own_trajectory(LENGTHS, eps) - lengths @ eps
    shifted = latents[START + 1] + lengths[0] * eps[0]
    answer = network(shifted, TIMES[START + 1]) - network(latents[START + 1], TIMES[START + 1])
    assert missed == pytest.approx(lengths[1] * answer, abs=1e-13)
    assert np.linalg.norm(missed) > 1e-3 * np.linalg.norm(lengths @ eps)


def test_on_the_cached_trajectory_the_identity_holds_to_first_order_in_the_step_lengths() -> None:
    eps, relative = shifts(5), []
    for scale in (1.0, 0.5, 0.25, 0.125):
        first_order = scale * LENGTHS[START : START + 5] @ eps
        missed = cached_on_its_own_trajectory(scale * LENGTHS, eps) - first_order
        relative.append(np.linalg.norm(missed) / np.linalg.norm(first_order))
    assert relative[0] > 0.05
    assert relative[2] / relative[3] == pytest.approx(2, rel=0.1)


def test_on_the_cached_trajectory_smaller_errors_do_not_make_the_identity_truer() -> None:
    relative = []
    for size in (1e-2, 1e-4):
        first_order = LENGTHS[START : START + 5] @ shifts(5, size)
        missed = cached_on_its_own_trajectory(LENGTHS, shifts(5, size)) - first_order
        relative.append(np.linalg.norm(missed) / np.linalg.norm(first_order))
    assert relative[1] == pytest.approx(relative[0], rel=0.05)


def test_doubling_the_step_lengths_doubles_the_deviation_for_the_same_feature_shift() -> None:
    deviations = []
    for lengths in (LENGTHS, 2 * LENGTHS):
        latents, outputs = reference(lengths)
        x = latents[START]
        for k, shift in enumerate(shifts(4)):
            x = x + lengths[START + k] * (outputs[START + k] + shift)
        deviations.append(x - latents[START + 4])
    assert deviations[1] == pytest.approx(2 * deviations[0], abs=1e-13)


def test_with_an_euler_step_reusing_the_output_is_one_longer_step() -> None:
    computed = (0, 4, 9, 12, 19)
    x = NOISE
    for i, length in enumerate(LENGTHS):
        if i in computed:
            v = network(x, TIMES[i])
        x = x + length * v
    fewer = NOISE
    for here, after in zip(computed, (*computed[1:], T), strict=True):
        fewer = fewer + (TIMES[here] - TIMES[after]) * network(fewer, TIMES[here])
    assert x == pytest.approx(fewer, abs=1e-13)
