"""Loops without a denoiser: exact where outputs answer errors as is assumed, and no worse for any answer."""

from itertools import pairwise

import numpy as np
import pytest

from ertacache.method.gram_weights import Outputs
from ertacache.method.prior import prior_outputs
from ertacache.method.simulated_loop import (
    ANSWERS,
    DIVERGING,
    MOST_UNCERTAIN,
    answers_at,
    diverging_at,
    simulated,
    uncertain_at,
)
from ertacache.method.surrogate import Surrogate

T, CACHED = 12, (2, 4, 5, 7, 8, 10)
LEVELS = tuple(np.linspace(1, 0, T + 1).tolist())
RESPONSE = np.tril(np.broadcast_to(np.diff(LEVELS), (T, T)))


@pytest.fixture
def rows():
    """Outputs that change smoothly along the run, (T, 40)."""
    noise = np.random.default_rng(0).normal(size=(4, 40))
    return np.vander(LEVELS[:-1], 4) @ noise


def in_closed_loop(rows, answer, solutions, order, cached=CACHED, response=RESPONSE):
    """A run whose denoiser answers every error of the latent by ``answer`` times it: the last latent's error."""
    error, outputs = np.zeros(rows.shape[1]), {}
    for i in range(len(rows)):
        if i not in cached:
            outputs[i] = rows[i] + answer[i] * error
        history = sorted(outputs)[::-1][: order + 1]
        used = outputs[history[0]]
        if i in solutions:
            steps, weights = solutions[i]
            assert list(steps) == history
            terms = [outputs[a] - outputs[b] for a, b in pairwise(history)] + [used]
            used = used + np.asarray(weights) @ terms
        error = error + response[i, i] * (used - rows[i])
    return np.linalg.norm(error)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_errors_are_those_of_closed_loops_with_such_denoisers(rows, order):
    answers = answers_at(LEVELS)
    solutions, errors = simulated(rows, None, CACHED, order, RESPONSE, answers)
    assert len(errors) == len(ANSWERS)
    for answer, error in zip(answers, errors, strict=True):
        assert in_closed_loop(rows, answer, solutions, order) == pytest.approx(error, rel=1e-6)


def test_weights_for_several_answers_are_nearer_for_strong_ones_and_not_for_none():
    angles = np.linspace(1.5, 0.02, 31).tolist()
    outputs, cached = prior_outputs(angles, 4.0), tuple(range(1, 30, 2))
    response = np.tril(np.broadcast_to(np.diff(outputs.levels), (30, 30)))
    answers = answers_at(outputs.levels)
    _, together = simulated(outputs.rows, None, cached, 3, response, answers)
    for place, nearer in ((0, False), (2, True)):  # no answer, and the strongest one
        solutions, alone = simulated(outputs.rows, None, cached, 3, response, answers[:1])
        error = in_closed_loop(outputs.rows, answers[place], solutions, 3, cached, response)
        assert (together[place] < error) == nearer
        assert place or error == pytest.approx(alone[0])


def test_outputs_are_known_up_to_a_rotation(rows):
    answers = answers_at(LEVELS)
    turned = Outputs.of(rows @ rows.T, LEVELS)
    here, there = (simulated(each, None, CACHED, 2, RESPONSE, answers) for each in (rows, turned.rows))
    assert there.errors == pytest.approx(here.errors, rel=1e-3)
    assert Surrogate(turned, RESPONSE, answers).solved(CACHED, 2).keys() == here.solutions.keys() == {*range(2, T)}


def test_answers_turn_with_the_direction_of_outputs():
    for forward, backward in zip(answers_at(LEVELS), answers_at(LEVELS, -1.0), strict=True):
        assert np.array_equal(forward, -backward)
        assert np.isfinite(forward).all()


def test_after_an_emptied_step_earlier_outputs_are_not_used(rows):
    solutions, _ = simulated(rows, None, CACHED, 3, RESPONSE, answers_at(LEVELS), emptied=(6,))
    assert solutions[6][0] == (6,)
    assert solutions[11][0] == (11, 9, 6)


def test_schedules_are_doubted_the_more_the_stronger_guidance_is():
    doubts = [diverging_at(guidance) for guidance in (0.0, 1.0, 3.5, 5.0, 8.0, 20.0)]
    assert doubts[0] == doubts[1] == 0, "without guidance nothing pushes errors away"
    assert doubts == sorted(doubts, reverse=True)
    assert doubts[-1] == doubts[-2] == DIVERGING, "stronger guidance than was measured is taken as the strongest"
    assert diverging_at(4.0, 1.5) == diverging_at(4.0, 2.0) < diverging_at(4.0, 3.0) < diverging_at(4.0, 4.0) < 0
    assert diverging_at(8.0, 4.0) == DIVERGING, "under strong guidance whatever the ratio"


def test_outputs_are_the_less_sure_the_stronger_guidance_and_the_fewer_computed_steps():
    levels = (1.0, 0.5, 0.0)
    for guidance, ratio in ((0.0, 3.0), (1.0, 3.0), (4.0, 3.0), (4.0, 1.5)):
        assert not uncertain_at(levels, guidance, ratio).any(), "as the prior knows them"
    by_guidance = [uncertain_at(levels, guidance, 2.0)[0] for guidance in (4.0, 4.5, 5.0, 7.0, 8.0)]
    assert by_guidance == sorted(set(by_guidance))
    by_ratio = [uncertain_at(levels, 5.0, ratio)[0] for ratio in (1.3, 1.5, 2.0, 3.0)]
    assert by_ratio == sorted(set(by_ratio))
    assert 0 < uncertain_at(levels, 1.0, 4.0)[0] < 0.01
    assert uncertain_at(levels, 100.0, 100.0).tolist() == [MOST_UNCERTAIN, MOST_UNCERTAIN / 2]
