"""The paper's offline schedule: cache a step while the residual has changed by less than a threshold.

In: the number of steps and a distance between cached and fresh residuals. Out: the cached steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection

from torch import Tensor

from ertacache.errors import CalibrationError
from ertacache.method.schedule import check_budget, check_forced

Distance = Callable[[int, int], float]
"""``distance(last, i)``: how far the residual cached at step ``last`` is from the fresh one at step ``i``.

Of what `relative_distance` returns, summed over prompts, the numerator over the denominator.
"""


def relative_distance(cached: Tensor, fresh: Tensor, reference: Tensor) -> tuple[float, float]:
    """Eq. (12) for one prompt: its numerator ``|r~ - r|_1`` and its denominator ``|r_gt|_1``.

    The caller sums both over all prompts and divides the sums. Computed in the precision of the tensors.

    Args:
        cached: the residual ``r~`` in the cache, any shape, floating.
        fresh: the residual ``r`` of the step, of the same shape.
        reference: the residual ``r_gt`` of the full run at the step, of the same shape.
    """
    return float((cached - fresh).abs().sum()), float(reference.abs().sum())


def threshold(num_steps: int, distance: Distance, lam: float, forced: Collection[int] = ()) -> tuple[int, ...]:
    """Algorithm 2: cache step i if the cached residual is closer than ``lam`` to the fresh one.

    Steps 0 and T-1 are always computed, and so are those in ``forced``. A computed step renews the cache; a cached
    step leaves it as it is.

    Args:
        num_steps: T.
        distance: see `Distance`; between recorded steps. In closed loop a distance is known only when its step is
            reached; `ertacache.calibration.paper_loop` decides the same way as it goes.
        lam: the threshold, over 0; a step is cached only if its distance is strictly below.
        forced: steps that must be computed.

    Returns:
        The cached steps, rising.
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
    """Find the smallest threshold whose schedule computes at most ``computed`` steps.

    The number of computed steps falls in jumps as the threshold rises, so that schedule may compute fewer. Then the
    cached steps with the largest distance are computed as well, until the budget is used up.

    Args:
        num_steps: T.
        distance: see `Distance`.
        computed: how many steps may be computed, 2 .. T.
        forced: steps that must be computed.

    Returns:
        The threshold, and the cached steps, rising.

    Raises:
        BudgetError: if the budget is no number of 2 .. T steps, or ``forced`` alone exceeds it.
        CalibrationError: if a distance is not finite.
    """
    check_budget(num_steps, computed, given=f"{computed} computed steps of {num_steps}")
    check_forced(num_steps, computed, forced)
    # A threshold above the largest distance caches all steps that can be cached, so one that meets the budget exists.
    low, high = 0.0, 1e-6
    while num_steps - len(threshold(num_steps, distance, high, forced)) > computed:
        low, high = high, 2 * high
        if math.isinf(high):
            raise CalibrationError(
                "no threshold meets the budget, so a recorded residual must be NaN or infinite",
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
