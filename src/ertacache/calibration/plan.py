"""How many prompts a calibration uses, and what each may cost: from the limit that the user gave for all of it.

A full run of every prompt and one closed loop over all of them is most of what a calibration is worth: more prompts
bring more than more loops (docs/records/cost.md). So a limit is spent on as many prompts as can have both.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ertacache.calibration.budget import Budget, QualityBudget, StepsBudget, ThresholdBudget
from ertacache.calibration.step_fit import MIN_HELD_OUT
from ertacache.errors import ArgumentError, BudgetError
from ertacache.method.named_methods import Method
from ertacache.value_checks import number

FULL_RUNS = 10.0
"""The default limit for budgets of steps and of seconds, in full runs in all; see docs/records/cost.md."""
QUALITY_RUNS = 8.0
"""The default limit for a budget of quality, which has to find the number of steps too, in full runs per prompt."""
MOST_FULL_RUNS = 1e6
"""The highest limit."""
USUAL_SHARE = 0.5
"""The share of steps that is taken to be computed where that is not known yet."""


@dataclass(frozen=True)
class Plan:
    """What a calibration may cost.

    Args:
        num_prompts: how many of the prompts are used, from the first one on.
        full_runs: the limit for each of them, in full runs; 1 if no closed loop is run.
    """

    num_prompts: int
    full_runs: float

    @classmethod
    def of(cls, budget: Budget, method: Method, num_prompts: int, num_steps: int, total: float | None) -> Plan:
        """Make the plan of a calibration.

        Args:
            budget: the budget that was asked for.
            method: the method to fit.
            num_prompts: how many prompts there are.
            num_steps: how many steps a call makes.
            total: the user's limit, in full runs in all; None for the default.

        Raises:
            BudgetError: if the limit is not a number from 1 on.
        """
        total = None if total is None else _checked(total)
        if isinstance(budget, QualityBudget):
            return cls(num_prompts, QUALITY_RUNS if total is None else total / max(num_prompts, 1))
        loop = (budget.computed if isinstance(budget, StepsBudget) else USUAL_SHARE * num_steps) / num_steps
        need = 2.0 + method.timestep_adjustment if method.fits_cached_trajectory else 1 + loop
        if isinstance(budget, ThresholdBudget) or method.schedule != "search":
            used = num_prompts if total is None else max(1, min(num_prompts, int(total / need)))
            return cls(used, max(need, (total or 0) / max(used, 1)))
        total = FULL_RUNS if total is None else total
        if total < need and method.level == "velocity":
            return cls(min(num_prompts, int(total)), 1.0)
        used = max(1, min(num_prompts, int(total / need)))
        if used >= MIN_HELD_OUT:  # each is held out in the search, and one loop more fits the weights on all
            used = max(MIN_HELD_OUT - 1, min(num_prompts, int(total / (need + loop))))
        return cls(used, max(need, total / max(used, 1)))

    def limiting(self, budget: Budget) -> Budget:
        """Put the limit into a budget."""
        return replace(budget, full_runs=self.full_runs)


def _checked(total: float) -> float:
    try:
        return number("full_runs", total, at_least=1, at_most=MOST_FULL_RUNS)
    except ArgumentError as wrong:
        raise BudgetError(
            f"full_runs, the limit of the whole calibration, must be 1 to {MOST_FULL_RUNS:g}",
            given=f"full_runs={wrong.given}",
            cure=f"Allow 1 (the recording of one prompt) or more; the default is {FULL_RUNS:g} ({QUALITY_RUNS:g} per "
            "prompt for a budget of quality).",
        ) from None
