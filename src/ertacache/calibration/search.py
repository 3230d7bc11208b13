"""Which steps to compute, chosen for the final error of the aligned prediction.

Closed loops are the truth but cost denoiser calls, so most schedules are only judged by a *surrogate* on the
recorded full runs, which costs none: outputs, predictions and errors are all linear combinations of the recorded
``v_0 .. v_{T-1}``, so their distances follow from one T x T Gram matrix, and the weights of a cached step from a
least-squares problem in it. How an error of the latent changes a computed output is not in the recordings, and is left
out: gains that closed loops measure made it a worse judge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ertacache.calibration.closed_loop import ClosedLoops, Fit, Trace
from ertacache.method.named import Method
from ertacache.method.paths import edges, shortest_path
from ertacache.method.schedule import uniform

Array = NDArray[np.float64]
Schedule = tuple[int, ...]
"""The cached steps, rising."""


class Surrogate:
    """Predicts the final error of a schedule from recorded outputs.

    Args:
        gram: ``<v_i, v_j>`` summed over prompts, (T, T).
        slopes: ``b_i``, how far the sampler moves the latent for a unit of model output, (T,).
        forced: steps at which the denoiser's calls change, so that the history begins anew.
    """

    order = 2
    """How many differences its predictions use; more of them bend to what closed loops do not show."""

    def __init__(self, gram: Array, slopes: Sequence[float], forced: Sequence[int] = ()) -> None:
        self.gram = gram
        self.factor = np.linalg.cholesky(gram + 1e-9 * np.trace(gram) / len(gram) * np.eye(len(gram))).T
        self.slopes, self.forced = np.asarray(slopes), frozenset(forced)

    def error(self, cached: Sequence[int]) -> float:
        """The norm of the predicted final error; comparable between schedules of one setting only."""
        outputs = self.factor.T  # row i is v_i in coordinates in which the Gram matrix is the dot product
        skipped, first = frozenset(cached), min(cached, default=len(outputs))
        error = np.zeros(len(outputs))
        history: list[Array] = []
        for i, slope in enumerate(self.slopes):
            if i not in skipped:
                history = [outputs[i], *([] if i in self.forced else history)][: self.order + 1]
            error = error + slope * (history[0] - outputs[i])
            if i >= first:
                features = slope * np.array([*(a - b for a, b in pairwise(history)), history[0]])
                normal = features @ features.T
                normal += np.diag(1e-6 * np.diag(normal) + 1e-300)
                error = error - np.linalg.solve(normal, features @ error) @ features
        return float(np.linalg.norm(error))


def moves(cached: Schedule, num_steps: int, forced: Sequence[int], reach: int = 2) -> Iterator[Schedule]:
    """All schedules in which one computed step trades places with a cached one at most ``reach`` steps away."""
    skipped = set(cached)
    for step in range(1, num_steps - 1):
        if step in skipped or step in forced:
            continue
        for other in range(step - reach, step + reach + 1):
            if other in skipped:
                yield tuple(sorted(skipped - {other} | {step}))


def climb(start: Schedule, forced: Sequence[int], num_steps: int, cost: Callable[[Schedule], float]) -> Schedule:
    """Steepest descent of ``cost`` from ``start`` until no move makes it smaller."""
    best, value = start, cost(start)
    while True:
        candidates = [(cost(candidate), candidate) for candidate in moves(best, num_steps, forced)]
        if not candidates or min(candidates)[0] >= value:
            return best
        value, best = min(candidates)


def evenly_spaced(num_steps: int, computed: int, forced: Sequence[int], *, first: int = 0, last: int = 0) -> Schedule:
    """The uniform schedule, each forced step computed in place of the computed step that is nearest to it.

    The ``first`` and the ``last`` steps are all computed; the uniform schedule is then one of the steps between them.
    """
    skipped = {first + i for i in uniform(num_steps - first - last, computed - first - last)}
    return _with_forced(num_steps, skipped, forced)


def bent(
    num_steps: int, computed: int, forced: Sequence[int], *, start: float = 1.0, finish: float = 1.0, end: int = 0
) -> Schedule:
    """Evenly spaced steps, drawn to the first step or to the last.

    The computed step at u = 0 .. 1 of the way goes to ``(2u)^start / 2`` in the first half, and to
    ``1 - (2 - 2u)^finish / 2`` in the second: an exponent over 1 makes its end dense. Where two fall on one step, the
    widest gap is halved; a forced step is computed in place of the one that is nearest to it.

    Args:
        num_steps: T.
        computed: how many of them are computed.
        forced: steps that are computed in any case.
        start: the exponent of the first half.
        finish: of the second half.
        end: how many steps at the end are cached.
    """
    places = [k / (computed - 1) for k in range(computed)]
    curve = [(2 * u) ** start / 2 if u < 0.5 else 1 - (2 - 2 * u) ** finish / 2 for u in places]
    last = num_steps - 1 - end
    kept = {0, *(round(u * last) for u in curve)}
    while len(kept) < computed:  # places that fell together: halve the widest gap
        rising = [*sorted(kept), num_steps]
        left, right = max(pairwise(rising), key=lambda gap: gap[1] - gap[0])
        kept.add((left + right) // 2)
    return _with_forced(num_steps, [i for i in range(num_steps) if i not in kept], forced)


def _with_forced(num_steps: int, cached: Iterable[int], forced: Sequence[int]) -> Schedule:
    """The schedule with each forced step computed in place of the computed step that is nearest to it."""
    skipped = set(cached)
    for step in forced:
        if step in skipped:
            free = [i for i in range(1, num_steps - 1) if i not in skipped and i not in forced]
            skipped = skipped - {step} | {min(free, key=lambda i: abs(i - step))}
    return tuple(sorted(skipped))


def bends(num_steps: int, computed: int, forced: Sequence[int]) -> set[Schedule]:
    """The schedules of `bent` for all pairs of exponents, with none to two steps cached at the end."""
    ends = [end for end in (0, 1, 2) if computed < num_steps - end]
    return {
        bent(num_steps, computed, forced, start=start, finish=finish, end=end)
        for start in EXPONENTS
        for finish in EXPONENTS
        for end in ends
    }


EXPONENTS = (0.6, 0.8, 1.0, 1.25, 1.5, 1.8, 2.2)
"""Of `bends`."""


def beginnings(num_steps: int, computed: int, forced: Sequence[int], surrogate: Surrogate) -> Iterator[Schedule]:
    """The schedules that closed loops try first, in their order (measured in docs/research-log.md).

    The surrogate's best of all `bends` and what it climbs to from there, the shortest paths over pairwise errors, and
    evenly spaced steps. Where three steps of four are cached, what the surrogate leaves out decides: evenly spaced
    steps come first there, and it does not climb.
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
    """Whether the mean over prompts of the score falls by more than so many of its standard errors.

    Where a few prompts turn into other pictures, they decide which of two schedules has the smaller mean, and other
    prompts would decide otherwise: the best of many trials is then the luckiest one. A single prompt has no standard
    error; any gain counts.
    """
    gains = np.subtract(best.prompt_scores, fit.prompt_scores)
    noise = gains.std(ddof=1) / len(gains) ** 0.5 if len(gains) > 1 else 0.0
    return bool(gains.mean() > standard_errors * noise)


class Search:
    """The best schedule that closed loops find within a number of denoiser calls.

    Best is the mean logarithm of the prompts' final errors, each by weights fitted on the others, and better what is
    :func:`clearly_better`. All prompts take part in every trial: on half of them the search finds schedules that are
    good for that half only. The `beginnings` come first, with a dense beginning after the first of them where prompts
    turn into other pictures; then what the surrogate finds by single moves from the best so far, and single moves one
    by one, in the order in which it ranks them. Of moves there are many, so their luck is held against them: they must
    gain two standard errors; and so must all where three steps of four are cached, since the errors of latents say less
    of pictures there. A loop starts where the schedules part, and is given up where its latents are farther
    from the full runs' than the best schedule's are at the same step, some computed steps later.

    Args:
        loops: where closed loops run.
        surrogate: what orders the moves.
        method: of the predictions.
        limit: no trial begins that could take ``loops.denoiser_calls`` above this.

    Attributes:
        stopped: whether the user interrupted it.
        wanted: how many standard errors a gain must exceed by now.
    """

    patience = 2
    """How many computed steps after a move its error is compared."""

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
        cost = (computed - len(shared)) * self.loops.setting.calls_per_step * len(self.loops.calls)
        return self.loops.denoiser_calls + cost <= self.limit

    def _attempt_if_affordable(self, cached: Schedule) -> bool:
        if cached in self.tried or not self._affordable(cached, self.trace):
            return False
        return self._attempt(cached, self.trace)

    def _attempt(self, cached: Schedule, earlier: Trace | None) -> bool:
        """Run a closed loop, from where an earlier one stood; whether it is the best so far, the last of ``fits``."""
        self.tried.add(cached)
        trace = Trace(cached, in_files=self.loops.traces_in_files)
        fit = self.loops.attempt(cached, self.method, earlier=earlier, trace=trace, give_up=self._rule(cached))
        if fit is None or (self.fits and not clearly_better(fit, self.fits[-1], self.wanted)):
            return False
        self.fits.append(fit)
        self.trace = trace
        return True

    def _rule(self, cached: Schedule) -> Callable[[int, float], bool]:
        if not self.fits:
            return lambda step, score: False
        best = self.fits[-1]
        differing = set(best.cached_steps) ^ set(cached)
        later = [i for i in range(max(differing, default=0), self.loops.setting.num_steps) if i not in cached]
        checkpoint = later[min(self.patience, len(later) - 1)] if later else None
        return lambda step, score: step == checkpoint and score > best.step_scores[step]
