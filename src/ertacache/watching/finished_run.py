"""Record a run's final latents and drifts, to compare it with another run."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ertacache.policy import Policy
from ertacache.runtime.observer import Observer
from ertacache.runtime.report import Report
from ertacache.runtime.streams import by_sample
from ertacache.watching.guard import Guard
from ertacache.watching.guard_report import GuardReport


@dataclass(frozen=True)
class FinishedRun:
    """A run that has ended.

    Args:
        latents: the final latents, each (batch, ...), floating: that of the pictures, then that of the sound, if any.
        drifts: the drifts of its computed steps, or None if its policy has no envelope.
        denoiser_calls: how many denoiser calls it made.
    """

    latents: tuple[Tensor, ...]
    drifts: GuardReport | None
    denoiser_calls: int

    def compared_with(self, other: FinishedRun) -> tuple[Tensor, tuple[GuardReport, GuardReport] | None]:
        """Compare two runs from the same noise.

        Returns:
            The distances of the final latents, (batch,), and the drifts of both runs, or None if one has none.
        """
        both = (self.drifts, other.drifts) if self.drifts and other.drifts else None
        distances = [distance_of(*pair) for pair in zip(self.latents, other.latents, strict=True)]
        return (distances[0] if len(distances) == 1 else torch.stack(distances).square().mean(dim=0).sqrt()), both

    def relative_error(self, true: FinishedRun) -> float:
        """How far the final latents are from those of a full run, relative to their size; the largest of several."""
        errors = []
        for own, full in zip(self.latents, true.latents, strict=True):
            wanted = full.float()
            errors.append(float(torch.linalg.vector_norm(own.float() - wanted) / torch.linalg.vector_norm(wanted)))
        return max(errors)


class LatentObserver(Observer):
    """Keeps the latents of the last step, and notes whether the policy was transferred.

    Attributes:
        latest: the latest latent of each stream, (batch, ...); empty before the first step.
        as_calibrated: whether the policy was followed as calibrated.
    """

    def __init__(self) -> None:
        self.latest: dict[int, Tensor] = {}
        self.as_calibrated = False

    def begin(self, as_calibrated: bool) -> None:
        """Note whether the policy was transferred."""
        self.as_calibrated = as_calibrated

    def stepped(self, index: int, sample: Tensor, stream: int = 0) -> None:
        """Keep the latent."""
        self.latest[stream] = sample

    def finished(self, guard: Guard | None, report: Report) -> FinishedRun | None:
        """Make the record of the run, or None if it made no step, or its policy was transferred.

        Args:
            guard: what recorded the drifts, if anything did.
            report: the run's.
        """
        if not self.latest or not self.as_calibrated:
            return None
        return FinishedRun(tuple(self.latest.values()), guard.report if guard else None, report.denoiser_calls)


def drift_watch(policy: Policy) -> Guard | None:
    """Make an observer that records the drifts of a run of this policy, or None if the policy has no envelope."""
    return Guard(policy, policy.envelope, "report") if policy.envelope else None


def distance_of(one: Tensor, other: Tensor) -> Tensor:
    """Compute the root mean square of the difference for each sample.

    Args:
        one: (batch, ...), floating.
        other: the same shape, floating.

    Returns:
        (batch,), float32, on the same device, without waiting for it.
    """
    change: Tensor = by_sample(one.float() - other.float())
    distance: Tensor = change.square().mean(dim=1).sqrt()
    return distance
