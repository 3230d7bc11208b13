"""The budget of a calibration: exactly one of three ways to say how much may be computed."""

from __future__ import annotations

from dataclasses import dataclass

from ertacache.errors import BudgetError
from ertacache.method.named import Method
from ertacache.method.schedule import check_budget, computed_steps_for


@dataclass(frozen=True)
class Budget:
    """How much may be computed: a number of steps, or the threshold of Algorithm 2.

    Args:
        asked: as the user wrote it.
        computed: how many steps may be computed, or None.
        threshold: the lambda of Eq. (12), or None.
    """

    asked: str
    computed: int | None
    threshold: float | None


def parse_budget(
    num_steps: int, method: Method, speedup: float | None, num_computed_steps: int | None, threshold: float | None
) -> Budget:
    """Exactly one budget.

    Raises:
        BudgetError: if there is none, more than one, or one that cannot be met.
    """
    given = {"speedup": speedup, "num_computed_steps": num_computed_steps, "threshold": threshold}
    given = {name: value for name, value in given.items() if value is not None}
    asked = ", ".join(f"{name}={value}" for name, value in given.items())
    if len(given) != 1:
        raise BudgetError(
            "calibration needs exactly one budget", given=asked or "none", cure=f"Pass one of {', '.join(_NAMES)}."
        )
    if speedup is not None:
        return Budget(asked, computed_steps_for(num_steps, speedup), None)
    if num_computed_steps is not None:
        check_budget(num_steps, num_computed_steps, given=f"{asked} at {num_steps} steps")
        return Budget(asked, num_computed_steps, None)
    if method.schedule != "offline":
        raise BudgetError(
            "a threshold is for Algorithm 2 only",
            given=f"{asked} with schedule={method.schedule!r}",
            cure="Use speedup= or num_computed_steps=, or a method with schedule='offline' such as 'paper'.",
        )
    if not threshold > 0:  # type: ignore[operator]
        raise BudgetError("the threshold must be positive", given=asked, cure="Values from 0.02 to 0.6 are usual.")
    return Budget(asked, None, threshold)


_NAMES = ("speedup", "num_computed_steps", "threshold")
