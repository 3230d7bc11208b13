"""Timestep adjustment: Eqs. (13) and (14)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ertacache.method.timesteps import SMALLEST_CORRECTION, correction_coefficient, step_lengths, time_grid, warp

PROPERTY = settings(deadline=None, max_examples=100)


@st.composite
def schedules(draw: st.DrawFn) -> tuple[int, dict[int, float]]:
    """T, and a correction for every cached step."""
    num_steps = draw(st.integers(3, 100))
    return num_steps, draw(st.dictionaries(st.integers(1, num_steps - 2), st.floats(0, 1)))


def curve_of(gaps: list[float]) -> np.ndarray:
    """A strictly falling curve with these gaps and terminal level 0."""
    return np.concatenate([np.cumsum(gaps[::-1])[::-1], [0.0]])


@pytest.mark.parametrize(
    ("prediction_error", "output_change", "phi"),
    [(0, 4, 1), (1, 4, 0.75), (4, 4, 0), (9, 4, 0), (0, 0, 1), (1, 0, 0)],
)
def test_the_correction_falls_from_one_to_zero_as_the_error_grows_to_the_change_of_the_output(
    prediction_error: float, output_change: float, phi: float
) -> None:
    assert correction_coefficient(prediction_error, output_change) == phi


@PROPERTY
@given(schedules())
def test_step_lengths_are_positive_and_sum_to_one_for_every_schedule_and_every_correction(
    schedule: tuple[int, dict[int, float]],
) -> None:
    num_steps, corrections = schedule
    lengths = step_lengths(num_steps, corrections.keys(), corrections)
    assert len(lengths) == num_steps
    assert min(lengths) > 0
    assert sum(lengths) == pytest.approx(1, abs=1e-12)


@PROPERTY
@given(schedules())
def test_the_grid_rises_strictly_from_zero_to_one(schedule: tuple[int, dict[int, float]]) -> None:
    num_steps, corrections = schedule
    grid = time_grid(step_lengths(num_steps, corrections.keys(), corrections))
    assert len(grid) == num_steps + 1
    assert (grid[0], grid[-1]) == (0.0, 1.0)
    assert min(np.diff(grid)) > 0


def test_rounding_does_not_keep_the_grid_from_its_end() -> None:
    lengths = [0.1] * 10
    assert sum(lengths) != 1
    assert time_grid(lengths)[-1] == 1


@PROPERTY
@given(schedules(), st.data())
def test_a_warped_curve_still_falls_strictly_between_its_own_ends(
    schedule: tuple[int, dict[int, float]], data: st.DataObject
) -> None:
    num_steps, corrections = schedule
    levels = curve_of(data.draw(st.lists(st.floats(1e-4, 1), min_size=num_steps, max_size=num_steps)))
    warped = warp(levels, time_grid(step_lengths(num_steps, corrections.keys(), corrections)))
    assert (warped[0], warped[-1]) == (levels[0], levels[-1])
    assert max(np.diff(warped)) < 0


def test_a_cached_step_takes_its_share_and_the_steps_after_it_share_what_it_left() -> None:
    assert step_lengths(4, {1}, {1: 0.4}) == pytest.approx([0.25, 0.1, 0.325, 0.325])


def test_without_corrections_the_grid_is_even_and_the_curve_is_as_it_was() -> None:
    levels = curve_of([0.1, 0.4, 0.2, 0.3])
    grid = time_grid(step_lengths(4, {1, 2}, {1: 1.0, 2: 1.0}))
    assert grid == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    assert warp(levels, grid) == pytest.approx(levels)


def test_a_warped_curve_keeps_the_shape_of_the_schedulers_own() -> None:
    linear, shifted = np.linspace(1, 0, 6), curve_of([0.02, 0.08, 0.1, 0.3, 0.5])
    grid = time_grid(step_lengths(5, {2}, {2: 0.5}))
    assert warp(linear, grid) == pytest.approx(1 - np.asarray(grid))
    assert warp(shifted, grid)[3] == pytest.approx((shifted[2] + shifted[3]) / 2)


def test_a_correction_of_zero_is_raised_so_that_no_noise_level_is_repeated() -> None:
    lengths = step_lengths(10, {4}, {4: 0.0})
    assert lengths[4] == pytest.approx(0.1 * SMALLEST_CORRECTION)
