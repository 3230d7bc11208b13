"""Each erratum of the paper: the formula as printed does not do what it is for, and ours does."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ertacache.method.rectification import Moments, predicted_error, rectify
from ertacache.method.residual import from_cache, to_cache
from ertacache.method.timesteps import SMALLEST_CORRECTION, correction_coefficient, step_lengths

T = 30


def predictions(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Predictions around 0.5 and small errors that depend on them, as in a cached step."""
    generator = torch.Generator().manual_seed(seed)
    predicted = torch.randn(64, 4, generator=generator, dtype=torch.float64) + 0.5
    noise = 0.0005 * torch.randn(64, 4, generator=generator, dtype=torch.float64)
    return predicted, 0.006 * predicted - 0.002 + noise


def fit(predicted: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
    moments = Moments("step")
    moments.add(predicted, predicted - eps)
    return moments.solve()


def lengths_as_printed(num_steps: int, cached: Collection[int], phi: float, after: Collection[int]) -> list[float]:
    """Eq. (14) with its sum read as what is used up, ``Delta_c`` renewed after the steps ``after``."""
    lengths, current = [], 1 / num_steps
    for i in range(num_steps):
        lengths.append(current * phi if i in cached else current)
        if i in after:
            current = (1 - sum(lengths)) / (1 - i / num_steps)
    return lengths


def test_e1_renewed_after_every_step_the_printed_budget_is_all_spent_on_the_second() -> None:
    lengths = lengths_as_printed(T, {5}, 0.5, after=range(T))
    assert lengths[0] == 1 / T
    assert lengths[1] == pytest.approx(1 - 1 / T)
    assert lengths[2:] == pytest.approx([0] * (T - 2))


def test_e1_renewed_after_cached_steps_every_later_step_takes_nearly_the_whole_printed_budget() -> None:
    lengths = lengths_as_printed(T, {5}, 0.5, after={5})
    assert min(lengths[6:]) > 0.95
    assert sum(lengths) > 20


def test_e1_ours_keeps_to_one_step_s_share_and_sums_to_one() -> None:
    lengths = step_lengths(T, {5}, {5: 0.5})
    assert lengths[:5] == pytest.approx([1 / T] * 5)
    assert max(lengths) < 1.1 / T
    assert sum(lengths) == pytest.approx(1)


def test_e2_the_printed_offset_is_not_least_squares_and_ours_is() -> None:
    predicted, eps = predictions()
    k, b = fit(predicted, eps)
    printed_b = 4 * (eps.mean() - 0.5) - 4 * k * predicted.mean()
    v = predicted.flatten().numpy()
    slope, offset = np.linalg.lstsq(np.stack([v, np.ones_like(v)], 1), eps.flatten().numpy())[0]
    assert float(k / 4) == pytest.approx(slope, abs=1e-10)
    assert float(b / 4 + 0.5) == pytest.approx(offset, abs=1e-10)
    assert abs(float(printed_b / 4 + 0.5) - offset) > 0.005
    left, printed_left = (rectify(predicted, k, c) - (predicted - eps) for c in (b, printed_b))
    assert printed_left.square().mean() > 10 * left.square().mean()


def test_e3_where_there_is_no_error_the_sigmoid_still_subtracts_0_12_and_the_line_nothing() -> None:
    predicted = predictions()[0]
    k, b = fit(predicted, torch.zeros_like(predicted))
    assert (float(k), float(b)) == pytest.approx((0, -2))
    assert predicted_error(predicted, k, b, sigmoid=True).flatten() == pytest.approx(0.1192, abs=1e-4)
    assert predicted_error(predicted, k, b).flatten() == pytest.approx(0, abs=1e-12)


def test_e3_the_sigmoid_is_off_by_about_0_12_for_every_element_of_a_real_fit() -> None:
    predicted, eps = predictions()
    k, b = fit(predicted, eps)
    assert float((predicted_error(predicted, k, b, sigmoid=True) - eps).min()) > 0.1
    assert float((predicted_error(predicted, k, b) - eps).abs().max()) < 0.01


CACHED = {3, 5, 6, 9}
LENGTHS = step_lengths(12, CACHED, dict.fromkeys(CACHED, 0.5))


def sampled(where: str, fits: dict[int, tuple[Tensor, Tensor]]) -> Tensor:
    """The last latents of 256 prompts, with the residual reused in cached steps and outputs corrected ``where``.

    Args:
        where: ``every step computed``; ``nowhere``; ``cached``, the cached step's output; ``before``, as printed: where
            step i is cached, the output of the step before it.
        fits: K and B by the step whose output they correct; at ``cached`` solved on the way, as in calibration.
    """
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(3, 3, generator=generator, dtype=torch.float64) * 0.5
    x = torch.randn(256, 3, generator=generator, dtype=torch.float64)
    residual = torch.zeros(())
    for i, length in enumerate(LENGTHS):
        v = torch.tanh(x @ mix) * (1 + 0.2 * i) + torch.cos(x + 0.3 * i)
        if i in CACHED and where != "every step computed":
            reused = from_cache(x, residual, "output")
            if where == "cached":
                moments = Moments("element")
                moments.add(reused, v)
                fits[i] = moments.solve()
            v = reused
        else:
            residual = to_cache(x, v, "output")
        if i in fits and ((where == "cached" and i in CACHED) or (where == "before" and i + 1 in CACHED)):
            v = rectify(v, *fits[i])
        x = x + length * v
    return x


def test_e4_correcting_the_output_before_the_cached_one_is_worse_than_correcting_the_cached_one() -> None:
    truth, fits = sampled("every step computed", {}), {}
    error = {where: float((sampled(where, fits) - truth).norm()) for where in ("cached", "nowhere")}
    of_that_step = float((sampled("before", fits) - truth).norm())
    of_the_cached_step = float((sampled("before", {i - 1: fit for i, fit in fits.items()}) - truth).norm())
    assert error["cached"] < 0.5 * error["nowhere"]
    assert of_that_step > 1.5 * error["cached"]
    assert of_the_cached_step > 1.1 * error["cached"]


def algorithm_1_lengths(num_steps: int, corrections: Mapping[int, float], sum_of: str, shares: str) -> list[float]:
    """Algorithm 1, lines 3 to 12, E1's lost factor T restored; in sampling order, where the paper's i is T-1-i.

    Args:
        sum_of: ``j <= i as printed`` adds up what stands at 1 .. i, steps still to come; ``used`` what is used up.
        shares: ``T - i as printed``, i being the `paper` or `ours`, or ``left``, the number of steps left.
    """
    lengths, current = dict.fromkeys(range(num_steps), 0.0), 1 / num_steps
    for i in range(num_steps - 1, -1, -1):
        position = num_steps - 1 - i
        lengths[i] = current * corrections.get(position, 1.0)
        if position in corrections:
            counted = range(1, i + 1) if sum_of == "j <= i as printed" else range(i, num_steps)
            denominator = {"paper": num_steps - i, "ours": num_steps - position, "left": i}[shares]
            current = (1 - sum(lengths[j] for j in counted)) / denominator
    return [lengths[i] for i in range(num_steps - 1, -1, -1)]


CORRECTIONS = {3: 0.4, 20: 0.5, 22: 0.3}


@pytest.mark.parametrize(
    ("sum_of", "shares"),
    [("j <= i as printed", "paper"), ("j <= i as printed", "left"), ("used", "paper"), ("used", "ours")],
)
def test_e5_printed_sums_and_counts_do_not_use_up_the_budget(sum_of: str, shares: str) -> None:
    assert abs(sum(algorithm_1_lengths(T, CORRECTIONS, sum_of, shares)) - 1) > 0.01
    assert sum(step_lengths(T, CORRECTIONS.keys(), CORRECTIONS)) == pytest.approx(1)


def test_e5_one_update_less_than_evaluations_leaves_a_whole_step_unmade() -> None:
    assert sum(step_lengths(T, CORRECTIONS.keys(), CORRECTIONS)[:-1]) < 1 - 1 / T


def test_e5_a_positive_step_along_noise_minus_data_leads_away_from_the_data() -> None:
    noise, data = 3.0, 1.0
    velocity = noise - data  # Eq. (2)
    way = sum(step_lengths(T, (), {}))
    assert noise + way * velocity == pytest.approx(2 * noise - data)
    assert noise - way * velocity == pytest.approx(data)


@settings(deadline=None, max_examples=100)
@given(st.dictionaries(st.integers(1, T - 2), st.floats(SMALLEST_CORRECTION, 1)))
def test_e5_with_the_right_count_an_update_after_cached_steps_only_is_no_error(corrections: dict[int, float]) -> None:
    inside_if = algorithm_1_lengths(T, corrections, "used", "left")
    assert inside_if == pytest.approx(step_lengths(T, corrections.keys(), corrections), abs=1e-12)


def test_e6_a_velocity_reused_right_after_a_computed_step_gets_correction_zero_and_stands_still() -> None:
    generator = torch.Generator().manual_seed(0)
    before, now, x_before, x_now = torch.randn(4, 100, generator=generator)
    reused = from_cache(x_now, to_cache(x_before, before, "velocity"), "velocity")
    phi = correction_coefficient(float((reused - now).abs().sum()), float((now - before).abs().sum()))
    assert phi == 0
    lengths = step_lengths(T, {10}, {10: phi})
    assert lengths[10] == pytest.approx(SMALLEST_CORRECTION / T)
    assert lengths[11:] == pytest.approx([(1 - sum(lengths[:11])) / (T - 11)] * (T - 11))
    assert lengths[11] > 1 / T
