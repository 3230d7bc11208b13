"""Measure how far a generation drifts, and score it against calibration's envelope.

At a computed step, both the true output and the output as the policy corrects it are known. The correction makes up
for the errors of the cached steps before, so its relative size, the *drift*, measures them; it costs no denoiser call.
If a policy corrects nothing, the drift is the change since the previous computed step, that is the error of reuse.

The score of a step is the logarithm of the root of the sum of squares of the drifts so far, in standard deviations
above calibration's mean. The sum restarts in the middle of the run, and drifts after four fifths of it do not count. Of
all variants tried (docs/records/research-log.md), this one separates bad pictures from good ones best. Pictures turn
bad in between: earlier drifts say little about the end, and later only fine noise still changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import sqrt

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ertacache.policy import Envelope
from ertacache.runtime.streams import by_sample
from ertacache.student_t import student_t

Array = NDArray[np.float64]

MIN_PROMPTS = 4
"""The fewest calibration prompts that give an envelope."""
MIDDLE, END = 0.5, 0.8
"""The shares of the run at which the sum restarts, and after which drifts do not count."""
WITHIN = 0.95
"""The share of samples like calibration's that are within the limit, if their logarithms are normally distributed."""


def score(envelope: Envelope, drifts: Mapping[int, float]) -> float:
    """Score a sample: how far its drift is above calibration's mean, in standard deviations.

    Args:
        envelope: calibration's.
        drifts: the sample's drifts, by step.

    Returns:
        The score at the last step that `Envelope.reached` counts, negative for less drift than the mean; 0 if there is
        no such step.
    """
    count = envelope.reached(drifts)
    if not count:
        return 0.0
    rows = np.array([drifts[step] for step in envelope.steps[:count]])
    drifted = _logs_of_sums(rows, envelope.steps.index(envelope.middle))[-1]
    return float((drifted - envelope.mean[count - 1]) / envelope.deviation[count - 1])


def is_outside(envelope: Envelope, drifts: Mapping[int, float]) -> bool:
    """Return whether a sample's `score` is over the limit; False if no step was reached.

    Args:
        envelope: calibration's.
        drifts: the sample's drifts, by step.
    """
    return bool(envelope.reached(drifts)) and score(envelope, drifts) > envelope.limit


def joint_drift(drifts: Sequence[Tensor]) -> Tensor:
    """The drift of a step whose loop steps several latents: the geometric mean, to which each counts by its own scale.

    Args:
        drifts: of each latent, (batch,).
    """
    return drifts[0] if len(drifts) == 1 else torch.stack(list(drifts)).log().mean(dim=0).exp()


def relative_drift(truth: Tensor, instead: Tensor) -> Tensor:
    """Compute ``|| v - v^ || / || v ||`` for each sample.

    Args:
        truth: the output ``v`` of a computed step, (batch, ...), floating.
        instead: ``v^``, of the same shape.

    Returns:
        (batch,), on the same device, without waiting for it; 1 where both are 0.
    """
    change: Tensor = torch.linalg.vector_norm(by_sample(truth - instead), dim=1)
    size: Tensor = torch.linalg.vector_norm(by_sample(truth), dim=1)
    return (change + _TINY) / (size + _TINY)


def envelope_of(drifts: Mapping[int, Sequence[float]], num_steps: int) -> Envelope | None:
    """Make the envelope of calibration's samples.

    Args:
        drifts: for each compared step, the drift of each sample, `MIN_PROMPTS` or more.
        num_steps: the number of steps of the run.

    Returns:
        The envelope, or None if there are no drifts.
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
    """Compute the 95 % upper prediction limit for one new sample of a normal distribution, given ``count`` samples.

    It is in standard deviations of these samples above their mean.
    """
    return student_t(count - 1, WITHIN) * sqrt(1 + 1 / count)


def size_of(drifts: Iterable[float]) -> float:
    """Sum drifts: the root of the sum of their squares; over 0, and finite even for NaN drifts."""
    return float(np.sqrt(np.sum(_finite(np.array([*drifts])) ** 2)))


def _logs_of_sums(drifts: Array, middle: int) -> Array:
    """Compute the log of the root of the running sum of squares along the first axis, restarted at index ``middle``."""
    finite = _finite(drifts)
    summed = [np.cumsum(half**2, axis=0) for half in (finite[:middle], finite[middle:])]
    logs: Array = 0.5 * np.log(np.concatenate(summed))
    return logs


def _finite(drifts: Array) -> Array:
    """Limit drifts to a finite range over 0; NaN and infinity become very large."""
    finite: Array = np.where(np.isfinite(drifts), np.clip(drifts, _TINY, 1 / _TINY), 1 / _TINY)
    return finite


def _deviation(variance: Array) -> Array:
    """Compute standard deviations from variances by step; half pooled, since few samples say little about one step."""
    half_pooled: Array = np.sqrt(np.maximum((variance + variance.mean()) / 2, _TINY))
    return half_pooled


_TINY = 1e-12
