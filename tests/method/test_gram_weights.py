"""Placing computed steps and solving weights on other noise levels, from the Gram matrix of the outputs alone."""

from __future__ import annotations

from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ertacache.method.error_growth import Feedback, predicted_error_of_plain_steps, predicted_errors
from ertacache.method.gram_weights import Outputs, with_loop_corrections
from ertacache.method.grid_mapping import coarser, curve_difference, interpolation_matrix, place_schedule
from ertacache.method.prediction import Prediction
from ertacache.method.schedule import uniform

PROPERTY = settings(deadline=None, max_examples=100)


def shifted(steps: int, shift: float = 3.0) -> tuple[float, ...]:
    """The T + 1 levels that flow matching with a shift goes through."""
    plain = np.linspace(1, 0, steps + 1)
    return tuple(float(s) for s in shift * plain / (1 + (shift - 1) * plain))


@st.composite
def grids(draw: st.DrawFn, fewest: int = 3) -> tuple[float, ...]:
    """Any falling grid, the terminal level included."""
    gaps = draw(st.lists(st.floats(0.01, 1), min_size=fewest, max_size=20))
    return tuple(float(level) for level in np.cumsum([0.0, *gaps])[::-1])


def euler(levels: tuple[float, ...]) -> np.ndarray:
    """The response of Euler steps: each output moves the latent once, by the length of its step."""
    return np.tril(np.ones((len(levels) - 1,) * 2)) * np.diff(levels)


@st.composite
def schedules(draw: st.DrawFn) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """A grid and cached steps on it."""
    levels = draw(grids())
    return levels, tuple(sorted(draw(st.sets(st.integers(1, len(levels) - 2)))))


def polynomial(levels: tuple[float, ...], degree: int, seed: int = 0) -> np.ndarray:
    """Outputs of three prompts that are polynomials of the noise level, (T, 6)."""
    factors = np.random.default_rng(seed).normal(size=(degree + 1, 6))
    return np.vander(levels[:-1], degree + 1) @ factors


@PROPERTY
@given(schedules())
def test_on_the_same_grid_the_computed_steps_stay_where_they_are(schedule):
    levels, cached = schedule
    assert place_schedule(cached, levels, levels, len(levels) - 1 - len(cached)) == cached


@PROPERTY
@given(schedules(), grids(), st.data())
def test_cached_steps_are_valid_and_as_many_as_asked_on_any_falling_grid(schedule, others, data):
    levels, cached = schedule
    steps = len(others) - 1
    computed = data.draw(st.integers(1, steps))
    found = place_schedule(cached, levels, others, computed)
    assert list(found) == sorted(set(found))
    assert all(0 < i < steps for i in found)
    assert len(found) == steps - computed


def test_computed_steps_go_where_their_noise_level_is_and_not_their_index():
    levels = shifted(30)
    dense_at_the_end = tuple(i for i in range(30) if i not in {0, 10, 18, 24, 28, 29})
    finer = place_schedule(dense_at_the_end, levels, shifted(60), 12)
    assert set(range(60)) - set(finer) >= {0, 20, 36, 48, 56, 58}
    other_shift = place_schedule(dense_at_the_end, levels, shifted(30, shift=1.0), 6)
    for i, j in zip((0, 10, 18, 24), (i for i in range(30) if i not in other_shift), strict=False):
        assert levels[i] == pytest.approx(shifted(30, shift=1.0)[j], abs=0.5 / 30 + 1e-9)


@PROPERTY
@given(grids())
def test_a_grid_is_its_own_curve_and_so_is_every_other_step_of_it(levels):
    assert curve_difference(levels, levels) == pytest.approx(0, abs=1e-9)
    finer = np.interp(np.arange(2 * len(levels) - 1) / 2, np.arange(len(levels)), levels)
    assert curve_difference(levels, finer) == pytest.approx(0, abs=1e-6)
    assert curve_difference(finer, levels) == pytest.approx(0, abs=1e-6)


def test_another_shift_is_another_curve():
    assert curve_difference(shifted(30), shifted(20)) < 0.1
    assert curve_difference(shifted(30), shifted(30, shift=2.0)) > 2


@PROPERTY
@given(grids(fewest=4), grids(fewest=1))
def test_reading_is_exact_for_cubics_and_picks_what_is_known(levels, others):
    inside = [min(max(level, levels[-2]), levels[0]) for level in others]
    cubic = np.polynomial.Polynomial([0.3, -1.0, 0.5, 0.2])
    read = interpolation_matrix(levels[:-1], inside)
    assert read.sum(axis=1) == pytest.approx(np.ones(len(inside)))
    assert read @ cubic(np.asarray(levels[:-1])) == pytest.approx(cubic(np.asarray(inside)), abs=1e-6, rel=1e-6)
    assert np.array_equal(interpolation_matrix(levels[:-1], levels[:-1]), np.eye(len(levels) - 1))


def test_outputs_on_their_own_grid_are_their_own():
    rows = polynomial(shifted(12), degree=5)
    outputs = Outputs.of(rows @ rows.T, shifted(12))
    assert outputs.rows @ outputs.rows.T == pytest.approx(rows @ rows.T)
    assert np.array_equal(outputs.at(shifted(12)).rows, outputs.rows)
    assert outputs.contrasts is None


@pytest.mark.parametrize("steps", [8, 12, 20])
def test_quadratic_outputs_are_predicted_exactly_on_every_grid(steps):
    rows = polynomial(shifted(12), degree=2)
    cached = tuple(i for i in uniform(steps, steps // 2) if i > 4)  # three outputs are computed by then
    solved = Outputs.of(rows @ rows.T, shifted(12)).at(shifted(steps)).solved(cached, 3, euler(shifted(steps)))
    wanted = polynomial(shifted(steps), degree=2)
    for i in cached:
        history, factors, between = astuple(solved[i])
        assert np.asarray(factors) @ wanted[list(history)] == pytest.approx(wanted[i], abs=1e-3)
        assert not set(history) & set(cached)
        assert between == ()


def test_contrasts_are_used_where_they_say_what_the_outputs_do_not():
    """An output that turns as its contrast said it would."""
    rows, turn = np.zeros((6, 3)), np.zeros((6, 3))
    rows[:, 0], turn[:, 1] = 1.0, 1.0
    rows[3] += turn[2]
    both = np.concatenate([rows, turn])
    solved = Outputs.of(both @ both.T, shifted(6)).solved((3,), 1, euler(shifted(6)))
    history, factors, between = astuple(solved[3])
    assert history == (2, 1)
    assert sum(factors) == pytest.approx(1, abs=1e-3)
    assert sum(between) == pytest.approx(1, abs=1e-3)


def test_a_computed_step_after_a_cached_one_makes_up_for_its_error():
    rows = np.eye(6)  # nothing can be predicted
    solved = Outputs.of(rows, shifted(6)).solved((2,), 1, euler(shifted(6)))
    assert sorted(solved) == [2, 3, 4, 5]
    assert solved[3].history[0] == 3
    assert solved[3].factors != (1.0, 0.0)


@PROPERTY
@given(schedules(), st.integers(0, 9))
def test_every_step_lands_as_near_as_it_can_whatever_the_sampler_makes_of_outputs(schedule, seed):
    levels, cached = schedule
    steps, generator = len(levels) - 1, np.random.default_rng(seed)
    rows, response = generator.normal(size=(steps, 9)), np.tril(generator.uniform(0.5, 1.5, (steps, steps)))
    solved = Outputs.of(rows @ rows.T, levels).solved(cached, 2, response)
    wrong = np.zeros_like(rows)
    for i, found in solved.items():
        history = rows[list(found.history)]
        wrong[i] = np.asarray(found.factors) @ history - rows[i]
        error = response[i] @ wrong
        assert history @ error == pytest.approx(np.zeros(len(history)), abs=1e-3)


def test_with_nothing_cached_nothing_is_corrected():
    assert Outputs.of(np.eye(6), shifted(6)).solved((), 3, euler(shifted(6))) == {}


@PROPERTY
@given(st.integers(1, 4), st.booleans(), st.data())
def test_factors_and_weights_say_the_same(length, contrasted, data):
    size = length * (2 if contrasted else 1)
    weights = np.array(data.draw(st.lists(st.floats(-10, 10), min_size=size, max_size=size)))
    assert Prediction.by_weights(range(length), weights).weights == pytest.approx(weights, abs=1e-9)


@PROPERTY
@given(schedules())
def test_on_the_calibrated_grid_the_fitted_weights_come_back(schedule):
    levels, cached = schedule
    steps = len(levels) - 1
    rows = np.random.default_rng(0).normal(size=(steps, 6))
    solved = Outputs.of(rows @ rows.T, levels).solved(cached, 3, euler(levels))
    noise = np.random.default_rng(1)
    fitted = {
        i: Prediction.by_weights(s.history, np.array(s.weights) + noise.normal(size=len(s.weights)))
        for i, s in solved.items()
    }
    back = with_loop_corrections(solved, levels, fitted, solved, levels)
    for i, wanted in fitted.items():
        assert back[i].weights == pytest.approx(wanted.weights, rel=1e-6, abs=1e-6)


def test_a_change_is_interpolated_between_steps_that_lie_as_far_into_a_gap():
    levels = tuple(float(level) for level in range(12, -1, -1))
    cached = (3, 4, 6, 7, 9, 10)  # two after each computed step
    rows = np.random.default_rng(0).normal(size=(12, 6))
    solved = Outputs.of(rows @ rows.T, levels).solved(cached, 1, euler(levels))
    fitted = {
        i: Prediction.by_weights(s.history, np.array(s.weights) + (i - s.history[0]) * levels[i])
        for i, s in solved.items()
    }
    moved = tuple(level - 0.5 for level in levels)
    there = with_loop_corrections(solved, moved, fitted, solved, levels)
    for i in (4, 7):  # between others of their kind, where the change is a line
        assert np.subtract(there[i].weights, solved[i].weights) == pytest.approx(2 * moved[i], rel=1e-6)
    for i in (3, 6):
        assert np.subtract(there[i].weights, solved[i].weights) == pytest.approx(moved[i], rel=1e-6)


def stepped(rows, contrasts, levels, cached, weights, feedback):
    """The last latents of Euler steps in which outputs answer, and how far they are off, relative to the way."""
    lengths, answers = np.diff(levels), feedback.answers(levels)
    full, latent, newest, seen, between = np.zeros(rows.shape[1]), np.zeros(rows.shape[1]), None, {}, {}
    for i, length in enumerate(lengths):
        if i not in cached:
            newest, answer = i, answers[i] * (latent - full)
            seen[i], between[i] = rows[i] + answer, contrasts[i] + feedback.share * answer
        found = weights.get(i, Prediction((newest,), (1.0,), (0.0,)))
        output = sum(c * seen[k] for k, c in zip(found.history, found.factors, strict=True))
        output = output + sum(c * between[k] for k, c in zip(found.history, found.contrast_factors, strict=True))
        latent, full = latent + length * output, full + length * rows[i]
    return np.linalg.norm(latent - full) / np.linalg.norm(full)


@PROPERTY
@given(schedules(), st.integers(0, 9), st.floats(0, 1), st.floats(-1, 1))
def test_what_a_policy_misses_is_where_its_steps_lead_when_outputs_answer(schedule, seed, size, share):
    levels, cached = schedule
    levels, generator = tuple(level / levels[0] for level in levels), np.random.default_rng(seed)
    rows, contrasts = generator.normal(size=(2, len(levels) - 1, 6))
    outputs, feedback = Outputs(levels, rows, contrasts), Feedback(size, share)
    weights = outputs.solved(cached, 2, euler(levels))
    found = predicted_errors(outputs, cached, weights, euler(levels), feedback)
    assert found[-1] == pytest.approx(stepped(rows, contrasts, levels, cached, weights, feedback), rel=1e-6, abs=1e-9)
    assert found[: min(cached, default=len(found))] == pytest.approx(0)


def test_with_nothing_cached_nothing_is_missed_and_plain_steps_along_all_levels_miss_nothing():
    rows, levels = polynomial(shifted(12), degree=5), shifted(12)
    outputs, feedback = Outputs(levels, rows), Feedback(0.4, 1.0)
    assert predicted_errors(outputs, (), {}, euler(levels), feedback) == pytest.approx(0)
    assert predicted_error_of_plain_steps(outputs, levels, euler(levels), euler(levels), feedback) == pytest.approx(
        0, abs=1e-12
    )


@pytest.mark.parametrize("size", [0.0, 0.3])
def test_what_plain_steps_miss_is_where_they_lead_when_outputs_answer(size):
    levels, fewer, feedback = shifted(12), shifted(6), Feedback(size, 0.0)
    rows = np.random.default_rng(0).normal(size=(12, 6))
    path = np.concatenate([np.zeros((1, 6)), euler(levels) @ rows])
    latent, answers = np.zeros(6), feedback.answers(fewer)
    for k, length in enumerate(np.diff(fewer)):  # every other level, where the full run is known
        latent = latent + length * (rows[2 * k] + answers[k] * (latent - path[2 * k]))
    predicted_errors = np.linalg.norm(latent - path[-1]) / np.linalg.norm(path[-1])
    found = predicted_error_of_plain_steps(Outputs(levels, rows), fewer, euler(fewer), euler(levels), feedback)
    assert found == pytest.approx(predicted_errors)


@pytest.mark.parametrize("steps", [5, 12, 20])
def test_fewer_levels_are_those_a_scheduler_lays(steps):
    assert coarser(shifted(40), steps) == pytest.approx(shifted(steps), abs=3e-3)
    assert coarser(shifted(steps), steps) == pytest.approx(shifted(steps))


@pytest.mark.parametrize("sign", [1, -1])
def test_the_sign_of_the_contrasts_answer_is_that_with_which_fitted_weights_keep_errors_small(sign):
    """The weights are fitted as closed loops do it, on outputs and contrasts that have answered."""
    levels, cached, truth = shifted(16), tuple(range(2, 16, 2)), Feedback(1.5, sign / 4)
    generator = np.random.default_rng(0)
    smooth = np.vander(levels[:-1], 5) @ generator.normal(size=(5, 12))
    rows = smooth + 0.1 * generator.normal(size=smooth.shape)
    contrasts = np.vander(levels[:-1], 4) @ generator.normal(size=(4, 12))
    fitted = in_closed_loop(rows, contrasts, levels, cached, truth)
    found = Feedback.seen_in(Outputs(levels, rows, contrasts), cached, fitted, euler(levels), 4.0)
    assert found == truth


def in_closed_loop(rows, contrasts, levels, cached, feedback):
    """The weights that land each step nearest to the full run, of first differences."""
    lengths, answers, fitted = np.diff(levels), feedback.answers(levels), {}
    seen, between, error, history = rows.copy(), contrasts.copy(), np.zeros(rows.shape[1]), []
    for i, length in enumerate(lengths):
        if i not in cached:
            history = [i, *history][:2]
            seen[i] += answers[i] * error
            between[i] += feedback.share * answers[i] * error
        wrong = seen[history[0]] - rows[i]
        if i >= cached[0]:
            terms = [seen[history[0]] - seen[history[1]], seen[history[0]]]
            terms = np.array([*terms, between[history[0]] - between[history[1]], between[history[0]]])
            weights = np.linalg.lstsq(length * terms.T, -(error + length * wrong), rcond=1e-9)[0]
            wrong, fitted[i] = wrong + weights @ terms, Prediction.by_weights(history, weights)
        error = error + length * wrong
    return fitted


def test_answers_grow_with_guidance_up_to_the_strongest_and_towards_both_ends():
    outputs, cached = Outputs(shifted(6), np.eye(6)), (3,)
    fitted = outputs.solved(cached, 1, euler(shifted(6)))
    sizes = [Feedback.seen_in(outputs, cached, fitted, euler(shifted(6)), g).size for g in (1.0, 2.0, 4.0, 7.0)]
    assert sizes == [0.375, 0.75, 1.5, 1.5]
    assert Feedback(1.0, 0.0).answers((0.9, 0.5, 0.1, 0.0)) == pytest.approx([1 / 0.09, 4, 1 / 0.09])
