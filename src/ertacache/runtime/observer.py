"""The interface of an observer, which watches the steps of a run that follows a policy."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ComputedStep:
    """A step at which the denoiser ran.

    Args:
        index: the step's index in the scheduler's grid, from 0.
        truth: the model output, (batch, ...), float32.
        corrected: the model output as the policy corrects it, the same shape, float32, or None if it does not.
        entry: the step's cache entry, the same shape, float32.
        before: the previous computed step's index and cache entry, or None if the history is empty.
        dtype: of the model output as the pipeline gives it.
        stream: which of the latents that the loop steps this is, from 0.
    """

    index: int
    truth: Tensor
    corrected: Tensor | None
    entry: Tensor
    before: tuple[int, Tensor] | None
    dtype: torch.dtype = torch.float32
    stream: int = 0


class Observer:
    """Watches the steps of a run, and may ask for cached ones to be computed. Does nothing; subclasses override."""

    def begin(self, as_calibrated: bool) -> None:
        """Called when a trajectory begins.

        Args:
            as_calibrated: whether the policy is followed as calibrated; False if it was transferred.
        """

    def asks_to_compute(self, step: int) -> bool:
        """Whether to compute this step, which the policy caches; called once for each such step, in order."""
        return False

    def computed(self, step: ComputedStep) -> None:
        """Called after a step was computed."""

    def stepped(self, index: int, sample: Tensor, stream: int = 0) -> None:
        """Called after a scheduler has made a step, with the stream's next latent, (batch, ...)."""
