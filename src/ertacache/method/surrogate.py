"""The surrogate: predict the final error of a schedule from recorded outputs, without running the denoiser.

Closed loops measure the true error but cost denoiser calls, so the search judges most schedules by simulated ones
(`ertacache.method.simulated_loop`). What counts is the largest error over all answers: a schedule that is best if
outputs do not answer errors at all may let them grow if they do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ertacache.method.gram_weights import Outputs
from ertacache.method.prediction import Prediction
from ertacache.method.schedule import Schedule, moves, safe_bends
from ertacache.method.simulated_loop import (
    Simulated,
    Solution,
    answers_at,
    direction_of,
    diverging_at,
    simulated,
    uncertain_at,
)

Array = NDArray[np.float64]

ORDER = 3
"""How many differences the surrogate's predictions use."""


@dataclass(frozen=True, eq=False)
class Surrogate:
    """What is expected of a setting's outputs: predicts the final errors of schedules, and solves their weights.

    Args:
        outputs: what is known of the outputs.
        response: of the sampler, (T, T), float64; see `ertacache.method.simulated_loop.simulated`.
        answers: how outputs answer errors of the latent, each (T,), float64; none for not at all.
        doubtful: whether schedules are judged by a diverging answer too, on which no weights are fitted
            (`ertacache.method.simulated_loop.diverging_at`), and outputs are taken for less sure under strong guidance
            (`ertacache.method.simulated_loop.uncertain_at`).
        forced: steps that must be computed, as those at which another expert begins.
        emptied: those of them at which guidance begins or ends, so that the history is emptied.
        others: the surrogates of the further latents that the loop steps, such as sound.
        alone: of each prompt by itself, if several were recorded; `best_bend` is judged by the one that suffers most.
        prior: what would be expected if nothing had been recorded, or None; fits are drawn towards its weights.
    """

    outputs: Outputs
    response: Array
    answers: Sequence[Array] = ()
    doubtful: bool = field(default=False, kw_only=True)
    forced: Sequence[int] = ()
    emptied: Sequence[int] = ()
    others: Sequence[Surrogate] = ()
    alone: Sequence[Surrogate] = field(default=(), kw_only=True)
    prior: Surrogate | None = field(default=None, kw_only=True)
    _errors: dict[Schedule, float] = field(init=False, default_factory=dict, repr=False)

    @classmethod
    def answering(
        cls, outputs: Outputs, response: Array, forced: Sequence[int] = (), emptied: Sequence[int] = ()
    ) -> Surrogate:
        """Make it for outputs that answer errors as was measured (`ertacache.method.simulated_loop.answers_at`)."""
        usual = answers_at(outputs.levels, direction_of(response))
        return cls(outputs, response, usual, forced, emptied, doubtful=True)

    @classmethod
    def joint(cls, streams: Sequence[Surrogate]) -> Surrogate:
        """Join the surrogates of all latents that a loop steps."""
        return replace(streams[0], others=tuple(streams[1:]))

    def error(self, cached: Sequence[int]) -> float:
        """Predict the final error of a schedule, relative to the way from the first latent to the last.

        If the loop steps several latents, it is the error of the one that suffers most.

        Args:
            cached: the cached steps.
        """
        key = tuple(cached)
        if key not in self._errors:
            size = float(np.linalg.norm(self.response[-1] @ self.outputs.rows))
            own = float(self._simulated(key, ORDER, (*self.answers, *self._doubts(len(key)))).errors.max()) / size
            self._errors[key] = max([own, *(other.error(key) for other in self.others)])
        return self._errors[key]

    def solved(self, cached: Sequence[int], order: int) -> dict[int, Prediction]:
        """Solve the predictions of every step from the first cached one on.

        Args:
            cached: the cached steps.
            order: the highest difference that is used, 1 to 3.
        """
        return self._simulated(cached, order, self.answers, sure=False).predictions

    def solutions(self, cached: Sequence[int], order: int) -> list[dict[int, Solution]]:
        """As `solved`, but the weights of the features, for each latent that the loop steps."""
        return [one._simulated(cached, order, one.answers, sure=False).solutions for one in (self, *self.others)]

    def best_bend(self, computed: int) -> Schedule:
        """The schedule of `ertacache.method.schedule.safe_bends` whose worst prompt has the smallest error.

        Where a few prompts turn into other pictures, the mean over a handful says little of the next ones; a schedule
        under which no prompt suffers much keeps the next ones too (docs/records/research-log.md).

        Args:
            computed: how many steps are computed.
        """

        best, least = None, float("inf")
        for cached in safe_bends(len(self.response), computed, self.forced, self.outputs.levels):
            worst = 0.0
            for one in self.alone or (self,):
                worst = max(worst, one.error(cached))
                if worst >= least:  # nothing that follows makes it better than the best so far
                    break
            else:
                best, least = cached, worst
        assert best is not None  # there is always a bend, with a finite error
        return best

    def _doubts(self, cached: int) -> tuple[Array, ...]:
        """The diverging answer that a schedule with so many cached steps is judged by; none without guidance."""
        steps, outputs = len(self.response), self.outputs
        doubt = diverging_at(outputs.guidance, steps / (steps - cached)) if self.doubtful else 0.0
        return answers_at(outputs.levels, direction_of(self.response), (doubt,)) if doubt else ()

    def _simulated(
        self, cached: Sequence[int], order: int, answers: Sequence[Array], *, sure: bool = True
    ) -> Simulated:
        """Simulate loops: on the outputs as they are known, or, to solve weights, as sure as they are."""
        rows, contrasts, steps = self.outputs.rows, self.outputs.contrasts, len(self.response)
        if self.doubtful and not sure:
            varies = uncertain_at(self.outputs.levels, self.outputs.guidance, steps / (steps - len(cached)))
            if varies.any():
                alone = np.diag(np.sqrt(varies) * np.linalg.norm(rows, axis=1))
                rows = np.concatenate([rows, alone], axis=1)
                contrasts = None if contrasts is None else np.pad(contrasts, ((0, 0), (0, steps)))
        return simulated(rows, contrasts, cached, order, self.response, answers, self.emptied)


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
