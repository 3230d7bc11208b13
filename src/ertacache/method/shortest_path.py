"""Schedules by shortest paths over pairwise errors, as LeMiCa (arXiv 2511.00090), MeanCache and DPCache choose them.

A node is a computed step. The edge from i to j costs what it takes to reuse step i's output until step j. LeMiCa
measures an edge by its effect on the final picture, with one generation for each edge. Here it is how far the reuse
moves the latent, which follows from recorded outputs. A path is judged by the sum of its edges, or by LeMiCa's
lexicographic minimax: make the largest edge as small as possible, then the second largest, and so on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Weight = tuple[float, ...]
"""The weight of a path: its sum, or its edges with the largest first. Smaller is better."""


def edges(gram: Array, slopes: Sequence[float]) -> Array:
    """Compute the cost of every edge, ``|| sum_{i<k<j} b_k (v_k - v_i) ||``: how far reuse moves the latent.

    Args:
        gram: ``<v_i, v_j>`` of the recorded outputs, (T, T), float64.
        slopes: ``b_i``, how far the sampler moves the latent for a unit of model output, T numbers.

    Returns:
        (T, T + 1), float64, for steps i (row) and j (column); infinite unless i < j.
    """
    steps = len(gram)
    costs = np.full((steps, steps + 1), np.inf)
    for i in range(steps):
        moved = np.zeros(steps)  # in coordinates of the recorded outputs
        for j in range(i + 1, steps + 1):
            costs[i, j] = math.sqrt(max(float(moved @ gram @ moved), 0.0))
            if j < steps:
                moved[j] += slopes[j]
                moved[i] -= slopes[j]
    return costs


def shortest_path(costs: Array, computed: int, forced: Sequence[int], *, minimax: bool) -> tuple[int, ...]:
    """Find the cheapest path from the first step to the last one.

    Args:
        costs: what `edges` returned.
        computed: the number of nodes of the path, that is of computed steps, 2 or more.
        forced: steps that every path computes, rising.
        minimax: compare the paths' edges, the largest first, instead of their sums.

    Returns:
        The cached steps, rising.
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
