"""A policy on other noise levels than it was calibrated on: its computed steps placed anew, its weights solved anew.

What stays the same between two grids of one model is how its outputs vary with the noise level. Calibration keeps
that as one matrix, ``G_ij = sum_prompts <v_i, v_j>`` over the levels of its own grid. Outputs at other levels are read
off between these, ``v(s) = sum_j R_j(s) v_j``, so that ``R G R^T`` is the same matrix on the other grid; and there,
every prediction is a linear combination of outputs, and so is what the sampler makes of them: the weights that land the
trajectory follow without running the denoiser.

How an error of the latent changes a later output is not in the matrix. Closed loops show it, on the calibrated grid:
there it makes the fitted weights differ from those that the matrix gives, and that difference is carried over. A weight
itself would be a poor thing to carry: it depends on every gap between the steps it was fitted on.

Weights that were carried may let errors grow where the calibrated ones did not. By how much, and what as many plain
steps would miss, is predicted from the matrix and a rule for how outputs answer errors of the latent (`ANSWER`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ertacache.method.alignment import coefficients, weights_of

Array = NDArray[np.float64]

NEIGHBOURS = 4
"""From how many levels an output is read off: cubic."""
RIDGE = 1e-6
"""As in `ertacache.method.alignment.NormalEquations`."""
ANSWER = 0.375
"""How strongly outputs answer errors of the latent, for each unit of guidance; see `Feedback`.

Half of that was measured in closed loops, in the mean over directions. Errors grow in the directions that answer most,
and with this, predictions rank transfers by what these were seen to gain (docs/transfer.md).
"""
STRONGEST = 4.0
"""The guidance from which on answers are taken to be alike: pictures that differ so much no longer drift apart."""
LEAST = 0.01
"""Of s (1 - s), which is 0 at a first latent of nothing but noise; that has no error."""


def bend(levels: Sequence[float], others: Sequence[float]) -> float:
    """How far two grids are from being one curve in other steps, in steps of the first; 0 where they are.

    Args:
        levels: the T + 1 noise levels of the first grid, falling.
        others: the T' + 1 noise levels of the second, falling.
    """
    steps, targets = len(levels) - 1, len(others) - 1
    places = np.interp(-np.asarray(others), -np.asarray(levels), np.arange(steps + 1))
    return float(np.abs(places - np.arange(targets + 1) * steps / targets).max())


def placed(cached: Collection[int], levels: Sequence[float], others: Sequence[float], computed: int) -> tuple[int, ...]:
    """The cached steps on another grid, its computed steps as dense over the noise levels as they were.

    Args:
        cached: the cached steps on the grid of ``levels``.
        levels: its T + 1 noise levels, falling.
        others: the T' + 1 noise levels of the other grid, falling.
        computed: how many steps are computed there, 1 .. T'.
    """
    steps, targets = len(levels) - 1, len(others) - 1
    marks = [*(i for i in range(steps) if i not in set(cached)), steps]
    wanted = np.interp(np.arange(1, computed) * (len(marks) - 1) / computed, np.arange(len(marks)), marks)
    at = np.interp(wanted, np.arange(steps + 1), levels)
    places = np.interp(-at, -np.asarray(others), np.arange(targets + 1))
    kept = [0]
    for k, place in enumerate(places, start=1):
        kept.append(min(max(round(float(place)), kept[-1] + 1), targets - (computed - k)))
    return tuple(i for i in range(targets) if i not in set(kept))


def reading(levels: Sequence[float], others: Sequence[float]) -> Array:
    """How values at some levels follow from those at others: ``R``, cubic between the four nearest.

    Args:
        levels: T falling levels at which values are known.
        others: T' levels at which they are wanted.

    Returns:
        (T', T); its rows sum to 1. At a known level the row picks that value.
    """
    known = np.asarray(levels, dtype=np.float64)
    size = min(NEIGHBOURS, len(known))
    rows = np.zeros((len(others), len(known)))
    for row, level in zip(rows, others, strict=True):
        after = int(np.searchsorted(-known, -level))
        first = min(max(after - size // 2, 0), len(known) - size)
        near = range(first, first + size)
        for j in near:
            row[j] = np.prod([(level - known[k]) / (known[j] - known[k]) for k in near if k != j])
    return rows


def coarser(levels: Sequence[float], steps: int) -> tuple[float, ...]:
    """The levels of fewer steps along the same curve, as a scheduler lays them.

    Args:
        levels: the T + 1 noise levels of a grid.
        steps: how many steps there are to be.
    """
    last = len(levels) - 1
    return tuple(np.interp(np.arange(steps + 1) * last / steps, np.arange(last + 1), levels).tolist())


class Solved(NamedTuple):
    """What one step goes on with, as `ertacache.policy.Prediction` has it."""

    history: tuple[int, ...]
    factors: tuple[float, ...]
    contrast_factors: tuple[float, ...]

    @classmethod
    def by(cls, history: Sequence[int], weights: Array) -> Solved:
        """From the weights of the outputs' features and then of the contrasts'."""
        own, between = weights[: len(history)].tolist(), weights[len(history) :].tolist()
        return cls(
            tuple(history),
            coefficients(own[:-1], 1 + own[-1]),
            coefficients(between[:-1], between[-1]) if between else (),
        )

    @property
    def weights(self) -> Array:
        """The inverse of `by`."""
        between = weights_of(self.contrast_factors, 0.0) if self.contrast_factors else ()
        return np.array([*weights_of(self.factors), *between])


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

    def solved(self, cached: Collection[int], order: int, response: Array) -> dict[int, Solved]:
        """The weights of every step from the first cached one on, sequentially, as closed loops solve them.

        Args:
            cached: the cached steps.
            order: the highest difference that is used.
            response: how far the output of each step (column) has moved the latent after each (row), (T, T), lower
                triangular. Of Euler steps all rows hold the steps' lengths; a multistep solver uses an output again.
        """
        skipped = frozenset(cached)
        first = min(skipped, default=len(self.rows))
        wrong = np.zeros_like(self.rows)  # by how much the output that each step went on with was not the full run's
        history: list[int] = []
        found = {}
        for i in range(len(self.rows)):
            if i not in skipped:
                history = [i, *history][: order + 1]
            wrong[i] = self.rows[history[0]] - self.rows[i]
            if i < first:
                continue
            terms = _terms(self.rows[history])
            if self.contrasts is not None:
                terms = np.concatenate([terms, _terms(self.contrasts[history])])
            features, error = response[i, i] * terms, response[i] @ wrong
            normal = features @ features.T
            normal += np.diag(RIDGE * np.diag(normal) + np.finfo(np.float64).tiny)
            weights = -np.linalg.solve(normal, features @ error)
            wrong[i] += weights @ terms
            found[i] = Solved.by(history, weights)
        return found

    def missed(
        self, cached: Collection[int], weights: Mapping[int, Solved], response: Array, feedback: Feedback
    ) -> Array:
        """By how much each step's latent misses the full run's, where every output answers the errors before it.

        Args:
            cached: the cached steps.
            weights: what steps go on with.
            response: as in `solved`.
            feedback: how outputs answer.

        Returns:
            (T,), in units of the way from the first latent to the last one.
        """
        skipped, answers, seen = frozenset(cached), feedback.answers(self.levels), self.rows.copy()
        contrasts = None if self.contrasts is None else self.contrasts.copy()
        wrong, error = np.zeros_like(self.rows), np.zeros_like(self.rows)
        newest = 0
        for i in range(len(self.rows)):
            if i not in skipped:
                newest, answer = i, answers[i] * error[i - 1] if i else np.zeros_like(error[i])
                seen[i] += answer
                if contrasts is not None:
                    contrasts[i] += feedback.share * answer
            history, factors, between = weights.get(i, Solved((newest,), (1.0,), ()))
            wrong[i] = np.asarray(factors) @ seen[list(history)] - self.rows[i]
            if between and contrasts is not None:
                wrong[i] += np.asarray(between) @ contrasts[list(history)]
            error[i] = response[i] @ wrong
        return _lengths(error) / _lengths(response[-1] @ self.rows)

    def missed_by_plain(
        self, levels: Sequence[float], response: Array, response_here: Array, feedback: Feedback
    ) -> float:
        """By how much plain steps along fewer levels miss the last latent of this grid's, in the units of `missed`.

        Args:
            levels: their noise levels, between the same ends.
            response: theirs.
            response_here: that of this grid.
            feedback: how outputs answer.
        """
        path = np.concatenate([np.zeros_like(self.rows[:1]), response_here @ self.rows])
        goals = reading(self.levels, levels) @ path
        answers, outputs = feedback.answers(levels), self.at(levels).rows
        for i in range(1, len(outputs)):
            outputs[i] += answers[i] * (response[i - 1] @ outputs - goals[i])
        return float(_lengths(response[-1] @ outputs - goals[-1]) / _lengths(path[-1]))


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
        fitted: Mapping[int, Solved],
        response: Array,
        guidance: float,
    ) -> Feedback:
        """Of a model at some guidance, of which weights are known that closed loops fitted.

        With ``v = u + g d``, most of what v answers is g times what d does. Whether d is the branch with the prompt
        less the one without it or the reverse, nobody noted; but the fitted weights keep errors small with the one
        and not with the other.

        Args:
            outputs: on the calibrated grid.
            cached: the cached steps there.
            fitted: the weights.
            response: that of the grid.
            guidance: what multiplies the contrast; 1 where nothing does.
        """
        size = ANSWER * min(guidance, STRONGEST)
        either = cls(size, 1 / guidance), cls(size, -1 / guidance)
        return min(either, key=lambda self: float(_lengths(outputs.missed(cached, fitted, response, self))))

    def answers(self, levels: Sequence[float]) -> Array:
        """What errors are multiplied by at each but the last of these levels."""
        at = np.asarray(levels[:-1], dtype=np.float64)
        return self.size / np.maximum(at * (1 - at), LEAST)


def corrected(
    solved: Mapping[int, Solved],
    levels: Sequence[float],
    fitted: Mapping[int, Solved],
    solved_there: Mapping[int, Solved],
    levels_there: Sequence[float],
) -> dict[int, Solved]:
    """Solved weights plus what closed loops changed of those that were solved on the calibrated grid.

    The change is interpolated over the noise level, between steps that lie equally many steps after a computed one and
    have as long a history: it is another one further into a gap. With none alike, weights stay as solved.

    Args:
        solved: on the grid of ``levels``.
        levels: its noise levels.
        fitted: what closed loops fitted on the calibrated grid.
        solved_there: what :meth:`Outputs.solved` gives there, for the same schedule.
        levels_there: its noise levels.
    """
    changes: dict[tuple[int, int, int], list[tuple[float, Array]]] = {}
    for i, there in solved_there.items():
        if i in fitted and _kind(i, fitted[i]) == _kind(i, there):
            changes.setdefault(_kind(i, there), []).append((levels_there[i], fitted[i].weights - there.weights))
    found = dict(solved)
    for i, here in solved.items():
        alike = changes.get(_kind(i, here), [])[::-1]  # rising levels
        if alike:
            at = [level for level, _ in alike]
            change = [np.interp(levels[i], at, values) for values in np.array([w for _, w in alike]).T]
            found[i] = Solved.by(here.history, here.weights + np.array(change))
    return found


def _lengths(rows: Array) -> Array:
    """The lengths of vectors along the last axis."""
    lengths: Array = np.linalg.norm(rows, axis=-1)
    return lengths


def _kind(step: int, solved: Solved) -> tuple[int, int, int]:
    return step - solved.history[0], len(solved.history), len(solved.contrast_factors)


def _terms(history: Array) -> Array:
    """As `ertacache.method.alignment.features`: the differences, newest first, and the newest entry."""
    return np.concatenate([history[:-1] - history[1:], history[:1]])
