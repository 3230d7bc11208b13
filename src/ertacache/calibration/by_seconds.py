"""A budget of seconds: time this machine, plan the number of computed steps, reduce it if the policy is too slow."""

from __future__ import annotations

from dataclasses import replace
from math import ceil
from statistics import median

from ertacache.calibration.budget import SecondsBudget, StepsBudget
from ertacache.calibration.by_steps import within_steps
from ertacache.calibration.full_runs import Session
from ertacache.calibration.make_policy import cost_so_far, nothing_cached
from ertacache.calibration.shard import current_shard
from ertacache.calibration.timing import MARGIN, REPEATS, Costs, time_call, timed
from ertacache.errors import BudgetError
from ertacache.method.named_methods import Method
from ertacache.policy import Policy


def within_seconds(session: Session, method: Method, budget: SecondsBudget) -> Policy:
    """Find the best policy whose calls take at most the budget's seconds on this machine.

    Raises:
        BudgetError: if no policy is so fast.
    """
    loops = session.loops
    session.progress.phase("timing computed and cached steps")
    costs = current_shard().agreed(lambda: timed(loops.pipe, loops.calls[0].as_given(), loops.setting), "timing")
    loops.denoiser_calls += costs.denoiser_calls
    computed = costs.most_steps(budget.seconds)
    if computed == loops.setting.num_steps:
        note = f"the full call takes {costs.full:.3g} s, so nothing is cached"
        nothing = nothing_cached(loops, method, budget, note)
        return replace(nothing, calibration=replace(nothing.calibration, seconds=costs.full))
    while True:
        steps = StepsBudget(asked=budget.asked, computed=computed, full_runs=budget.full_runs)
        policy = within_steps(session, method, steps)
        measured = _timed_policy(session, policy)
        if measured <= budget.seconds:
            return replace(policy, calibration=replace(policy.calibration, seconds=measured, **cost_so_far(loops)))
        computed = _fewer(session, budget, computed, measured, costs)


def _timed_policy(session: Session, policy: Policy) -> float:
    """Time the first prompt's call with this policy: the median of a few calls, in seconds."""
    loops = session.loops
    session.progress.phase("timing the policy")
    finished = session.with_origin(policy)

    def timings() -> list[tuple[float, int]]:
        return [time_call(loops.pipe, loops.calls[0].as_given(), finished) for _ in range(REPEATS)]

    taken = current_shard().agreed(timings, "timing the policy")
    loops.denoiser_calls += sum(calls for _, calls in taken)
    return median(seconds for seconds, _ in taken)


def _fewer(session: Session, budget: SecondsBudget, computed: int, measured: float, costs: Costs) -> int:
    """Choose the number of computed steps to try next, after a policy turned out too slow.

    Args:
        session: the calibration.
        budget: the budget.
        computed: the computed steps of that policy.
        measured: the seconds of its call.
        costs: the timing that the plan was made from.

    Raises:
        BudgetError: if no policy computes so few steps.
    """
    setting = session.loops.setting
    fewer = computed - max(1, ceil((measured - budget.seconds * (1 - MARGIN)) / costs.computed_step))
    if fewer < setting.fewest_computed:
        raise BudgetError(
            "no policy is so fast on this machine",
            given=f"{budget.asked}; with {computed} of {setting.num_steps} steps computed a call takes "
            f"{measured:.3g} s",
            cure="Ask for more seconds, or for a smaller picture.",
        )
    return fewer
