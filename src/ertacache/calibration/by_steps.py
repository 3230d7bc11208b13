"""A budget of steps: the schedule that computes so many of them, by search, evenly spaced, or by Algorithm 2."""

from __future__ import annotations

from typing import NamedTuple

from ertacache.calibration.budget import StepsBudget
from ertacache.calibration.by_threshold import fitted_on_cached_trajectory
from ertacache.calibration.full_runs import Session
from ertacache.calibration.gram import gram_of
from ertacache.calibration.loop_result import Fit
from ertacache.calibration.loop_runner import ClosedLoops
from ertacache.calibration.make_policy import better_policy, nothing_cached
from ertacache.calibration.residual_distances import residual_distances
from ertacache.calibration.search import Search
from ertacache.method.named_methods import Method
from ertacache.method.schedule import Schedule, check_forced, evenly_spaced
from ertacache.method.surrogate import Surrogate
from ertacache.method.threshold import threshold_for_budget
from ertacache.policy import Policy


def within_steps(session: Session, method: Method, budget: StepsBudget) -> Policy:
    """The best policy of a method that computes at most so many steps.

    Raises:
        BudgetError: if more steps cannot be cached.
    """
    loops, setting = session.loops, session.loops.setting
    session.progress.phase(f"fitting {method.name}")
    check_forced(setting.num_steps, budget.computed, setting.forced)
    if budget.computed == setting.num_steps:
        return nothing_cached(loops, method, budget, "all steps are computed, so nothing is cached")
    if method.schedule == "search":
        best = search_schedule(loops, method, budget.computed, budget.full_runs * loops.full_run)
        return better_policy(loops, method, budget, best.fit, notes=best.notes)
    threshold, cached = _planned(loops, method, budget.computed)
    if method.schedule == "offline" or method.timestep_adjustment or method.rectification is not None:
        return fitted_on_cached_trajectory(loops, method, budget, threshold=threshold, planned=cached)
    return better_policy(loops, method, budget, loops.predict(cached, method))


class FoundSchedule(NamedTuple):
    """What a search found.

    Args:
        fit: of the best schedule, as of `ertacache.calibration.search.Search.run`.
        num_tried: how many schedules it tried.
        interrupted: whether the user ended it (Ctrl-C).
    """

    fit: Fit
    num_tried: int
    interrupted: bool

    @property
    def notes(self) -> list[str]:
        """What the user should know of it."""
        note = f"the search was interrupted; the schedule is the best of {self.num_tried}"
        return [note] if self.interrupted else []


def search_schedule(loops: ClosedLoops, method: Method, computed: int, limit: float) -> FoundSchedule:
    """The aligned prediction on the schedule that is best in closed loop.

    Args:
        loops: the calibration's.
        method: of the predictions.
        computed: how many steps are computed.
        limit: of ``loops.denoiser_calls``, with the loops that come after the search: the one with Taylor weights, to
            compare with, and the one whose weights the policy gets.
    """
    reserve = (1 + loops.holds_out) * loops.cost_of(computed)
    search = Search(loops, surrogate_of(loops), method, int(limit - reserve))
    fit = search.run(computed)
    return FoundSchedule(fit, len(search.tried), search.stopped)


def surrogate_of(loops: ClosedLoops) -> Surrogate:
    """What judges schedules without denoiser calls."""
    setting = loops.setting
    return Surrogate(gram_of(loops.recordings, setting.num_steps), setting.slopes, setting.forced)


def _planned(loops: ClosedLoops, method: Method, computed: int) -> tuple[float | None, Schedule]:
    """The threshold, if the schedule is Algorithm 2's, and the schedule; both known before a closed loop."""
    setting = loops.setting
    if method.schedule == "uniform":
        return None, evenly_spaced(setting.num_steps, computed, setting.forced)
    distance = residual_distances(loops.recordings, method.level)
    return threshold_for_budget(setting.num_steps, distance, computed, setting.forced)
