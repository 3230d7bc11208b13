"""The schedule search: which steps to compute, chosen for the final error of the aligned prediction in closed loop.

The surrogate (`ertacache.method.surrogate`) says which schedules are worth a closed loop; closed loops decide.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ertacache.calibration.joint_loop import GiveUp
from ertacache.calibration.loop_outputs import Trace
from ertacache.calibration.loop_result import Fit
from ertacache.calibration.loop_runner import ClosedLoops
from ertacache.method.named_methods import Method
from ertacache.method.schedule import Schedule, all_denser_at_ends, evenly_spaced, moves
from ertacache.method.shortest_path import edges, shortest_path
from ertacache.method.surrogate import Surrogate, climb


def beginnings(num_steps: int, computed: int, forced: Sequence[int], surrogate: Surrogate) -> Iterator[Schedule]:
    """Yield the schedules that closed loops try first, in order (measured in docs/records/research-log.md).

    They are: the best of a few mild bends (`ertacache.method.surrogate.Surrogate.best_bend`); the schedule of
    `all_denser_at_ends` with the smallest surrogate error; the one that steepest descent of this error reaches from
    there; the shortest paths over pairwise errors; and evenly spaced steps.
    If three steps of four are cached, what the surrogate leaves out matters most, so the descent is left out.

    Args:
        num_steps: T.
        computed: how many steps are computed.
        forced: the steps that must be computed.
        surrogate: estimates the errors of schedules without denoiser calls.
    """
    yield surrogate.best_bend(computed)
    bent_best = min(sorted(all_denser_at_ends(num_steps, computed, forced)), key=surrogate.error)
    yield bent_best
    if not _few(num_steps, computed):
        yield climb(bent_best, forced, num_steps, surrogate.error)
    rows = surrogate.outputs.rows
    costs = edges(rows @ rows.T, np.diagonal(surrogate.response).tolist())
    for minimax in (False, True):
        yield shortest_path(costs, computed, forced, minimax=minimax)
    yield evenly_spaced(num_steps, computed, forced)


def _few(num_steps: int, computed: int) -> bool:
    """Return whether three steps of four are cached: the surrogate and latents' errors say less about pictures then."""
    return computed <= num_steps / 4


def turns(fit: Fit) -> bool:
    """Return whether some prompts have errors far above the average: their runs show other pictures than the full runs.

    The first steps decide what a picture shows, the more so the stronger the guidance.
    """
    return bool(np.exp(fit.prompt_scores).mean() > 1.2 * np.exp(np.mean(fit.prompt_scores)))


def clearly_better(fit: Fit, best: Fit, standard_errors: float = 1.0) -> bool:
    """Return whether a fit's mean score over prompts is lower by more than so many standard errors.

    If a few prompts turn into other pictures, these alone decide which schedule has the smaller mean, and with other
    prompts the choice would be another one. The best of many trials would then be the luckiest one. For a single prompt
    there is no standard error, and any gain counts.

    Args:
        fit: the fit on the new schedule.
        best: the fit on the best schedule so far.
        standard_errors: how many standard errors the gain must exceed.
    """
    gains = np.subtract(best.prompt_scores, fit.prompt_scores)
    noise = gains.std(ddof=1) / len(gains) ** 0.5 if len(gains) > 1 else 0.0
    return bool(gains.mean() > standard_errors * noise)


class Search:
    """A search for the best schedule, by closed loops, within a number of denoiser calls.

    Schedules are compared by the mean logarithm of the prompts' final errors. Where prompts are held out, each uses
    weights fitted on the other prompts. `clearly_better` decides whether a schedule replaces the best one. All prompts
    take part in every trial: a search on half of them finds schedules that are good for that half only.

    The order of trials:

    1. The `beginnings`. If the first of them shows prompts that turn into other pictures, a schedule with a dense
       beginning is tried after it.
    2. The schedule that the surrogate reaches by single moves from the best schedule so far.
    3. Single moves from the best schedule, one by one, in the surrogate's order.

    From 2 on, a schedule must gain two standard errors, since the best of many trials would be the luckiest one. If
    three steps of four are cached, this holds from the start, since latents' errors say less about pictures then.

    A loop takes over the steps before the two schedules differ. It is given up if, `patience` computed steps after
    they differ, its latents are farther from the full runs' than those of the best schedule are at the same step.

    Args:
        loops: runs the closed loops.
        surrogate: orders the moves.
        method: the method of the predictions.
        limit: no trial begins that could take ``loops.denoiser_calls`` above this limit.

    Attributes:
        tried: the schedules of all closed loops that were begun.
        fits: the fits on schedules that were the best so far when they were tried, the newest last.
        patience: how many computed steps after the schedules differ the latents are compared.
        trace: the outputs of the best schedule's loop.
        stopped: whether the user interrupted the search.
        wanted: how many standard errors a gain must exceed at this stage.
    """

    patience = 2

    def __init__(self, loops: ClosedLoops, surrogate: Surrogate, method: Method, limit: int) -> None:
        self.loops, self.surrogate, self.method, self.limit = loops, surrogate, method, limit
        self.tried: set[Schedule] = set()
        self.fits: list[Fit] = []
        self.trace: Trace | None = None
        self.stopped = False
        self.wanted = 1.0

    def run(self, computed: int) -> Fit:
        """Search among schedules with so many computed steps, and return the best fit.

        The first closed loop is run even if it exceeds the limit. After it, an interrupt by the user (Ctrl-C) ends the
        search with the best fit so far.
        """
        steps, forced = self.loops.setting.num_steps, self.loops.setting.forced
        begin = beginnings(steps, computed, forced, self.surrogate)
        self.wanted = 2.0 if _few(steps, computed) else 1.0
        self._attempt(next(begin), None)
        try:
            self._improve(computed, begin)
        except KeyboardInterrupt:
            self.stopped = True
        return self.fits[-1]

    def _improve(self, computed: int, begin: Iterator[Schedule]) -> None:
        """Try schedules until no move is better, or the limit allows none."""
        steps, forced = self.loops.setting.num_steps, self.loops.setting.forced
        if computed > max(steps / 2, 4) and turns(self.fits[-1]):  # of fewer, none can be spared for the beginning
            self._attempt_if_affordable(evenly_spaced(steps, computed, forced, first=int(0.35 * computed), last=2))
        while not self._spent() and (cached := next(begin, None)) is not None:
            self._attempt_if_affordable(cached)
        self.wanted = 2.0
        if not self._spent():
            self._attempt_if_affordable(climb(self.fits[-1].cached_steps, forced, steps, self.surrogate.error))
        while not self._spent():
            best = self.fits[-1]
            left = [move for move in moves(best.cached_steps, steps, forced) if move not in self.tried]
            left.sort(key=self.surrogate.error)
            if not any(self._attempt_if_affordable(move) for move in left):
                return

    def _spent(self) -> bool:
        """Return whether no loop is affordable, however few steps it computes."""
        return not self.loops.can_afford(1, self.limit)

    def _affordable(self, cached: Schedule, earlier: Trace | None) -> bool:
        computed = self.loops.setting.num_steps - len(cached)
        shared = self.loops.replayed(cached, self.method, earlier)
        return self.loops.can_afford(computed - len(shared), self.limit)

    def _attempt_if_affordable(self, cached: Schedule) -> bool:
        if cached in self.tried or not self._affordable(cached, self.trace):
            return False
        return self._attempt(cached, self.trace)

    def _attempt(self, cached: Schedule, earlier: Trace | None) -> bool:
        """Run a closed loop. If its schedule is the best so far, append its fit to ``fits`` and return True.

        Args:
            cached: the schedule.
            earlier: the outputs of an earlier loop, from which the steps before the schedules differ are taken.
        """
        self.tried.add(cached)
        trace = Trace(cached, in_files=self.loops.traces_in_files)
        fit = self.loops.attempt(cached, self.method, earlier=earlier, trace=trace, give_up=self._give_up_rule(cached))
        if fit is None or (self.fits and not clearly_better(fit, self.fits[-1], self.wanted)):
            return False
        self.fits.append(fit)
        self.trace = trace
        return True

    def _give_up_rule(self, cached: Schedule) -> GiveUp:
        """Make the rule that gives a loop up: its latents are worse than the best loop's, soon after the two differ."""
        if not self.fits:
            return lambda step, score: False
        best = self.fits[-1]
        differing = set(best.cached_steps) ^ set(cached)
        later = [i for i in range(max(differing, default=0), self.loops.setting.num_steps) if i not in cached]
        checkpoint = later[min(self.patience, len(later) - 1)] if later else None
        return lambda step, score: step == checkpoint and score > best.step_scores[step]
