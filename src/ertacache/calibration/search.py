"""The schedule search: which steps to compute, chosen for the final error of the aligned prediction in closed loop.

The surrogate (`ertacache.method.surrogate`) says which schedules are worth a closed loop; closed loops decide.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ertacache.calibration.closed_loop import GiveUp
from ertacache.calibration.loop_outputs import Trace
from ertacache.calibration.loop_result import Fit
from ertacache.calibration.loop_runner import ClosedLoops
from ertacache.method.named_methods import Method
from ertacache.method.schedule import Schedule, bends, evenly_spaced, moves
from ertacache.method.shortest_path import edges, shortest_path
from ertacache.method.surrogate import Surrogate, climb


def beginnings(num_steps: int, computed: int, forced: Sequence[int], surrogate: Surrogate) -> Iterator[Schedule]:
    """The schedules that closed loops try first, in their order (measured in docs/research-log.md).

    The surrogate's best of all `bends` and what it climbs to from there, the shortest paths over pairwise errors, and
    evenly spaced steps. Where three steps of four are cached, what the surrogate leaves out decides: evenly spaced
    steps come first there, and it does not climb.

    Args:
        num_steps: T.
        computed: how many of them are computed.
        forced: steps that are computed in any case.
        surrogate: what judges schedules without denoiser calls.
    """
    even, few = evenly_spaced(num_steps, computed, forced), _few(num_steps, computed)
    if few:
        yield even
    bent_best = min(bends(num_steps, computed, forced), key=lambda cached: (surrogate.error(cached), cached))
    yield bent_best
    if not few:
        yield climb(bent_best, forced, num_steps, surrogate.error)
    costs = edges(surrogate.gram, surrogate.slopes.tolist())
    for minimax in (False, True):
        yield shortest_path(costs, computed, forced, minimax=minimax)
    yield even


def _few(num_steps: int, computed: int) -> bool:
    """Whether three steps of four are cached: surrogate and errors of latents say less of pictures there."""
    return computed <= num_steps / 4


def turns(fit: Fit) -> bool:
    """Whether some prompts have errors far above the usual: they have turned into other pictures.

    What a picture shows is decided in the first steps, the more so the stronger the guidance.
    """
    return bool(np.exp(fit.prompt_scores).mean() > 1.2 * np.exp(np.mean(fit.prompt_scores)))


def clearly_better(fit: Fit, best: Fit, standard_errors: float = 1.0) -> bool:
    """Whether the mean score over prompts falls by more than so many of its standard errors.

    Where a few prompts turn into other pictures, they decide which of two schedules has the smaller mean, and other
    prompts would decide otherwise: the best of many trials is then the luckiest one. A single prompt has no standard
    error; any gain counts.

    Args:
        fit: of the new schedule.
        best: of the best one so far.
        standard_errors: how many the gain must exceed.
    """
    gains = np.subtract(best.prompt_scores, fit.prompt_scores)
    noise = gains.std(ddof=1) / len(gains) ** 0.5 if len(gains) > 1 else 0.0
    return bool(gains.mean() > standard_errors * noise)


class Search:
    """The best schedule that closed loops find within a number of denoiser calls.

    What counts is the mean logarithm of the prompts' final errors, each by weights fitted on the others where prompts
    are held out; `clearly_better` says when a schedule replaces the best one. All prompts take part in every trial: on
    half of them the search finds schedules that are good for that half only.

    The `beginnings` come first, with a dense beginning after the first of them where prompts turn into other pictures;
    then what the surrogate finds by single moves from the best so far, and single moves one by one, in the order in
    which it ranks them. Of moves there are many, and the luckiest would win: they must gain two standard errors. So
    must all where three steps of four are cached, since the errors of latents say less of pictures there.

    A loop starts where the schedules part, and is given up where its latents are farther from the full runs' than the
    best schedule's are at the same step, some computed steps later.

    Args:
        loops: where closed loops run.
        surrogate: what orders the moves.
        method: of the predictions.
        limit: no trial begins that could take ``loops.denoiser_calls`` above this.

    Attributes:
        tried: the schedules of all closed loops that were begun.
        fits: of the schedules that were the best when they were tried, the newest last.
        patience: how many computed steps after a move its error is compared.
        stopped: whether the user interrupted it.
        wanted: how many standard errors a gain must exceed by now.
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
        """The best closed loop found among schedules with so many computed steps; the first is run at any cost.

        An interrupt by the user ends the search with the best so far, once there is one.
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
        """Until no move is better, or none can be afforded."""
        steps, forced = self.loops.setting.num_steps, self.loops.setting.forced
        if computed > max(steps / 2, 4) and turns(self.fits[-1]):  # of fewer, none can be spared for the beginning
            self._attempt_if_affordable(evenly_spaced(steps, computed, forced, first=int(0.35 * computed), last=2))
        for cached in begin:
            self._attempt_if_affordable(cached)
        self.wanted = 2.0
        self._attempt_if_affordable(climb(self.fits[-1].cached_steps, forced, steps, self.surrogate.error))
        while True:
            best = self.fits[-1]
            left = [move for move in moves(best.cached_steps, steps, forced) if move not in self.tried]
            left.sort(key=self.surrogate.error)
            if not any(self._attempt_if_affordable(move) for move in left):
                return

    def _affordable(self, cached: Schedule, earlier: Trace | None) -> bool:
        computed = self.loops.setting.num_steps - len(cached)
        shared = self.loops.replayed(cached, self.method, earlier)
        return self.loops.denoiser_calls + self.loops.cost_of(computed - len(shared)) <= self.limit

    def _attempt_if_affordable(self, cached: Schedule) -> bool:
        if cached in self.tried or not self._affordable(cached, self.trace):
            return False
        return self._attempt(cached, self.trace)

    def _attempt(self, cached: Schedule, earlier: Trace | None) -> bool:
        """Run a closed loop, from where an earlier one stood; whether it is the best so far, the last of ``fits``."""
        self.tried.add(cached)
        trace = Trace(cached, in_files=self.loops.traces_in_files)
        fit = self.loops.attempt(cached, self.method, earlier=earlier, trace=trace, give_up=self._give_up_rule(cached))
        if fit is None or (self.fits and not clearly_better(fit, self.fits[-1], self.wanted)):
            return False
        self.fits.append(fit)
        self.trace = trace
        return True

    def _give_up_rule(self, cached: Schedule) -> GiveUp:
        """Where the latents are compared with those of the best loop so far, some computed steps after both part."""
        if not self.fits:
            return lambda step, score: False
        best = self.fits[-1]
        differing = set(best.cached_steps) ^ set(cached)
        later = [i for i in range(max(differing, default=0), self.loops.setting.num_steps) if i not in cached]
        checkpoint = later[min(self.patience, len(later) - 1)] if later else None
        return lambda step, score: step == checkpoint and score > best.step_scores[step]
