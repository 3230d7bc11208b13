"""Which steps to compute: evenly spaced, or by Algorithm 2 with the distance of Eq. (12)."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection

from torch import Tensor

from ertacache.errors import BudgetError, CalibrationError
from ertacache.precision import widened

Distance = Callable[[int, int], float]
"""``distance(last, i)``: Eq. (12) between the residual cached at step ``last`` and the fresh one at step ``i``."""


def computed_steps_for(num_steps: int, speedup: float) -> int:
    """The most steps that may be computed so that ``num_steps / computed`` is at least ``speedup``.

    Raises:
        BudgetError: if that leaves fewer than the first and the last step, or ``speedup`` is under 1.
    """
    if not speedup >= 1:
        raise BudgetError("no policy has a step ratio under 1", given=f"speedup={speedup}", cure="Ask for 1 or more.")
    computed = int(num_steps / speedup + 1e-9)
    check_budget(num_steps, computed, given=f"speedup={speedup} at {num_steps} steps")
    return computed


def check_budget(num_steps: int, computed: int, *, given: str) -> None:
    """Raise `BudgetError` unless ``computed`` steps out of ``num_steps`` can be a policy."""
    if num_steps < 3:
        raise BudgetError(
            "the first and the last step are always computed, so nothing is left to cache",
            given=given,
            cure="Use at least 3 inference steps.",
        )
    if not 2 <= computed <= num_steps:
        raise BudgetError(
            "the budget cannot be met, since the first and the last step are always computed",
            given=given,
            cure=f"Ask for 2 to {num_steps} computed steps, that is a speedup of 1 to {num_steps / 2:g}.",
        )


def fewest_computed(num_steps: int, forced: Collection[int]) -> int:
    """How many steps are computed at least: the first, the last, and those in ``forced``."""
    return len({0, num_steps - 1, *forced})


def check_forced(num_steps: int, computed: int, forced: Collection[int]) -> None:
    """Raise `BudgetError` where the steps that cannot be cached are more than ``computed``."""
    floor = fewest_computed(num_steps, forced)
    if floor > computed:
        raise BudgetError(
            "more steps must be computed than the budget allows, since at some the denoiser's calls change",
            given=f"{computed} computed steps, where {floor} cannot be cached",
            cure=f"Allow at least {floor} computed steps.",
        )


def uniform(num_steps: int, computed: int) -> tuple[int, ...]:
    """The cached steps when ``computed`` steps, the first and the last among them, are spaced evenly."""
    kept = {round(k * (num_steps - 1) / (computed - 1)) for k in range(computed)}
    return tuple(i for i in range(num_steps) if i not in kept)


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
