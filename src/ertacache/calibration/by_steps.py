"""A budget of steps: find a schedule with that many computed steps, by search, evenly spaced, or by Algorithm 2."""

from __future__ import annotations

from typing import NamedTuple

from ertacache.calibration.budget import StepsBudget
from ertacache.calibration.by_threshold import fitted_on_cached_trajectory
from ertacache.calibration.full_runs import Session
from ertacache.calibration.loop_result import Fit
from ertacache.calibration.loop_runner import ClosedLoops
from ertacache.calibration.make_policy import better_policy, nothing_cached, record_of
from ertacache.calibration.residual_distances import residual_distances
from ertacache.calibration.search import Search
from ertacache.method.named_methods import Method
from ertacache.method.schedule import Schedule, check_forced, evenly_spaced
from ertacache.method.threshold import threshold_for_budget
from ertacache.policy import Policy


def within_steps(session: Session, method: Method, budget: StepsBudget) -> Policy:
    """Find the best policy of a method that computes at most the budget's number of steps.

    Raises:
        BudgetError: if the pipeline needs more computed steps than that.
    """
    loops, setting = session.loops, session.loops.setting
    session.progress.phase(f"fitting {method.name}")
    check_forced(setting.num_steps, budget.computed, setting.forced)
    if budget.computed == setting.num_steps:
        return nothing_cached(loops, method, budget, "all steps are computed, so nothing is cached")
    if method.schedule == "search" and budget.full_runs <= 1:
        return _from_recordings(loops, method, budget)
    if method.schedule == "search":
        best = search_schedule(loops, method, budget.computed, _limit(loops, budget))
        return better_policy(loops, method, budget, best.fit, limit=_limit(loops, budget), notes=best.notes)
    threshold, cached = _planned(loops, method, budget.computed)
    if method.fits_cached_trajectory:
        return fitted_on_cached_trajectory(loops, method, budget, threshold=threshold, planned=cached)
    return better_policy(loops, method, budget, loops.predict(cached, method))


def _limit(loops: ClosedLoops, budget: StepsBudget) -> float:
    return budget.full_runs * loops.full_run


def _from_recordings(loops: ClosedLoops, method: Method, budget: StepsBudget) -> Policy:
    """Make the policy that the full runs alone teach, without a closed loop."""
    cached = loops.surrogate.best_bend(budget.computed)
    note = "made from recordings alone, without a closed loop, so its error was not measured"
    return Policy(
        num_inference_steps=loops.setting.num_steps,
        cached_steps=cached,
        method=method,
        predictions=loops.surrogate.solved(cached, method.order),
        streams=tuple(other.solved(cached, method.order) for other in loops.surrogate.others),
        calibration=record_of(loops, budget, None, (), notes=[note]),
    )


class FoundSchedule(NamedTuple):
    """The result of a search.

    Args:
        fit: the fit on the best schedule; see `ertacache.calibration.search.Search.run`.
        num_tried: how many schedules were tried.
        interrupted: whether the user ended the search (Ctrl-C).
    """

    fit: Fit
    num_tried: int
    interrupted: bool

    @property
    def notes(self) -> list[str]:
        """The notes on the search for the user, if any."""
        note = f"the search was interrupted; the schedule is the best of {self.num_tried}"
        return [note] if self.interrupted else []


def search_schedule(loops: ClosedLoops, method: Method, computed: int, limit: float) -> FoundSchedule:
    """Search for the schedule with the smallest closed-loop error of the aligned prediction.

    Args:
        loops: the loops of the calibration.
        method: the method of the predictions.
        computed: how many steps are computed.
        limit: the limit of ``loops.denoiser_calls``. It includes the loops that follow the search: the one with Taylor
            weights, and the one that fits the policy's weights.
    """
    reserve = (1 + loops.holds_out) * loops.cost_of(computed)
    search = Search(loops, loops.surrogate, method, int(limit - reserve))
    fit = search.run(computed)
    return FoundSchedule(fit, len(search.tried), search.stopped)


def _planned(loops: ClosedLoops, method: Method, computed: int) -> tuple[float | None, Schedule]:
    """Return a schedule that needs no closed loop, and its threshold; None if it is not of Algorithm 2."""
    setting = loops.setting
    if method.schedule == "uniform":
        return None, evenly_spaced(setting.num_steps, computed, setting.forced)
    distance = residual_distances(loops.recordings, method.level)
    return threshold_for_budget(setting.num_steps, distance, computed, setting.forced)
