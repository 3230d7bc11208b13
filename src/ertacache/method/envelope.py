"""The envelope: how far calibration's prompts drifted by each computed step, and how far outside of it others are.

At a computed step the truth is at hand, and beside it what the policy would put in its place: the output as the fitted
weights correct it, since what they correct is how far the cached steps led astray. The relative distance per sample,
the *drift*, costs no denoiser call. Where a policy corrects nothing, its drift is that of plain reuse of the computed
step before.

What is compared at a step is the root of the sum of squares so far; from the middle of the run on, of what comes after
the middle, and nothing after four fifths. Of what was tried (docs/research-log.md) this tells bad pictures from good
ones best. They turn bad there: a drift before it says little of the end, and after it only fine noise still changes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import sqrt

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ertacache.arguments import each, normalized, number, whole
from ertacache.errors import PolicyFileError
from ertacache.method.student import student_t

Array = NDArray[np.float64]

MIN_PROMPTS = 4
"""With fewer, there is no telling what is usual."""
MIDDLE, END = 0.5, 0.8
"""Of the run: where the sum begins anew, and where comparing ends."""
WITHIN = 0.95
"""How many of the samples that are like calibration's are within the limit, if their logarithms are normal."""


@dataclass(frozen=True)
class Envelope:
    """What calibration's samples had drifted, one entry a computed step, in sampling order.

    Args:
        steps: the computed steps whose drift is compared.
        middle: of these, the one where the sum begins anew.
        mean: of the logarithm of the root of the sum there, over calibration's samples.
        deviation: its standard deviation, over 0.
        limit: the score over which a sample is outside.

    Raises:
        PolicyFileError: if these are no numbers that a score can be made of.
    """

    steps: tuple[int, ...]
    middle: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    limit: float

    def __post_init__(self) -> None:
        step = partial(whole, at_least=0)
        normalized(self, _wrong, steps=each(step), middle=step)
        # The logarithms are those of sums of drifts from 1e-12 to 1e12.
        normalized(self, _wrong, mean=each(partial(number, at_least=-1000, at_most=1000)))
        normalized(self, _wrong, deviation=each(partial(number, above=0, at_most=1000)))
        normalized(self, _wrong, limit=partial(number, at_least=-1000, at_most=1000))

    def problem(self, computed_steps: Sequence[int]) -> str | None:
        """What does not fit together, or to a policy that computes these steps; None if all does."""
        if not len(self.mean) == len(self.deviation) == len(self.steps):
            return "the envelope has not one entry for each of its steps"
        if not self.steps or list(self.steps) != sorted(set(self.steps)) or not {*self.steps} <= {*computed_steps[1:]}:
            return "the envelope's steps are not computed steps that have another one before them"
        if self.middle not in self.steps:
            return "the envelope's sum begins anew at a step that it does not have"
        return None

    def shifted(self, first_step: int) -> Envelope:
        """The same with steps that count from ``first_step`` of the grid."""
        return replace(self, steps=tuple(step + first_step for step in self.steps), middle=self.middle + first_step)

    def reached(self, steps: Collection[int]) -> int:
        """How many of its steps, from the first one on, are among these: nothing behind a gap is compared."""
        missing = (n for n, step in enumerate(self.steps) if step not in steps)
        return next(missing, len(self.steps))

    def score(self, drifts: Mapping[int, float]) -> float:
        """How far outside a sample is, in standard deviations of calibration's samples; negative where it drifts less.

        Args:
            drifts: of the sample, by step.

        Returns:
            That at the last step that was `reached`; 0 if none was.
        """
        count = self.reached(drifts)
        if not count:
            return 0.0
        rows = np.array([drifts[step] for step in self.steps[:count]])
        drifted = _logs_of_sums(rows, self.steps.index(self.middle))[-1]
        return float((drifted - self.mean[count - 1]) / self.deviation[count - 1])

    def left(self, drifts: Mapping[int, float]) -> bool:
        """Whether a sample is outside, at the last step that was `reached`; not where none was."""
        return bool(self.reached(drifts)) and self.score(drifts) > self.limit


def _wrong(problem: str) -> PolicyFileError:
    return PolicyFileError("this is not a valid envelope", given=problem, cure="Make it with ertacache.calibrate().")


def relative_drift(truth: Tensor, instead: Tensor) -> Tensor:
    """``|| v - v^ || / || v ||`` of each sample.

    Args:
        truth: what a computed step returned, (batch, ...), floating.
        instead: what there would be in its place.

    Returns:
        (batch,), on the same device; found without waiting for it. 1 where both are 0.
    """
    change: Tensor = torch.linalg.vector_norm((truth - instead).flatten(1), dim=1)
    size: Tensor = torch.linalg.vector_norm(truth.flatten(1), dim=1)
    return (change + _TINY) / (size + _TINY)


def envelope_of(drifts: Mapping[int, Sequence[float]], num_steps: int) -> Envelope | None:
    """The envelope of calibration's samples.

    Args:
        drifts: by step, one for each sample; four or more.
        num_steps: of the run.

    Returns:
        None if there is no step with a drift.
    """
    if not drifts:
        return None
    steps = [step for step in sorted(drifts) if step <= END * num_steps] or sorted(drifts)
    middle = next((step for step in steps if step >= MIDDLE * num_steps), steps[0])
    logs = _logs_of_sums(np.array([drifts[step] for step in steps], dtype=np.float64), steps.index(middle))
    count = logs.shape[1]
    return Envelope(
        tuple(steps),
        middle,
        tuple(logs.mean(axis=1).tolist()),
        tuple(_deviation(logs.var(axis=1, ddof=1)).tolist()),
        limit_for_one_more(count),
    )


def limit_for_one_more(count: int) -> float:
    """What one more sample of a normal distribution of which so many are known exceeds once in twenty times."""
    return student_t(count - 1, WITHIN) * sqrt(1 + 1 / count)


def size_of(drifts: Iterable[float]) -> float:
    """The root of the sum of squares of drifts of a step or more; over 0, and finite whatever a denoiser returned."""
    return float(np.sqrt(np.sum(_finite(np.array([*drifts])) ** 2)))


def _logs_of_sums(drifts: Array, middle: int) -> Array:
    """The logarithm of the root of the sum of squares up to each, along the first axis; begun anew at ``middle``."""
    finite = _finite(drifts)
    summed = [np.cumsum(half**2, axis=0) for half in (finite[:middle], finite[middle:])]
    logs: Array = 0.5 * np.log(np.concatenate(summed))
    return logs


def _finite(drifts: Array) -> Array:
    """Finite for whatever a denoiser returns, and large where that is not a number."""
    finite: Array = np.where(np.isfinite(drifts), np.clip(drifts, _TINY, 1 / _TINY), 1 / _TINY)
    return finite


def _deviation(variance: Array) -> Array:
    """Of variances by step: half pooled over steps, since few samples say little about one."""
    half_pooled: Array = np.sqrt(np.maximum((variance + variance.mean()) / 2, _TINY))
    return half_pooled


_TINY = 1e-12
