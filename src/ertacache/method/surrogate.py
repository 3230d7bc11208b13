"""The surrogate: the final error of a schedule, predicted from recorded outputs without running the denoiser.

Closed loops are the truth but cost denoiser calls, so most schedules are judged by this alone: outputs, predictions and
errors are linear combinations of the recorded ``v_0 .. v_{T-1}``, so their distances follow from one T x T Gram matrix,
and the weights of a cached step from a least-squares problem in it. How an error of the latent changes a computed
output is not in the recordings, and is left out: gains that closed loops measure made it a worse judge.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ertacache.method.outputs import landing
from ertacache.method.schedule import Schedule, moves

Array = NDArray[np.float64]

ORDER = 2
"""How many differences the surrogate's predictions use; more of them bend to what closed loops do not show."""


class Surrogate:
    """Predicts the final error of a schedule from recorded outputs.

    Args:
        gram: ``<v_i, v_j>`` summed over prompts, (T, T).
        slopes: ``b_i``, how far the sampler moves the latent for a unit of model output, (T,).
        forced: steps at which the denoiser's calls change, so that the history begins anew.
    """

    def __init__(self, gram: Array, slopes: Sequence[float], forced: Sequence[int] = ()) -> None:
        self.gram, self.slopes, self.forced = gram, np.asarray(slopes), frozenset(forced)
        # Row i is v_i in coordinates in which the Gram matrix is the dot product.
        self._rows = np.linalg.cholesky(gram + 1e-9 * np.trace(gram) / len(gram) * np.eye(len(gram)))
        self._response = np.tril(np.broadcast_to(self.slopes, gram.shape))

    def error(self, cached: Sequence[int]) -> float:
        """The norm of the predicted final error; comparable between schedules of one setting only."""
        _, wrong = landing(self._rows, None, cached, ORDER, self._response, self.forced)
        return float(np.linalg.norm(self._response[-1] @ wrong))


def climb(start: Schedule, forced: Sequence[int], num_steps: int, cost: Callable[[Schedule], float]) -> Schedule:
    """Steepest descent of ``cost`` from ``start`` until no move of `ertacache.method.schedule.moves` makes it smaller.

    Args:
        start: a schedule.
        forced: steps that are computed in any case.
        num_steps: T.
        cost: of a schedule.
    """
    best, value = start, cost(start)
    while True:
        candidates = [(cost(candidate), candidate) for candidate in moves(best, num_steps, forced)]
        if not candidates or min(candidates)[0] >= value:
            return best
        value, best = min(candidates)
