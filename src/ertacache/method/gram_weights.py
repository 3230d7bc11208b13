"""Solve the weights of cached steps from the dot products of full runs' outputs, without running the denoiser.

Calibration keeps one Gram matrix, ``G_ij = sum_prompts <v_i, v_j>`` over the steps of its grid. Predictions are linear
combinations of outputs, and the sampler is linear in them. So the weights that let the trajectory land, and the errors
that remain, follow from this matrix. In: the Gram matrix, a schedule and the sampler's response. Out: predictions.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ertacache.method.grid_mapping import interpolation_matrix
from ertacache.method.prediction import Prediction
from ertacache.method.simulated_loop import simulated

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Outputs:
    """The outputs of full runs on one grid of T steps, up to a rotation: only their dot products are known.

    Args:
        levels: the T + 1 noise levels of the grid, falling.
        rows: (T, size), float64; row i stands for ``v_i``, and the rows have the outputs' dot products.
        contrasts: (T, size), likewise for the contrasts (difference of the guidance branches), or None if unknown.
        guidance: the scale that the outputs' branches are mixed at; 1 for none, or if it does not matter.
    """

    levels: tuple[float, ...]
    rows: Array
    contrasts: Array | None = None
    guidance: float = 1.0

    @classmethod
    def of(cls, gram: Array, levels: Sequence[float], guidance: float = 1.0) -> Outputs:
        """Factor a Gram matrix.

        Args:
            gram: (T, T), float64; or (2T, 2T) with the contrasts' rows after the outputs'.
            levels: the T + 1 noise levels of the grid, falling.
            guidance: see `Outputs`.
        """
        values, vectors = np.linalg.eigh(gram)
        rows, steps = vectors * np.sqrt(np.maximum(values, 0)), len(levels) - 1
        return cls(tuple(levels), rows[:steps], rows[steps:] if len(rows) > steps else None, guidance)

    def at(self, others: Sequence[float]) -> Outputs:
        """Interpolate the outputs on a grid of T' + 1 other noise levels."""
        matrix = interpolation_matrix(self.levels[:-1], others[:-1])
        contrasts = None if self.contrasts is None else matrix @ self.contrasts
        return Outputs(tuple(others), matrix @ self.rows, contrasts, self.guidance)

    def solved(self, cached: Collection[int], order: int, response: Array) -> dict[int, Prediction]:
        """Solve the predictions of every step from the first cached one on, for outputs that do not answer errors.

        Args:
            cached: the cached steps.
            order: the highest difference that is used, 1 to 3.
            response: of the sampler, (T, T), float64; see `ertacache.method.simulated_loop.simulated`.
        """
        return simulated(self.rows, self.contrasts, cached, order, response).predictions


def with_loop_corrections(
    solved: Mapping[int, Prediction],
    levels: Sequence[float],
    fitted: Mapping[int, Prediction],
    solved_there: Mapping[int, Prediction],
    levels_there: Sequence[float],
) -> dict[int, Prediction]:
    """Correct predictions that were solved on another grid by what closed loops changed on the calibrated one.

    The Gram matrix does not say how an error of the latent changes a later output, but closed loops do: on the
    calibrated grid, the fitted weights differ from the solved ones. This difference is added on the other grid. (The
    fitted weights themselves cannot be carried over: they depend on every gap between the steps.) The difference is
    interpolated over the noise level, between steps with as long a history and as many steps since the last computed
    one. Where no step is alike, the weights stay as solved.

    Args:
        solved: the predictions solved on the other grid, by step.
        levels: the T' + 1 noise levels of the other grid, falling.
        fitted: the predictions that closed loops fitted on the calibrated grid, by step.
        solved_there: those that `Outputs.solved` gives on the calibrated grid, for the calibrated schedule.
        levels_there: the T + 1 noise levels of the calibrated grid, falling.

    Returns:
        The corrected predictions on the other grid, by step.
    """
    changes: dict[tuple[int, int, int], list[tuple[float, Array]]] = {}
    for i, there in solved_there.items():
        if i in fitted and _kind(i, fitted[i]) == _kind(i, there):
            change = np.array(fitted[i].weights) - np.array(there.weights)
            changes.setdefault(_kind(i, there), []).append((levels_there[i], change))
    result = dict(solved)
    for i, here in solved.items():
        alike = changes.get(_kind(i, here), [])[::-1]  # rising levels
        if alike:
            at = [level for level, _ in alike]
            moved = [np.interp(levels[i], at, values) for values in np.array([w for _, w in alike]).T]
            result[i] = Prediction.by_weights(here.history, (np.array(here.weights) + np.array(moved)).tolist())
    return result


def _kind(step: int, prediction: Prediction) -> tuple[int, int, int]:
    """What makes two predictions alike: steps since the last computed one, length of the history, contrasts."""
    return step - prediction.history[0], len(prediction.history), len(prediction.contrast_factors)
