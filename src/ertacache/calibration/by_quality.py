"""A budget of quality: the fewest computed steps that reach it with confidence, judged on held-out prompts."""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean

from ertacache.calibration.budget import QualityBudget
from ertacache.calibration.by_steps import search_schedule
from ertacache.calibration.full_runs import Session
from ertacache.calibration.loop_result import Fit
from ertacache.calibration.make_policy import nothing_cached, policy_of
from ertacache.calibration.quality import CONFIDENCE, lower_bound
from ertacache.calibration.search import beginnings
from ertacache.errors import BudgetError
from ertacache.method.named_methods import Method
from ertacache.method.schedule import Schedule, evenly_spaced
from ertacache.policy import Policy


def reaching_quality(session: Session, method: Method, budget: QualityBudget) -> Policy:
    """Find the policy with the fewest computed steps that reaches this quality with confidence.

    Bisection finds the number of steps, each judged by one or two closed loops. Then the schedule search, which may
    find better schedules, tries one step fewer, and again, as long as the quality is reached.
    """
    session.progress.phase(f"fitting {method.name}")
    session.loops.judge_pictures()
    trials = _Trials(session, method, budget)
    computed = fewest(session.loops.setting.fewest_computed, session.loops.setting.num_steps, trials.is_enough)
    best = trials.fits.get(computed)
    if method.schedule == "search":
        best = trials.searched(computed, best)
    if best is None:
        note = "only the full run reaches this quality, so nothing is cached"
        return nothing_cached(session.loops, method, budget, note)
    values = trials.values(best)
    note = (
        f"mean {budget.measure.upper()} {fmean(values):.4g} over {len(values)} prompts, each by weights fitted on the "
        f"others; over {lower_bound(values):.4g} with {CONFIDENCE:.0%} confidence"
    )
    return policy_of(session.loops, method, budget, best, notes=[note, *trials.notes])


class _Trials:
    """Tries numbers of computed steps, and keeps the results.

    Attributes:
        fits: the results of the numbers tried without a search, by number of computed steps.
        notes: what the user should know about the searches.
    """

    def __init__(self, session: Session, method: Method, budget: QualityBudget) -> None:
        self._session, self._loops, self._method, self._budget = session, session.loops, method, budget
        self._limit = budget.full_runs * session.loops.full_run
        self._surrogate = session.loops.surrogate if method.schedule == "search" else None
        self.fits: dict[int, Fit] = {}
        self.notes: list[str] = []

    def values(self, fit: Fit) -> tuple[float, ...]:
        """Return the quality of each prompt, in the measure of the budget."""
        assert fit.quality is not None  # there is a judge
        found: tuple[float, ...] = getattr(fit.quality, self._budget.measure)
        if not found:
            raise BudgetError(
                "this pipeline returns no sound whose quality could be measured",
                given=self._budget.asked,
                cure="Use min_psnr or min_ssim for its pictures.",
            )
        return found

    def is_enough(self, computed: int) -> bool:
        """Return whether this number of computed steps reaches the quality, on the method's first schedule."""
        steps = self._loops.setting.num_steps
        self._session.progress.phase(f"judging {computed} of {steps} steps")
        self.fits[computed] = self._loops.judged(self._first_schedule(computed), self._method, self._reaches)
        return self._reaches(self.fits[computed])

    def searched(self, computed: int, best: Fit | None) -> Fit | None:
        """Search with one computed step fewer at a time, as long as the quality is reached and calls are left.

        Args:
            computed: the number of computed steps of ``best``.
            best: the fit to begin from; None if only the full run reaches the quality.

        Returns:
            The fit with the fewest computed steps that reaches the quality; ``best`` if no search found a better one.
        """
        setting = self._loops.setting
        interrupted = False
        while not interrupted and computed > setting.fewest_computed and self._can_search(computed - 1):
            self._session.progress.phase(f"searching with {computed - 1} of {setting.num_steps} steps")
            found = search_schedule(self._loops, self._method, computed - 1, self._limit)
            interrupted = found.interrupted
            self.notes += found.notes
            fit = self._loops.judged(found.fit.cached_steps, self._method, self._reaches)
            if not self._reaches(fit):
                break
            best, computed = fit, computed - 1
        return best

    def _reaches(self, fit: Fit) -> bool:
        return lower_bound(self.values(fit)) >= self._budget.least

    def _first_schedule(self, computed: int) -> Schedule:
        setting = self._loops.setting
        if self._surrogate:
            return next(beginnings(setting.num_steps, computed, setting.forced, self._surrogate))
        return evenly_spaced(setting.num_steps, computed, setting.forced)

    def _can_search(self, computed: int) -> bool:
        """Return whether enough denoiser calls are left for the first loop of a search, and two to judge its result."""
        return self._loops.can_afford(3 * computed, self._limit)


def fewest(low: int, high: int, enough: Callable[[int], bool]) -> int:
    """Find the smallest sufficient number in ``low .. high`` by bisection.

    Args:
        low: the smallest number to consider.
        high: the largest; taken to be sufficient without asking.
        enough: whether a number is sufficient. If one is, all larger ones must be.
    """
    while low < high:
        middle = (low + high) // 2
        if enough(middle):
            high = middle
        else:
            low = middle + 1
    return high
