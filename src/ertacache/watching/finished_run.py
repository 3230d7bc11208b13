"""A run that has ended: its final latent, what it drifted, and how far it is from another one."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ertacache.policy import Policy
from ertacache.runtime.observer import Observer
from ertacache.runtime.report import Report
from ertacache.watching.guard import Guard
from ertacache.watching.guard_report import GuardReport


@dataclass(frozen=True)
class FinishedRun:
    """A run that has ended.

    Args:
        latent: the final one, (batch, ...).
        drifts: of its computed steps; None if its policy has no envelope.
        denoiser_calls: what it took.
    """

    latent: Tensor
    drifts: GuardReport | None
    denoiser_calls: int

    def compared_with(self, other: FinishedRun) -> tuple[Tensor, tuple[GuardReport, GuardReport] | None]:
        """The distances, (batch,), and what both drifted, if both know."""
        both = (self.drifts, other.drifts) if self.drifts and other.drifts else None
        return distance_of(self.latent, other.latent), both


class LatentObserver(Observer):
    """Keeps the latent of the last step, and whether the policy was followed as it was calibrated."""

    def __init__(self) -> None:
        self.latest: Tensor | None = None
        self.as_calibrated = False

    def begin(self, as_calibrated: bool) -> None:
        """A trajectory begins."""
        self.as_calibrated = as_calibrated

    def stepped(self, index: int, sample: Tensor) -> None:
        """Keep the latent."""
        self.latest = sample

    def finished(self, guard: Guard | None, report: Report) -> FinishedRun | None:
        """What the run came to; None if it made no step, or its policy was transferred."""
        if self.latest is None or not self.as_calibrated:
            return None
        return FinishedRun(self.latest, guard.report if guard else None, report.denoiser_calls)


def drift_watch(policy: Policy) -> Guard | None:
    """What notes the drifts of a run of this policy, if it has an envelope."""
    return Guard(policy, policy.envelope, "report") if policy.envelope else None


def distance_of(one: Tensor, other: Tensor) -> Tensor:
    """The root mean square of the difference, of each sample.

    Args:
        one: (batch, ...), floating.
        other: the same shape.

    Returns:
        (batch,), float32, on the same device; found without waiting for it.
    """
    change: Tensor = (one.float() - other.float()).flatten(1)
    found: Tensor = change.square().mean(dim=1).sqrt()
    return found
