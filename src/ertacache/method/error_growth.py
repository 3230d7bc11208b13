"""How errors of the latent grow along a run, predicted: what tells whether a transferred policy beats plain steps.

Weights that were carried to another grid may let errors grow where the calibrated ones did not. How the outputs answer
an error of the latent is not in the Gram matrix; a rule stands in for it, see `Feedback`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ertacache.method.grid import reading
from ertacache.method.outputs import Outputs
from ertacache.method.prediction import Prediction, reuse

Array = NDArray[np.float64]

ANSWER = 0.375
"""How strongly outputs answer errors of the latent, for each unit of guidance; see `Feedback`.

Half of that was measured in closed loops, in the mean over directions. Errors grow in the directions that answer most,
and with this, predictions rank transfers by what these were seen to gain (docs/transfer.md).
"""
STRONGEST = 4.0
"""The guidance from which on answers are taken to be alike: pictures that differ so much no longer drift apart."""
LEAST = 0.01
"""Of s (1 - s), which is 0 at a first latent of nothing but noise; that has no error."""


@dataclass(frozen=True)
class Feedback:
    """How the outputs of a model answer errors of the latent: at noise level s by ``size / s (1 - s)`` times the error.

    Args:
        size: see there.
        share: how much of the answer the contrast of the guidance branches has, of either sign.
    """

    size: float
    share: float

    @classmethod
    def seen_in(
        cls,
        outputs: Outputs,
        cached: Collection[int],
        fitted: Mapping[int, Prediction],
        response: Array,
        guidance: float,
    ) -> Feedback:
        """That of a model at some guidance, of which weights are known that closed loops fitted.

        With ``v = u + g d``, most of what v answers is g times what d does. Whether d is the branch with the prompt
        less the one without it, or the reverse, is not recorded; but the fitted weights keep errors small with the one
        sign and not with the other.

        Args:
            outputs: on the calibrated grid.
            cached: the cached steps there.
            fitted: the predictions.
            response: that of the grid; see `ertacache.method.outputs.landing`.
            guidance: what multiplies the contrast; 1 where nothing does.
        """
        size = ANSWER * min(guidance, STRONGEST)
        either = cls(size, 1 / guidance), cls(size, -1 / guidance)
        return min(either, key=lambda self: float(_lengths(missed(outputs, cached, fitted, response, self))))

    def answers(self, levels: Sequence[float]) -> Array:
        """What errors are multiplied by at each but the last of these levels."""
        at = np.asarray(levels[:-1], dtype=np.float64)
        return self.size / np.maximum(at * (1 - at), LEAST)


def missed(
    outputs: Outputs,
    cached: Collection[int],
    predictions: Mapping[int, Prediction],
    response: Array,
    feedback: Feedback,
) -> Array:
    """By how much each step's latent misses the full run's, where every output answers the errors before it.

    Args:
        outputs: on the grid of the run.
        cached: the cached steps.
        predictions: what steps go on with; reuse where there is none.
        response: see `ertacache.method.outputs.landing`.
        feedback: how outputs answer.

    Returns:
        (T,), in units of the way from the first latent to the last one.
    """
    rows = outputs.rows
    skipped, answers, seen = frozenset(cached), feedback.answers(outputs.levels), rows.copy()
    contrasts = None if outputs.contrasts is None else outputs.contrasts.copy()
    wrong, error = np.zeros_like(rows), np.zeros_like(rows)
    newest = 0
    for i in range(len(rows)):
        if i not in skipped:
            newest, answer = i, answers[i] * error[i - 1] if i else np.zeros_like(error[i])
            seen[i] += answer
            if contrasts is not None:
                contrasts[i] += feedback.share * answer
        prediction = predictions.get(i) or reuse([newest])
        history = list(prediction.history)
        wrong[i] = np.asarray(prediction.factors) @ seen[history] - rows[i]
        if prediction.contrast_factors and contrasts is not None:
            wrong[i] += np.asarray(prediction.contrast_factors) @ contrasts[history]
        error[i] = response[i] @ wrong
    return _lengths(error) / _lengths(response[-1] @ rows)


def missed_by_plain(
    outputs: Outputs, levels: Sequence[float], response: Array, response_here: Array, feedback: Feedback
) -> float:
    """By how much plain steps along fewer levels miss the last latent of this grid's, in the units of `missed`.

    Args:
        outputs: on this grid.
        levels: their noise levels, between the same ends.
        response: theirs.
        response_here: that of this grid.
        feedback: how outputs answer.
    """
    path = np.concatenate([np.zeros_like(outputs.rows[:1]), response_here @ outputs.rows])
    goals = reading(outputs.levels, levels) @ path
    answers, rows = feedback.answers(levels), outputs.at(levels).rows
    for i in range(1, len(rows)):
        rows[i] += answers[i] * (response[i - 1] @ rows - goals[i])
    return float(_lengths(response[-1] @ rows - goals[-1]) / _lengths(path[-1]))


def _lengths(rows: Array) -> Array:
    """The lengths of vectors along the last axis."""
    lengths: Array = np.linalg.norm(rows, axis=-1)
    return lengths
