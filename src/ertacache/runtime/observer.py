"""What may watch a run that follows a policy, without the run's knowing what for."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class ComputedStep:
    """A step at which the denoiser ran, beside what the policy would put in its place.

    Args:
        index: of the scheduler's grid.
        truth: what the denoiser returned, (batch, ...), float32.
        corrected: what the policy makes of it, if it corrects it; the same shape, float32.
        entry: what the cache keeps of it.
        before: the computed step before, and what the cache kept of that; None at the first one of a history.
    """

    index: int
    truth: Tensor
    corrected: Tensor | None
    entry: Tensor
    before: tuple[int, Tensor] | None


class Observer:
    """Sees the steps of a run, and may have cached ones computed. This one does nothing; override what is needed."""

    def begin(self, as_calibrated: bool) -> None:
        """A trajectory begins.

        Args:
            as_calibrated: whether the policy is followed as it was calibrated, and not transferred.
        """

    def asks_to_compute(self, step: int) -> bool:
        """Whether this step, which the policy caches, is to be computed; asked once, in the order of the steps."""
        return False

    def computed(self, step: ComputedStep) -> None:
        """A step was computed."""

    def stepped(self, index: int, sample: Tensor) -> None:
        """The scheduler has made a step: the next latent, (batch, ...)."""
