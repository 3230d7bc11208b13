"""The surrogate: predict the final error of a schedule from recorded outputs, without running the denoiser.

Closed loops measure the true error but cost denoiser calls, so the search judges most schedules by the surrogate.
Outputs, predictions and errors are linear combinations of the recorded ``v_0 .. v_{T-1}``. So their distances, and the
least-squares weights of a cached step, follow from one T x T Gram matrix. How an error of the latent changes a later
output is not in the recordings and is left out: adding gains measured in closed loops made the surrogate worse.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ertacache.method.gram_weights import solve_weights
from ertacache.method.schedule import Schedule, moves

Array = NDArray[np.float64]

ORDER = 2
"""How many differences the surrogate's predictions use; with more they fit what closed loops do not confirm."""


class Surrogate:
    """Predicts the final error of schedules from recorded outputs.

    Args:
        gram: ``<v_i, v_j>`` summed over prompts, (T, T), float64.
        slopes: ``b_i``, how far the sampler moves the latent for a unit of model output, T numbers.
        forced: steps at which the denoiser's calls change, so that the history is emptied.
    """

    def __init__(self, gram: Array, slopes: Sequence[float], forced: Sequence[int] = ()) -> None:
        self.gram, self.slopes, self.forced = gram, np.asarray(slopes), frozenset(forced)
        # Row i stands for v_i: the rows' dot products are the Gram matrix.
        self._rows = np.linalg.cholesky(gram + 1e-9 * np.trace(gram) / len(gram) * np.eye(len(gram)))
        self._response = np.tril(np.broadcast_to(self.slopes, gram.shape))

    def error(self, cached: Sequence[int]) -> float:
        """Predict the norm of the final error of a schedule; comparable only between schedules of one setting.

        Args:
            cached: the cached steps.
        """
        _, wrong = solve_weights(self._rows, None, cached, ORDER, self._response, self.forced)
        return float(np.linalg.norm(self._response[-1] @ wrong))


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
