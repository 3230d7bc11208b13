"""The surrogate: predict the final error of a schedule from recorded outputs, without running the denoiser.

Closed loops measure the true error but cost denoiser calls, so the search judges most schedules by simulated ones
(`ertacache.method.simulated_loop`). What counts is the largest error over all answers: a schedule that is best if
outputs do not answer errors at all may let them grow if they do.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from ertacache.method.gram_weights import Outputs
from ertacache.method.schedule import Schedule, moves

Array = NDArray[np.float64]

ORDER = 3
"""How many differences the surrogate's predictions use."""


class Surrogate:
    """Predicts the final error of schedules from recorded outputs.

    Args:
        outputs: what is known of the outputs.
        response: of the sampler, (T, T), float64; see `ertacache.method.simulated_loop.simulated`.
        answers: how outputs answer errors of the latent, each (T,), float64; none for not at all.
        forced: steps at which the denoiser's calls change, so that the history is emptied.
    """

    def __init__(
        self,
        outputs: Outputs,
        response: Array,
        answers: Sequence[Array] = (),
        forced: Collection[int] = (),
    ) -> None:
        self.outputs, self.response, self.answers, self.forced = outputs, response, answers, forced
        self._errors: dict[Schedule, float] = {}

    def error(self, cached: Sequence[int]) -> float:
        """Predict the norm of the final error of a schedule; comparable only between schedules of one setting.

        Args:
            cached: the cached steps.
        """
        key = tuple(cached)
        if key not in self._errors:
            _, errors = self.outputs.simulated(key, ORDER, self.response, self.answers, self.forced)
            self._errors[key] = float(errors.max())
        return self._errors[key]


def climb(start: Schedule, forced: Sequence[int], num_steps: int, cost: Callable[[Schedule], float]) -> Schedule:
    """Improve a schedule by its best move until no move of `ertacache.method.schedule.moves` lowers its cost.

    Args:
        start: the schedule to begin with.
        forced: steps that must be computed.
        num_steps: T.
        cost: the cost of a schedule; smaller is better.
    """
    best, value = start, cost(start)
    while True:
        candidates = [(cost(candidate), candidate) for candidate in moves(best, num_steps, forced)]
        if not candidates or min(candidates)[0] >= value:
            return best
        value, best = min(candidates)
