"""The envelope: how far calibration's prompts drifted at each computed step, and how far outside of it others are.

At a computed step the prediction from history and the truth are both at hand. Their relative distance per sample,
the *drift*, costs no denoiser call. It is taken against plain reuse, whatever the policy predicts with: then it depends
on the trajectory alone and not on weights, which calibration solves on the way. And it is taken of the contrast
between the guidance branches where a step has several: that is the prompt's part of the output, which guidance
multiplies, and its drift tells bad pictures from good ones better than the whole output's (docs/guard.md).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite, log

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]

MIN_PROMPTS = 4
"""With fewer, there is no telling what is usual."""
SLACK = 1.1
"""The limit, over the largest score of a calibration sample that was left out of the envelope."""


@dataclass(frozen=True)
class Envelope:
    """The drifts of calibration, one entry a computed step, in sampling order.

    Args:
        steps: the computed steps that have another one before them.
        contrasted: whether the drift is that of the contrast, or else of the output.
        mean: of the logarithm of the drift over calibration's samples.
        deviation: its standard deviation, over 0.
        limits: the score over which a sample is outside, once it has come to this step.
    """

    steps: tuple[int, ...]
    contrasted: tuple[bool, ...]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    limits: tuple[float, ...]

    def problem(self, computed_steps: Sequence[int]) -> str | None:
        """What does not fit together, or to a policy that computes these steps; None if all does."""
        numbers = (self.mean, self.deviation, self.limits)
        if any(len(column) != len(self.steps) for column in (self.contrasted, *numbers)):
            return "the envelope has not one entry for each of its steps"
        if not self.steps or list(self.steps) != sorted(set(self.steps)) or not {*self.steps} <= {*computed_steps[1:]}:
            return "the envelope's steps are not computed steps that have another one before them"
        if not all(isfinite(value) for column in numbers for value in column):
            return "the envelope is not finite"
        if any(value <= 0 for value in self.deviation):
            return "the envelope's deviations are not over 0"
        return None

    def shifted(self, first_step: int) -> Envelope:
        """The same with steps that count from ``first_step`` of the grid."""
        return replace(self, steps=tuple(step + first_step for step in self.steps))

    def limit(self, step: int) -> float:
        """The score over which a sample is outside once it has come to this step."""
        return self.limits[self.steps.index(step)]

    def score(self, drifts: Mapping[int, float]) -> float:
        """How far outside a sample is: the root mean square of its latest deviations, as many as half of the steps.

        At the end these are the later half, where it shows what a sample's errors have become; in the first half bad
        samples drift as good ones do, on the embedded pipelines. Both signs count: a model that is broken, or has
        nothing to draw, drifts far less.

        Args:
            drifts: of the sample, by step; only steps that both have are compared.

        Returns:
            About 1 for a sample like calibration's, and 0 where no step can be compared.
        """
        columns = zip(self.steps, self.mean, self.deviation, strict=True)
        found = [(_logarithm(drifts[step]) - mean) / deviation for step, mean, deviation in columns if step in drifts]
        return float(_size(np.array(found), len(self.steps))) if found else 0.0


def relative_drift(now: Tensor, newest: Tensor) -> Tensor:
    """``|| e - h_1 || / || e ||`` of each sample: how far plain reuse would have been off at a computed step.

    Args:
        now: what there is of the step, (batch, ...), floating.
        newest: the same of the computed step before.

    Returns:
        (batch,), on the same device; found without waiting for it. 1 where both are 0.
    """
    change: Tensor = torch.linalg.vector_norm((now - newest).flatten(1), dim=1)
    size: Tensor = torch.linalg.vector_norm(now.flatten(1), dim=1)
    return (change + _TINY) / (size + _TINY)


def envelope_of(drifts: Mapping[int, Sequence[float]], contrasted: Collection[int]) -> Envelope | None:
    """The envelope of calibration's samples. Each is also scored by the others, and the limits are over all of these.

    Args:
        drifts: by step, one for each sample; four or more.
        contrasted: the steps whose drift is that of the contrast.

    Returns:
        None if there is no step with another one before it.
    """
    if not drifts:
        return None
    steps = sorted(drifts)
    logs = np.array([[_logarithm(drift) for drift in drifts[step]] for step in steps])
    count = logs.shape[1]
    mean = logs.mean(axis=1, keepdims=True)
    squares = (logs - mean) ** 2
    variance = squares.sum(axis=1, keepdims=True) / (count - 1)
    # The same of all samples but one follows from those of all: no sample need be left out in turn.
    others_mean = mean + (mean - logs) / (count - 1)
    others_variance = ((count - 1) * variance - squares * count / (count - 1)) / (count - 2)
    deviations = (logs - others_mean) / _deviation(others_variance)
    reached = [_size(deviations[: n + 1], len(steps)) for n in range(len(steps))]
    return Envelope(
        tuple(steps),
        tuple(step in contrasted for step in steps),
        tuple(mean[:, 0].tolist()),
        tuple(_deviation(variance)[:, 0].tolist()),
        tuple(SLACK * float(scores.max()) for scores in reached),
    )


def _deviation(variance: Array) -> Array:
    """Of variances by step, (steps, ...): half pooled over steps, since few samples say little about one."""
    half_pooled: Array = np.sqrt(np.maximum((variance + variance.mean(axis=0)) / 2, _TINY))
    return half_pooled


def _size(deviations: Array, num_steps: int) -> Array:
    """The root mean square of the latest of these deviations, (steps reached, ...), as many as half of all steps."""
    size: Array = np.sqrt((deviations[-((num_steps + 1) // 2) :] ** 2).mean(axis=0))
    return size


def _logarithm(drift: float) -> float:
    """Finite for whatever a denoiser returns, and large where that is not a number."""
    return log(min(max(drift, _TINY), 1 / _TINY)) if isfinite(drift) else -log(_TINY)


_TINY = 1e-12
