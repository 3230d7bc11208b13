"""Two grids of noise levels of one model: how alike they are, and how to carry steps and values from one to the other.

A grid of T steps has T + 1 noise levels, falling, the terminal one included.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

NEIGHBOURS = 4
"""How many levels a value is interpolated from; 4 makes it cubic."""


def curve_difference(levels: Sequence[float], others: Sequence[float]) -> float:
    """Measure how far two grids are from being the same curve cut into different numbers of steps.

    Args:
        levels: the T + 1 noise levels of the first grid, falling.
        others: the T' + 1 noise levels of the second, falling.

    Returns:
        The largest gap between the curves, in steps of the first grid; 0 for the same curve.
    """
    steps, targets = len(levels) - 1, len(others) - 1
    places = np.interp(-np.asarray(others), -np.asarray(levels), np.arange(steps + 1))
    return float(np.abs(places - np.arange(targets + 1) * steps / targets).max())


def place_schedule(
    cached: Collection[int], levels: Sequence[float], others: Sequence[float], computed: int
) -> tuple[int, ...]:
    """Place a schedule on another grid: the computed steps stay as dense over the noise levels as they were.

    Args:
        cached: the cached steps on the grid of ``levels``.
        levels: the T + 1 noise levels of the first grid, falling.
        others: the T' + 1 noise levels of the other grid, falling.
        computed: how many steps are computed on the other grid, 1 .. T'.

    Returns:
        The cached steps on the other grid, rising.
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


def coarser(levels: Sequence[float], steps: int) -> tuple[float, ...]:
    """Cut the curve of a grid into fewer steps, as a scheduler would.

    Args:
        levels: the T + 1 noise levels of a grid.
        steps: the number of steps of the new grid, 1 or more.

    Returns:
        ``steps + 1`` noise levels with the same ends.
    """
    last = len(levels) - 1
    return tuple(np.interp(np.arange(steps + 1) * last / steps, np.arange(last + 1), levels).tolist())


def interpolation_matrix(levels: Sequence[float], others: Sequence[float]) -> Array:
    """Build the interpolation matrix from values at some levels to values at others, cubic in the four nearest.

    Args:
        levels: T falling levels at which values are known.
        others: T' levels at which they are wanted.

    Returns:
        (T', T), float64; each row sums to 1, and at a known level it picks that value.
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
