"""A budget of steps for policies that are made in the call, where the number of steps is known only then."""

from __future__ import annotations

from dataclasses import dataclass

from ertacache.errors import BudgetError
from ertacache.method.schedule import MOST_STEPS
from ertacache.value_checks import as_error, number, optional, whole


@dataclass(frozen=True)
class StepBudget:
    """Exactly one of two ways to say how many steps are computed.

    Args:
        speedup: at least so many steps for each computed one; 1 or more.
        num_computed_steps: at most so many computed steps; 2 or more.

    Raises:
        BudgetError: if neither or both are given, or one is out of range.
    """

    speedup: float | None = None
    num_computed_steps: int | None = None

    def __post_init__(self) -> None:
        checks = {
            "speedup": lambda name, value: number(name, value, at_least=1, at_most=MOST_STEPS),
            "num_computed_steps": lambda name, value: whole(name, value, at_least=2, at_most=MOST_STEPS),
        }
        for name, check in checks.items():
            value = as_error(optional(check), BudgetError)(name, getattr(self, name))
            object.__setattr__(self, name, value)
        if (self.speedup is None) == (self.num_computed_steps is None):
            raise BudgetError(
                "without a policy, exactly one budget of steps is needed",
                given=str(self) or "none",
                cure="Pass speedup=2.0, or num_computed_steps=15. For a budget of seconds or quality call "
                "ertacache.calibrate().",
            )

    def computed(self, num_steps: int) -> int:
        """How many of so many steps may be computed: at least two, at most all."""
        wanted = int(num_steps / self.speedup + 1e-9) if self.speedup is not None else self.num_computed_steps or 0
        return min(max(wanted, 2), num_steps)

    def __str__(self) -> str:
        given = {"speedup": self.speedup, "num_computed_steps": self.num_computed_steps}
        return ", ".join(f"{name}={value:g}" for name, value in given.items() if value is not None)
