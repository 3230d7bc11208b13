"""Which steps to compute, chosen for the final error of the aligned prediction.

Closed loops are the truth but cost denoiser calls, so most schedules are only judged by a *surrogate* on the
recorded full runs, which costs none: outputs, predictions and errors are all linear combinations of the recorded
``v_0 .. v_{T-1}``, so their distances follow from one T x T Gram matrix, and the weights of a cached step from a
least-squares problem in it. How an error of the latent changes a computed output is not in the recordings; the
closed loops made so far measure it, as one gain for each step: ``v(x + e) - v(x) ~ g_i e``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ertacache.calibration.closed_loop import ClosedLoops, Fit
from ertacache.method.named import Method
from ertacache.method.schedule import uniform

Array = NDArray[np.float64]


class Surrogate:
    """Predicts the final error of a schedule from recorded outputs.

    Args:
        gram: ``<v_i, v_j>`` summed over prompts, (T, T).
        slopes: ``b_i``, how far the sampler moves the latent for a unit of model output, (T,).
        order: how many differences the prediction uses.
    """

    def __init__(self, gram: Array, slopes: Sequence[float], order: int) -> None:
        self.factor = np.linalg.cholesky(gram + 1e-9 * np.trace(gram) / len(gram) * np.eye(len(gram))).T
        self.slopes, self.order = np.asarray(slopes), order
        self.gains = np.zeros(len(gram))

    def learn(self, fits: Sequence[Fit]) -> None:
        """Take the gains from closed loops: at each step the mean over loops, between steps interpolated."""
        seen: dict[int, list[float]] = {}
        for fit in fits:
            for step, gain in fit.gains.items():
                seen.setdefault(step, []).append(gain)
        if seen:
            steps = sorted(seen)
            means = [float(np.mean(seen[step])) for step in steps]
            self.gains = np.interp(np.arange(len(self.gains)), steps, means)

    def error(self, cached: Sequence[int]) -> float:
        """The norm of the predicted final error; comparable between schedules of one setting only."""
        outputs = self.factor.T  # row i is v_i in coordinates in which the Gram matrix is the dot product
        skipped = frozenset(cached)
        error = np.zeros(len(outputs))
        history: list[Array] = []
        for i, slope in enumerate(self.slopes):
            if i not in skipped:
                shifted = outputs[i] + self.gains[i] * error
                history = [shifted, *history][: self.order + 1]
                error = error + slope * (shifted - outputs[i])
                continue
            landed = error + slope * (history[0] - outputs[i])
            features = np.array([slope * (a - b) for a, b in pairwise(history)])
            if len(features):
                normal = features @ features.T
                normal += 1e-6 * np.trace(normal) / len(normal) * np.eye(len(normal))
                landed = landed - np.linalg.solve(normal, features @ landed) @ features
            error = landed
        return float(np.linalg.norm(error))


def moves(cached: Sequence[int], num_steps: int, forced: Sequence[int], reach: int = 2) -> Iterator[tuple[int, ...]]:
    """All schedules in which one computed step trades places with a cached one at most ``reach`` steps away."""
    skipped = set(cached)
    for step in range(1, num_steps - 1):
        if step in skipped or step in forced:
            continue
        for other in range(step - reach, step + reach + 1):
            if other in skipped:
                yield tuple(sorted(skipped - {other} | {step}))


def climb(
    start: tuple[int, ...],
    neighbours: Callable[[tuple[int, ...]], Iterator[tuple[int, ...]]],
    cost: Callable[[tuple[int, ...]], float],
) -> tuple[int, ...]:
    """Steepest descent of ``cost`` from ``start`` until no neighbour is better."""
    best, value = start, cost(start)
    while True:
        candidates = [(cost(candidate), candidate) for candidate in neighbours(best)]
        if not candidates or min(candidates)[0] >= value:
            return best
        value, best = min(candidates)


def starts(num_steps: int, computed: int, forced: Sequence[int]) -> list[tuple[int, ...]]:
    """Schedules to begin with: evenly spaced, and denser at the first, the last, or both ends."""
    found: dict[tuple[int, ...], None] = {uniform(num_steps, computed): None}
    position = np.linspace(0, 1, computed)
    for warped in (position**1.4, 1 - (1 - position) ** 1.4, (1 - np.cos(np.pi * position)) / 2):
        kept: list[int] = []
        for k, place in enumerate(np.rint(warped * (num_steps - 1)).astype(int)):
            low = kept[-1] + 1 if kept else 0
            kept.append(min(max(int(place), low), num_steps - computed + k))
        found[tuple(i for i in range(num_steps) if i not in kept)] = None
    return [start for schedule in found if (start := _with_forced(schedule, num_steps, forced)) is not None]


def _with_forced(cached: tuple[int, ...], num_steps: int, forced: Sequence[int]) -> tuple[int, ...] | None:
    """The schedule with the forced steps computed, each in place of the computed step that is nearest to it."""
    skipped = set(cached)
    for step in forced:
        if step in skipped:
            free = [i for i in range(1, num_steps - 1) if i not in skipped and i not in forced]
            if not free:
                return None
            skipped = skipped - {step} | {min(free, key=lambda i: abs(i - step))}
    return tuple(sorted(skipped))


def search(loops: ClosedLoops, surrogate: Surrogate, method: Method, computed: int, max_calls: int) -> Fit:
    """The best fit found on all prompts with at most ``max_calls`` further denoiser calls.

    First the surrogate proposes, closed loops on a part of the prompts judge and teach it its gains, a few times;
    then single moves are tried in the order in which it ranks them, and kept where the closed loop agrees. What is
    kept back pays for the final fit on all prompts.
    """
    setting = loops.setting
    steps, prompts = setting.num_steps, len(loops.calls)
    per_prompt = computed * setting.calls_per_step
    limit = loops.denoiser_calls + max_calls - prompts * per_prompt
    panel = list(range(max(1, min(prompts, 4))))

    tried: dict[tuple[int, ...], Fit] = {}

    def affordable() -> bool:
        return loops.denoiser_calls + len(panel) * per_prompt <= limit

    def trial(cached: tuple[int, ...]) -> Fit:
        if cached not in tried:
            tried[cached] = loops.predict(cached, method, panel)
            surrogate.learn(list(tried.values()))
        return tried[cached]

    def neighbours(cached: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        return moves(cached, steps, setting.forced)

    first = starts(steps, computed, setting.forced)
    if affordable():
        trial(first[0])
    for _ in range(3):
        proposal = min((climb(start, neighbours, surrogate.error) for start in first), key=surrogate.error)
        if proposal in tried or not affordable():
            break
        trial(proposal)
    best = min(tried, key=lambda cached: tried[cached].error) if tried else first[0]
    while affordable():
        ranked = sorted((m for m in neighbours(best) if m not in tried), key=surrogate.error)
        if not ranked:
            break
        if trial(ranked[0]).error < tried[best].error:
            best = ranked[0]
    return loops.predict(best, method)
