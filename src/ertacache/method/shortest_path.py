"""Schedules by shortest paths over pairwise errors, as LeMiCa (arXiv 2511.00090), MeanCache and DPCache choose them.

A node is a computed step, an edge from i to j what it costs to reuse step i's output until step j. LeMiCa measures an
edge by what is left of it in the final picture, which takes a generation for each; here it is how far it moves the
latent, which recorded outputs say. The sum of a path's edges, or LeMiCa's lexicographic minimax: the largest edge as
small as can be, then the next.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Weight = tuple[float, ...]
"""What paths are compared by."""


def edges(gram: Array, slopes: Sequence[float]) -> Array:
    """``|| sum_{i<k<j} b_k (v_k - v_i) ||`` for all i < j, (T, T + 1): how far reuse between them moves the latent."""
    steps = len(gram)
    found = np.full((steps, steps + 1), np.inf)
    for i in range(steps):
        moved = np.zeros(steps)  # in coordinates of the recorded outputs
        for j in range(i + 1, steps + 1):
            found[i, j] = math.sqrt(max(float(moved @ gram @ moved), 0.0))
            if j < steps:
                moved[j] += slopes[j]
                moved[i] -= slopes[j]
    return found


def shortest_path(costs: Array, computed: int, forced: Sequence[int], *, minimax: bool) -> tuple[int, ...]:
    """The path of so many nodes, the first and the last step among them, of the least sum or the least worst edges.

    Args:
        costs: of `edges`.
        computed: how many nodes.
        forced: nodes that every path has.
        minimax: compare the paths' sorted edges, the largest first, in place of their sums.
    """
    steps = len(costs)

    def joined(weight: Weight, edge: float) -> Weight:
        return tuple(sorted((*weight, edge), reverse=True)) if minimax else (weight[0] + edge,)

    best: dict[int, tuple[Weight, tuple[int, ...]]] = {0: (() if minimax else (0.0,), (0,))}
    for _ in range(computed - 1):
        longer: dict[int, tuple[Weight, tuple[int, ...]]] = {}
        for i, (weight, path) in best.items():
            following = min((f for f in forced if f > i), default=steps)
            for j in range(i + 1, min(following, steps - 1) + 1):
                candidate = joined(weight, costs[i, j]), (*path, j)
                if j not in longer or candidate < longer[j]:
                    longer[j] = candidate
        best = longer
    return tuple(i for i in range(steps) if i not in best[steps - 1][1])
