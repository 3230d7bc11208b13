"""How far a generation drifts, and how far outside of calibration's envelope that is.

At a computed step the truth is at hand, and beside it what the policy would put in its place: the output as the fitted
weights correct it, since what they correct is how far the cached steps led astray. The relative distance per sample,
the *drift*, costs no denoiser call. Where a policy corrects nothing, its drift is that of plain reuse of the computed
step before.

The score of a step is the logarithm of the root of the sum of squares of the drifts so far, in standard deviations
above calibration's mean. The sum begins anew in the middle of the run, and nothing after four fifths of it counts. Of
what was tried (docs/research-log.md) this separates bad pictures from good ones best. Pictures turn bad there: a drift
before it says little of the end, and after it only fine noise still changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import sqrt

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ertacache.policy import Envelope
from ertacache.student_t import student_t

Array = NDArray[np.float64]

MIN_PROMPTS = 4
"""With fewer, there is no telling what is usual."""
MIDDLE, END = 0.5, 0.8
"""Of the run: where the sum begins anew, and where comparing ends."""
WITHIN = 0.95
"""How many of the samples that are like calibration's are within the limit, if their logarithms are normal."""


def score(envelope: Envelope, drifts: Mapping[int, float]) -> float:
    """How far outside a sample is, in standard deviations of calibration's samples; negative where it drifts less.

    Args:
        envelope: calibration's.
        drifts: of the sample, by step.

    Returns:
        That at the last step that the envelope has `reached`; 0 if there is none.
    """
    count = envelope.reached(drifts)
    if not count:
        return 0.0
    rows = np.array([drifts[step] for step in envelope.steps[:count]])
    drifted = _logs_of_sums(rows, envelope.steps.index(envelope.middle))[-1]
    return float((drifted - envelope.mean[count - 1]) / envelope.deviation[count - 1])


def is_outside(envelope: Envelope, drifts: Mapping[int, float]) -> bool:
    """Whether a sample's `score` is over the limit at the last step reached; not where none was."""
    return bool(envelope.reached(drifts)) and score(envelope, drifts) > envelope.limit


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
