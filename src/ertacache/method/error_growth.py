"""Predict how errors of the latent grow along a run, to judge a transferred policy without running the denoiser.

Weights that were carried over to another grid may let errors grow where the calibrated ones did not. In: the outputs
of full runs (`ertacache.method.gram_weights.Outputs`), a schedule and its predictions. Out: how far the last latent
misses the full run's, also for plain (uncached) steps, for comparison.

The Gram matrix does not say how the model reacts to an error of the latent. The rule of `Feedback` takes its place.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ertacache.method.gram_weights import Outputs
from ertacache.method.grid_mapping import interpolation_matrix
from ertacache.method.prediction import Prediction, reuse

Array = NDArray[np.float64]

ANSWER = 0.375
"""How strongly outputs react to errors of the latent, per unit of guidance; see `Feedback`.

Closed loops measured half as much, averaged over directions. But errors grow in the directions that react most. With
this value, predictions rank transfers as their measured gains do (docs/records/transfer.md).
"""
STRONGEST = 4.0
"""Guidance above this counts as this much: pictures that differ so much no longer drift apart."""
LEAST = 0.01
"""Floor of ``s (1 - s)``, which is 0 for a first latent of pure noise; that latent has no error yet."""


@dataclass(frozen=True)
class Feedback:
    """How the model's outputs react to an error of the latent: by ``size / (s (1 - s))`` times the error at level s.

    Args:
        size: the strength, over 0.
        share: the part of the reaction that appears in the contrast of the guidance branches; either sign.
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
        """Infer the feedback of a calibrated model: its size from the guidance, its sign from the fitted weights.

        With ``v = u + g d``, most of the reaction of v is g times the reaction of d. Whether d is "with prompt minus
        without" or the reverse is not recorded. But the fitted weights keep errors small with one of the two signs
        only, and that sign is returned.

        Args:
            outputs: the model's, on the calibrated grid of T steps.
            cached: the cached steps there.
            fitted: the predictions that closed loops fitted, by step.
            response: of the sampler on that grid, (T, T), float64; see `ertacache.method.simulated_loop.simulated`.
            guidance: the scale g of the contrast; 1 without guidance.
        """
        size = ANSWER * min(guidance, STRONGEST)
        either = cls(size, 1 / guidance), cls(size, -1 / guidance)
        return min(either, key=lambda self: float(_lengths(predicted_errors(outputs, cached, fitted, response, self))))

    def answers(self, levels: Sequence[float]) -> Array:
        """Compute the factors ``size / (s (1 - s))`` by which outputs react to errors.

        Args:
            levels: the T + 1 noise levels of a grid.

        Returns:
            (T,), float64; none for the last level.
        """
        at = np.asarray(levels[:-1], dtype=np.float64)
        return self.size / np.maximum(at * (1 - at), LEAST)


def predicted_errors(
    outputs: Outputs,
    cached: Collection[int],
    predictions: Mapping[int, Prediction],
    response: Array,
    feedback: Feedback,
) -> Array:
    """Predict how far the latent after each step misses the full run's, when every output reacts to earlier errors.

    Args:
        outputs: the full run's, on the grid of the run, of T steps.
        cached: the cached steps.
        predictions: by step, what replaces (or corrects) its output; steps without one reuse the newest output.
        response: of the sampler, (T, T), float64; see `ertacache.method.simulated_loop.simulated`.
        feedback: how outputs react to errors.

    Returns:
        (T,), float64; 1 is the distance from the first latent to the last one.
    """
    rows = outputs.rows
    skipped, reactions, drifted = frozenset(cached), feedback.answers(outputs.levels), rows.copy()
    contrasts = None if outputs.contrasts is None else outputs.contrasts.copy()
    wrong, error = np.zeros_like(rows), np.zeros_like(rows)
    newest = 0
    for i in range(len(rows)):
        if i not in skipped:
            newest, reaction = i, reactions[i] * error[i - 1] if i else np.zeros_like(error[i])
            drifted[i] += reaction
            if contrasts is not None:
                contrasts[i] += feedback.share * reaction
        prediction = predictions.get(i) or reuse([newest])
        history = list(prediction.history)
        wrong[i] = np.asarray(prediction.factors) @ drifted[history] - rows[i]
        if prediction.contrast_factors and contrasts is not None:
            wrong[i] += np.asarray(prediction.contrast_factors) @ contrasts[history]
        error[i] = response[i] @ wrong
    return _lengths(error) / _lengths(response[-1] @ rows)


def predicted_error_of_plain_steps(
    outputs: Outputs, levels: Sequence[float], response: Array, response_here: Array, feedback: Feedback
) -> float:
    """Predict how far plain (uncached) steps on a coarser grid miss the full run's last latent.

    Args:
        outputs: the full run's, on its own grid of T steps.
        levels: the T' + 1 noise levels of the coarser grid, with the same ends.
        response: of the sampler on the coarser grid, (T', T'), float64; see
            `ertacache.method.simulated_loop.simulated`.
        response_here: of the sampler on the full grid, (T, T), float64.
        feedback: how outputs react to errors.

    Returns:
        In the units of `predicted_errors`: 1 is the distance from the first latent to the last one.
    """
    path = np.concatenate([np.zeros_like(outputs.rows[:1]), response_here @ outputs.rows])
    goals = interpolation_matrix(outputs.levels, levels) @ path
    reactions, rows = feedback.answers(levels), outputs.at(levels).rows
    for i in range(1, len(rows)):
        rows[i] += reactions[i] * (response[i - 1] @ rows - goals[i])
    return float(_lengths(response[-1] @ rows - goals[-1]) / _lengths(path[-1]))


def _lengths(rows: Array) -> Array:
    """The lengths of vectors along the last axis."""
    lengths: Array = np.linalg.norm(rows, axis=-1)
    return lengths
