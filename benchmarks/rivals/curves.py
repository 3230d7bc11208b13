"""Quality against cost: the PSNR that a rival reaches at a given speedup, at its best settings.

Each prompt has a curve of its own, since an adaptive cache skips much on one prompt and nothing on another. A mean over
prompts of one setting would credit it with the perfect pictures of the latter at the cost of the former. For the same
reason, a setting that skips nothing on a prompt is left out of that prompt's curve.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import log
from statistics import median

from ertacache.evaluation.harness import Measured

Cost = Callable[[Measured, int], float]
"""How many times cheaper than the full run a setting is on a prompt."""


def by_time(row: Measured, prompt: int) -> float:
    """Speedup of denoising."""
    return row.speedup[prompt]


def by_operations(row: Measured, prompt: int) -> float:
    """The full run's operations of the denoiser over this setting's."""
    return 1 / row.flops[prompt]


def frontier(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points (speedup, PSNR) that no other point beats in both, from slow to fast."""
    best: list[tuple[float, float]] = []
    for point in sorted(points, reverse=True):
        if not best or point[1] > best[-1][1]:
            best.append(point)
    return best[::-1]


def interpolated(points: Sequence[tuple[float, float]], speedup: float) -> float:
    """PSNR in dB at a speedup on the frontier, linear in the logarithm of the speedup; flat beyond its ends."""
    edge = frontier(points)
    slower = [point for point in edge if point[0] <= speedup] or edge[:1]
    faster = [point for point in edge if point[0] >= speedup] or edge[-1:]
    (left, low), (right, high) = slower[-1], faster[0]
    if left >= right:
        return low
    return low + (high - low) * (log(speedup) - log(left)) / (log(right) - log(left))


def qualities_at(rows: Sequence[Measured], speedup: float, cost: Cost) -> list[float] | None:
    """The PSNR in dB of each prompt at a speedup; None if no setting is that fast on most prompts.

    If every setting is faster than ``speedup``, the slowest one counts.
    """
    prompts = range(len(rows[0].psnr))
    if speedup > max(median(cost(row, k) for k in prompts) for row in rows):
        return None
    skipping = [[row for row in rows if row.flops[k] < _ALL] or rows for k in prompts]
    return [interpolated([(cost(row, k), row.psnr[k]) for row in skipping[k]], speedup) for k in prompts]


_ALL = 0.995  # of the full run's operations; what is left is the gate of a cache that skips nothing
