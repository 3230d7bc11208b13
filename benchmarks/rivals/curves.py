"""Quality against cost: what a rival reaches at a given speedup, its knob turned as well as can be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import log

from ertacache.evaluation.measuring import Measured

Cost = Callable[[Measured], float]
"""How many times cheaper than the full run a setting is."""


def by_time(row: Measured) -> float:
    """Median speedup of denoising."""
    return row.median_speedup


def by_operations(row: Measured) -> float:
    """The full run's operations of the denoiser over this setting's."""
    return 1 / row.flops


def frontier(rows: Sequence[Measured], cost: Cost) -> list[Measured]:
    """The settings that no other one beats in both speed and mean PSNR, from slow to fast."""
    best: list[Measured] = []
    for row in sorted(rows, key=lambda row: (-cost(row), -row.mean_psnr)):
        if not best or row.mean_psnr > best[-1].mean_psnr:
            best.append(row)
    return best[::-1]


def quality_at(rows: Sequence[Measured], speedup: float, cost: Cost) -> float | None:
    """Mean PSNR in dB at a speedup, on the frontier, linear in the logarithm of the speedup between its settings.

    A rival none of whose settings is as slow as asked has its slowest setting's quality; one that is never as fast has
    none.
    """
    edge = frontier(rows, cost)
    if not edge or speedup > cost(edge[-1]):
        return None
    slower = [row for row in edge if cost(row) <= speedup]
    faster = [row for row in edge if cost(row) >= speedup]
    if not slower:
        return faster[0].mean_psnr
    left, right = slower[-1], faster[0]
    if left is right:
        return left.mean_psnr
    share = (log(speedup) - log(cost(left))) / (log(cost(right)) - log(cost(left)))
    return left.mean_psnr + share * (right.mean_psnr - left.mean_psnr)
