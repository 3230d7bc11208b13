"""Algorithm 2: cache a step while the distance of Eq. (12) stays under a threshold."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection

from torch import Tensor

from ertacache.errors import CalibrationError
from ertacache.method.schedule import check_budget, check_forced
from ertacache.precision import widened

Distance = Callable[[int, int], float]
"""``distance(last, i)``: Eq. (12) between the residual cached at step ``last`` and the fresh one at step ``i``."""


def relative_distance(cached: Tensor, fresh: Tensor, reference: Tensor) -> tuple[float, float]:
    """Numerator and denominator of Eq. (12) for one prompt: ``|r~ - r|_1`` and ``|r_gt|_1``.

    Both are to be summed over the prompts before they are divided.
    """
    error = (widened(cached) - widened(fresh)).abs().sum()
    return float(error), float(widened(reference).abs().sum())


def threshold(num_steps: int, distance: Distance, lam: float, forced: Collection[int] = ()) -> tuple[int, ...]:
    """Algorithm 2: cache step i where the cached residual is within ``lam`` of the fresh one.

    Steps 0 and T-1 are always computed, and so are those in ``forced``. After a computed step the cache is
    renewed; after a cached one it stays.

    Args:
        num_steps: T.
        distance: in closed loop it is measured on the cached trajectory as the loop goes; on recorded residuals
            it is the distance between two recorded steps.
        lam: the threshold; caching asks for a distance strictly under it.
        forced: steps that must be computed.
    """
    cached: list[int] = []
    last = 0
    for i in range(1, num_steps - 1):
        if i not in forced and distance(last, i) < lam:
            cached.append(i)
        else:
            last = i
    return tuple(cached)


def threshold_for_budget(
    num_steps: int, distance: Distance, computed: int, forced: Collection[int] = ()
) -> tuple[float, tuple[int, ...]]:
    """The smallest threshold whose schedule computes at most ``computed`` steps, and that schedule.

    The number of computed steps falls with the threshold in jumps, so the schedule may compute fewer. Then the
    cached steps with the largest distance are computed after all, until the budget is used up.

    Raises:
        BudgetError: if ``forced`` alone exceeds the budget.
        CalibrationError: if a distance is not finite.
    """
    check_budget(num_steps, computed, given=f"{computed} computed steps of {num_steps}")
    check_forced(num_steps, computed, forced)
    # Above the largest distance everything is cached that may be, so a threshold that meets the budget exists.
    low, high = 0.0, 1e-6
    while num_steps - len(threshold(num_steps, distance, high, forced)) > computed:
        low, high = high, 2 * high
        if math.isinf(high):
            raise CalibrationError(
                "no threshold meets the budget, so a recorded residual is not finite",
                given=f"{computed} computed steps of {num_steps}",
                cure="Check the model's outputs without a cache.",
            )
    for _ in range(60):
        middle = (low + high) / 2
        if num_steps - len(threshold(num_steps, distance, middle, forced)) > computed:
            low = middle
        else:
            high = middle
    cached = list(threshold(num_steps, distance, high, forced))
    while num_steps - len(cached) < computed:
        cached.remove(max(cached, key=lambda i: distance(_last_computed(i, cached), i)))
    return high, tuple(cached)


def _last_computed(i: int, cached: Collection[int]) -> int:
    return max(j for j in range(i) if j not in cached)
