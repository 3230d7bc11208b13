"""Schedules: which steps are computed and which are cached.

In: the number of steps and how many may be computed. Out: the cached steps, spaced evenly (`evenly_spaced`), denser at
an end (`denser_at_ends`), or with one step moved (`moves`). Forced steps, at which the denoiser's calls change, are
never cached.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import pairwise, product

from ertacache.errors import BudgetError

MOST_STEPS = 10_000
"""Upper bound on the steps of a run; no sampler comes near it."""
Schedule = tuple[int, ...]
"""The cached steps, rising, counted from 0."""


def computed_steps_for(num_steps: int, speedup: float) -> int:
    """Find how many steps may be computed so that ``num_steps / computed`` is at least ``speedup``.

    Args:
        num_steps: T.
        speedup: the wanted ratio of all steps to computed ones, 1 or more.

    Raises:
        BudgetError: if ``speedup`` is under 1, or so large that fewer than 2 steps are computed; or if T is under 3.
    """
    if not speedup >= 1:
        raise BudgetError("a speedup cannot be under 1", given=f"speedup={speedup}", cure="Ask for 1 or more.")
    computed = int(num_steps / speedup + 1e-9)
    check_budget(num_steps, computed, given=f"speedup={speedup} at {num_steps} steps")
    return computed


def check_budget(num_steps: int, computed: int, *, given: str) -> None:
    """Raise `BudgetError` unless a policy can compute ``computed`` of ``num_steps`` steps.

    Args:
        num_steps: T.
        computed: how many steps are computed.
        given: the budget as the user gave it, for the message.
    """
    if num_steps < 3:
        raise BudgetError(
            "a run of fewer than 3 steps leaves no step to cache",
            given=given,
            cure="Use at least 3 inference steps.",
        )
    if not 2 <= computed <= num_steps:
        raise BudgetError(
            "the budget cannot be met: a policy computes at least 2 steps, and at most all",
            given=given,
            cure=f"Ask for 2 to {num_steps} computed steps, that is a speedup of 1 to {num_steps / 2:g}.",
        )


def fewest_computed(num_steps: int, forced: Collection[int]) -> int:
    """Count the fewest steps that a budget may allow: as many as the first, the last, and those in ``forced``.

    Method `aligned` may cache the last one or two steps; it then computes others.
    """
    return len({0, num_steps - 1, *forced})


def check_forced(num_steps: int, computed: int, forced: Collection[int]) -> None:
    """Raise `BudgetError` if more than ``computed`` of ``num_steps`` steps cannot be cached."""
    floor = fewest_computed(num_steps, forced)
    if floor > computed:
        raise BudgetError(
            "the budget is too small: this call changes the expert or guidance on the way, and such steps, like the "
            "first one, are always computed",
            given=f"{computed} computed steps",
            cure=f"Allow at least {floor} computed steps.",
        )


def uniform(num_steps: int, computed: int) -> tuple[int, ...]:
    """Space ``computed`` of ``num_steps`` steps evenly, the first and the last among them; return the cached ones."""
    kept = {round(k * (num_steps - 1) / (computed - 1)) for k in range(computed)}
    return tuple(i for i in range(num_steps) if i not in kept)


def evenly_spaced(num_steps: int, computed: int, forced: Sequence[int], *, first: int = 0, last: int = 0) -> Schedule:
    """Space the computed steps evenly; each forced step is computed in place of the nearest computed one.

    Args:
        num_steps: T.
        computed: how many steps are computed.
        forced: steps that must be computed.
        first: how many steps at the beginning are all computed; the even spacing begins after them.
        last: how many steps at the end are all computed.
    """
    skipped = {first + i for i in uniform(num_steps - first - last, computed - first - last)}
    return _with_forced(num_steps, skipped, forced)


def denser_at_ends(
    num_steps: int,
    computed: int,
    forced: Sequence[int],
    *,
    start: float = 1.0,
    finish: float = 1.0,
    end: int = 0,
    power: float = 1.0,
) -> Schedule:
    """Space the computed steps evenly along a curve that makes them denser, or sparser, at the ends of the run.

    The computed step at u = 0 .. 1 of the way moves to w = u^power, and on to ``(2w)^start / 2`` in the first half of
    the run, and to ``1 - (2 - 2w)^finish / 2`` in the second: an exponent over 1 makes that end denser. If two fall on
    one step, the widest gap is halved instead. Each forced step is computed in place of the nearest computed one.

    Args:
        num_steps: T.
        computed: how many of the steps are computed.
        forced: steps that must be computed.
        start: the exponent of the first half, over 0.
        finish: the exponent of the second half, over 0.
        end: how many steps at the very end are cached.
        power: over 1, steps are the sparser the later they are, all along the run.
    """
    places = [(k / (computed - 1)) ** power for k in range(computed)]
    curve = [(2 * u) ** start / 2 if u < 0.5 else 1 - (2 - 2 * u) ** finish / 2 for u in places]
    last = num_steps - 1 - end
    kept = {0, *(round(u * last) for u in curve)}
    while len(kept) < computed:  # two fell on one step: halve the widest gap
        rising = [*sorted(kept), num_steps]
        left, right = max(pairwise(rising), key=lambda gap: gap[1] - gap[0])
        kept.add((left + right) // 2)
    return _with_forced(num_steps, [i for i in range(num_steps) if i not in kept], forced)


def _with_forced(num_steps: int, cached: Iterable[int], forced: Sequence[int]) -> Schedule:
    """Compute each forced step in place of the nearest computed step that is free to move."""
    skipped = set(cached)
    for step in forced:
        if step in skipped:
            free = [i for i in range(1, num_steps - 1) if i not in skipped and i not in forced]
            skipped = skipped - {step} | {min(free, key=lambda i: abs(i - step))}
    return tuple(sorted(skipped))


def all_denser_at_ends(num_steps: int, computed: int, forced: Sequence[int]) -> set[Schedule]:
    """Make the schedules of `denser_at_ends` for all pairs of `EXPONENTS`, with 0, 1 or 2 steps cached at the end."""
    ends = [end for end in (0, 1, 2) if computed < num_steps - end]
    return _bends(num_steps, computed, forced, product(EXPONENTS, EXPONENTS, ends, (1.0,)))


def safe_bends(
    num_steps: int, computed: int, forced: Sequence[int], levels: Sequence[float] | None = None
) -> list[Schedule]:
    """Make the few schedules of `denser_at_ends` that no trained pipeline lost much by, in an order that is fixed.

    They are what a policy chooses among that no denoiser call was made for. Those with a power are for grids that rush
    through the first noise levels, where what a picture shows is decided: strong guidance without a shift. They alone
    may cache steps at the end, and only below a noise level of `ALMOST_CLEAN`: such grids have several steps there,
    others make their last large change (docs/records/research-log.md).

    Args:
        num_steps: T.
        computed: how many steps are computed.
        forced: steps that must be computed.
        levels: the T + 1 noise levels ``s`` of flow matching, falling; without them the last step is computed.
    """
    ends = [0]
    if levels is not None:
        ends += [end for end in range(1, num_steps - computed) if levels[num_steps - 1 - end] <= ALMOST_CLEAN]
    mild = product((0.8, 1.0, 1.25), (1.0, 1.25, 1.5, 1.8), (0,), (1.0,))
    early = product((1.0,), (1.0, 1.25, 1.5), ends, (1.25, 1.5, 1.75, 2.0))
    return sorted(_bends(num_steps, computed, forced, [*mild, *early]))


def _bends(
    num_steps: int, computed: int, forced: Sequence[int], shapes: Iterable[tuple[float, float, int, float]]
) -> set[Schedule]:
    """The schedules of `denser_at_ends` for these exponents of both halves, steps cached at the end, and powers."""
    return {
        denser_at_ends(num_steps, computed, forced, start=start, finish=finish, end=end, power=power)
        for start, finish, end, power in shapes
    }


ALMOST_CLEAN = 0.12
"""The noise level, 0 to 1, below which `safe_bends` may leave steps at the end uncomputed."""
EXPONENTS = (0.6, 0.8, 1.0, 1.25, 1.5, 1.8, 2.2)
"""The exponents that `all_denser_at_ends` tries for each half of the run."""


def moves(cached: Schedule, num_steps: int, forced: Sequence[int], reach: int = 2) -> Iterator[Schedule]:
    """Yield all schedules in which one computed step trades places with a cached one at most ``reach`` steps away.

    Args:
        cached: the schedule to change.
        num_steps: T; steps 0 and T-1 stay as they are.
        forced: steps that must be computed.
        reach: the farthest move, in steps.
    """
    skipped = set(cached)
    for step in range(1, num_steps - 1):
        if step in skipped or step in forced:
            continue
        for other in range(step - reach, step + reach + 1):
            if other in skipped:
                yield tuple(sorted(skipped - {other} | {step}))
