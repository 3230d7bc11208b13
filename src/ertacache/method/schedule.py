"""Schedules: which steps are computed and which are cached, evenly spaced, bent to an end, or moved by one step."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import pairwise

from ertacache.errors import BudgetError

MOST_STEPS = 10_000
"""Of a run; no sampler makes as many."""
Schedule = tuple[int, ...]
"""The cached steps, rising."""


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


def evenly_spaced(num_steps: int, computed: int, forced: Sequence[int], *, first: int = 0, last: int = 0) -> Schedule:
    """The uniform schedule, each forced step computed in place of the computed step that is nearest to it.

    The ``first`` and the ``last`` steps are all computed; the uniform schedule is then one of the steps between them.
    """
    skipped = {first + i for i in uniform(num_steps - first - last, computed - first - last)}
    return _with_forced(num_steps, skipped, forced)


def bent(
    num_steps: int, computed: int, forced: Sequence[int], *, start: float = 1.0, finish: float = 1.0, end: int = 0
) -> Schedule:
    """Evenly spaced steps, drawn to the first step or to the last.

    The computed step at u = 0 .. 1 of the way goes to ``(2u)^start / 2`` in the first half, and to
    ``1 - (2 - 2u)^finish / 2`` in the second: an exponent over 1 makes its end dense. Where two fall on one step, the
    widest gap is halved; a forced step is computed in place of the one that is nearest to it.

    Args:
        num_steps: T.
        computed: how many of them are computed.
        forced: steps that are computed in any case.
        start: the exponent of the first half.
        finish: of the second half.
        end: how many steps at the end are cached.
    """
    places = [k / (computed - 1) for k in range(computed)]
    curve = [(2 * u) ** start / 2 if u < 0.5 else 1 - (2 - 2 * u) ** finish / 2 for u in places]
    last = num_steps - 1 - end
    kept = {0, *(round(u * last) for u in curve)}
    while len(kept) < computed:  # places that fell together: halve the widest gap
        rising = [*sorted(kept), num_steps]
        left, right = max(pairwise(rising), key=lambda gap: gap[1] - gap[0])
        kept.add((left + right) // 2)
    return _with_forced(num_steps, [i for i in range(num_steps) if i not in kept], forced)


def _with_forced(num_steps: int, cached: Iterable[int], forced: Sequence[int]) -> Schedule:
    """The schedule with each forced step computed in place of the computed step that is nearest to it."""
    skipped = set(cached)
    for step in forced:
        if step in skipped:
            free = [i for i in range(1, num_steps - 1) if i not in skipped and i not in forced]
            skipped = skipped - {step} | {min(free, key=lambda i: abs(i - step))}
    return tuple(sorted(skipped))


def bends(num_steps: int, computed: int, forced: Sequence[int]) -> set[Schedule]:
    """The schedules of `bent` for all pairs of exponents, with none to two steps cached at the end."""
    ends = [end for end in (0, 1, 2) if computed < num_steps - end]
    return {
        bent(num_steps, computed, forced, start=start, finish=finish, end=end)
        for start in EXPONENTS
        for finish in EXPONENTS
        for end in ends
    }


EXPONENTS = (0.6, 0.8, 1.0, 1.25, 1.5, 1.8, 2.2)
"""Of `bends`."""


def moves(cached: Schedule, num_steps: int, forced: Sequence[int], reach: int = 2) -> Iterator[Schedule]:
    """All schedules in which one computed step trades places with a cached one at most ``reach`` steps away."""
    skipped = set(cached)
    for step in range(1, num_steps - 1):
        if step in skipped or step in forced:
            continue
        for other in range(step - reach, step + reach + 1):
            if other in skipped:
                yield tuple(sorted(skipped - {other} | {step}))
