"""What the outputs of full runs tell by their dot products alone, without running the denoiser.

Calibration keeps one matrix of them, ``G_ij = sum_prompts <v_i, v_j>`` over the noise levels of its grid. Predictions
are linear combinations of outputs, and so is what the sampler makes of them: the weights that land the trajectory, and
the errors that are left, follow from the matrix.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ertacache.method.alignment import ridge_solve
from ertacache.method.grid import reading
from ertacache.method.prediction import Prediction

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Outputs:
    """The outputs of full runs on one grid, known by their dot products alone.

    Args:
        levels: its T + 1 noise levels, falling.
        rows: (T, size); row i is ``v_i`` in coordinates in which dot products are those of the outputs.
        contrasts: the same of how the guidance branches differed, if that is known.
    """

    levels: tuple[float, ...]
    rows: Array
    contrasts: Array | None = None

    @classmethod
    def of(cls, gram: Array, levels: Sequence[float]) -> Outputs:
        """From the Gram matrix, (T, T), or (2T, 2T) with the contrasts' rows behind the outputs'."""
        values, vectors = np.linalg.eigh(gram)
        rows, steps = vectors * np.sqrt(np.maximum(values, 0)), len(levels) - 1
        return cls(tuple(levels), rows[:steps], rows[steps:] if len(rows) > steps else None)

    def at(self, others: Sequence[float]) -> Outputs:
        """The same on the grid of T' + 1 other noise levels."""
        read = reading(self.levels[:-1], others[:-1])
        return Outputs(tuple(others), read @ self.rows, None if self.contrasts is None else read @ self.contrasts)

    def solved(self, cached: Collection[int], order: int, response: Array) -> dict[int, Prediction]:
        """The predictions of every step from the first cached one on, as closed loops solve them; see `landing`."""
        weights, _ = landing(self.rows, self.contrasts, cached, order, response)
        return {step: Prediction.by_weights(history, found.tolist()) for step, (history, found) in weights.items()}


Weights = tuple[tuple[int, ...], Array]
"""The computed steps that a prediction is made from, newest first, and its weights."""


def landing(
    rows: Array,
    contrasts: Array | None,
    cached: Collection[int],
    order: int,
    response: Array,
    forced: Collection[int] = (),
) -> tuple[dict[int, Weights], Array]:
    """Solve the weights of every step from the first cached one on, step by step, so that the next latent lands.

    Args:
        rows: (T, size), see `Outputs`.
        contrasts: the same of the guidance branches' differences, or None.
        cached: the cached steps.
        order: the highest difference that is used.
        response: how far the output of each step (column) has moved the latent after each (row), (T, T), lower
            triangular. Of Euler steps all rows hold the steps' lengths; a multistep solver uses an output again.
        forced: computed steps at which the denoiser's calls change, so that the history begins anew.

    Returns:
        The weights by step, and by how much the output that each step went on with was not the full run's, (T, size).
    """
    skipped = frozenset(cached)
    first = min(skipped, default=len(rows))
    wrong = np.zeros_like(rows)
    history: list[int] = []
    found: dict[int, Weights] = {}
    for i in range(len(rows)):
        if i not in skipped:
            history = [i, *([] if i in forced else history)][: order + 1]
        wrong[i] = rows[history[0]] - rows[i]
        if i < first:
            continue
        terms = _terms(rows[history])
        if contrasts is not None:
            terms = np.concatenate([terms, _terms(contrasts[history])])
        moved, error = response[i, i] * terms, response[i] @ wrong
        weights = -ridge_solve(torch.from_numpy(moved @ moved.T), torch.from_numpy(moved @ error)).numpy()
        wrong[i] += weights @ terms
        found[i] = tuple(history), weights
    return found, wrong


def _terms(history: Array) -> Array:
    """As `ertacache.method.alignment.features`: the differences, newest first, and the newest entry."""
    return np.concatenate([history[:-1] - history[1:], history[:1]])


def corrected(
    solved: Mapping[int, Prediction],
    levels: Sequence[float],
    fitted: Mapping[int, Prediction],
    solved_there: Mapping[int, Prediction],
    levels_there: Sequence[float],
) -> dict[int, Prediction]:
    """Predictions solved on another grid, plus what closed loops changed of those solved on the calibrated one.

    How an error of the latent changes a later output is not in the Gram matrix. Closed loops show it, on the calibrated
    grid: there it makes the fitted weights differ from the solved ones, and that difference is carried over. (A weight
    itself would be a poor thing to carry: it depends on every gap between the steps it was fitted on.) The difference
    is interpolated over the noise level, between steps that lie equally many steps after a computed one and have as
    long a history. Where there is no such step, the weights stay as solved.

    Args:
        solved: on the grid of ``levels``.
        levels: its noise levels.
        fitted: by closed loops, on the calibrated grid.
        solved_there: by `Outputs.solved` there, for the same schedule.
        levels_there: its noise levels.
    """
    changes: dict[tuple[int, int, int], list[tuple[float, Array]]] = {}
    for i, there in solved_there.items():
        if i in fitted and _kind(i, fitted[i]) == _kind(i, there):
            change = np.array(fitted[i].weights) - np.array(there.weights)
            changes.setdefault(_kind(i, there), []).append((levels_there[i], change))
    found = dict(solved)
    for i, here in solved.items():
        alike = changes.get(_kind(i, here), [])[::-1]  # rising levels
        if alike:
            at = [level for level, _ in alike]
            moved = [np.interp(levels[i], at, values) for values in np.array([w for _, w in alike]).T]
            found[i] = Prediction.by_weights(here.history, (np.array(here.weights) + np.array(moved)).tolist())
    return found


def _kind(step: int, prediction: Prediction) -> tuple[int, int, int]:
    return step - prediction.history[0], len(prediction.history), len(prediction.contrast_factors)
