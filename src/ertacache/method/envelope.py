"""The envelope: how far calibration's prompts drifted at each computed step, and how far outside of it others are.

At a computed step the prediction from history and the truth are both at hand. Their relative distance per sample,
the *drift*, costs no denoiser call. It is taken against plain reuse, whatever the policy predicts with: then it depends
on the trajectory alone and not on weights, which calibration solves on the way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite, log
from statistics import fmean

import torch
from torch import Tensor

MIN_PROMPTS = 4
"""With fewer, there is no telling what is usual."""
SLACK = 1.1
"""The limit over the largest score of a calibration prompt that was left out."""


@dataclass(frozen=True)
class Envelope:
    """The drifts of calibration, one entry a computed step, in sampling order.

    Args:
        steps: the computed steps that have another one before them.
        mean: of the logarithm of the drift over the calibration prompts.
        deviation: its standard deviation over prompts, over 0.
        limits: at each step, the score over the steps up to there from which a generation is outside.
    """

    steps: tuple[int, ...]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    limits: tuple[float, ...]

    def problem(self, computed_steps: Sequence[int]) -> str | None:
        """What does not fit together, or to a policy that computes these steps; None if all does."""
        columns = (self.mean, self.deviation, self.limits)
        if any(len(column) != len(self.steps) for column in columns):
            return "the envelope has not one mean, deviation and limit for each of its steps"
        if list(self.steps) != sorted(set(self.steps)) or not set(self.steps) <= set(computed_steps[1:]):
            return "the envelope's steps are not computed steps that have another one before them"
        if not all(isfinite(value) for column in columns for value in column):
            return "the envelope is not finite"
        if any(value <= 0 for value in (*self.deviation, *self.limits)):
            return "the envelope's deviations and limits are not over 0"
        return None

    def shifted(self, first_step: int) -> Envelope:
        """The same with steps that count from ``first_step`` of the grid."""
        return replace(self, steps=tuple(step + first_step for step in self.steps))

    def limit(self, step: int) -> float:
        """The score from which a sample is outside once it has come to this step."""
        return self.limits[self.steps.index(step)]

    def score(self, drifts: Mapping[int, float]) -> float:
        """How far outside a generation is: the root mean square of its deviations from the usual, in usual deviations.

        Two-sided: a generation that drifts far less than calibration's (an empty prompt) is as unusual as one that
        drifts far more.

        Args:
            drifts: of one sample, by step; steps that the envelope does not have are left out.

        Returns:
            About 1 for a generation like calibration's; 0 if no step can be compared.
        """
        squares = [
            ((_logarithm(drifts[step]) - mean) / deviation) ** 2
            for step, mean, deviation in zip(self.steps, self.mean, self.deviation, strict=True)
            if step in drifts
        ]
        return fmean(squares) ** 0.5 if squares else 0.0


def relative_drift(entry: Tensor, newest: Tensor) -> Tensor:
    """``|| e - h_1 || / || e ||`` of each sample: how far plain reuse would have been off at a computed step.

    Args:
        entry: what the cache takes of the step, (batch, ...), floating.
        newest: what it has of the computed step before, the same shape.

    Returns:
        (batch,), on the same device; found without waiting for it.
    """
    change, size = (torch.linalg.vector_norm(t.flatten(1), dim=1) for t in (entry - newest, entry))
    return change / size


def envelope_of(drifts: Mapping[int, Sequence[float]]) -> Envelope | None:
    """The envelope of calibration's samples, the limit being what no sample comes near that was left out of it.

    Args:
        drifts: for each computed step that has another before it, one for each sample, two or more.

    Returns:
        None if there is no such step.
    """
    steps = sorted(drifts)
    if not steps:
        return None
    logarithms = torch.tensor([list(map(_logarithm, drifts[step])) for step in steps], dtype=torch.float64).T
    left_out = []
    for k, own in enumerate(logarithms):
        mean, deviation = _usual(torch.cat([logarithms[:k], logarithms[k + 1 :]]))
        squares = ((own - mean) / deviation).square()
        left_out.append((squares.cumsum(0) / torch.arange(1, len(squares) + 1)).sqrt())
    mean, deviation = _usual(logarithms)
    limits = SLACK * torch.stack(left_out).amax(0)
    return Envelope(tuple(steps), *(tuple(column.tolist()) for column in (mean, deviation, limits)))


def _usual(logarithms: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation over samples at each step, (samples, steps) to (steps,); the deviation half pooled."""
    variance = logarithms.var(0)
    return logarithms.mean(0), ((variance + variance.mean()) / 2).clamp(min=_TINY).sqrt()


def _logarithm(drift: float) -> float:
    """Finite for whatever a denoiser returns."""
    return log(min(max(drift, _TINY), 1 / _TINY)) if isfinite(drift) else -log(_TINY)


_TINY = 1e-12
