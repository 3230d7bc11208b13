"""Measure how far the latents of a loop are from those of the full runs, step by step, over all prompts."""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from statistics import fmean

from torch import Tensor

from ertacache.calibration.recording import Recording

Distance = tuple[float, float]
"""Of one prompt: ``||x - x_gt||^2`` and ``||x_gt||^2``."""


class Deviations:
    """The distances of a loop's latents from those of the full runs.

    `distances` looks at this process's own prompts; `add` takes those of all.

    Args:
        recordings: the full run of each of this process's prompts.

    Attributes:
        relative: after each step, ``||x - x_gt|| / ||x_gt||`` over all prompts together.
        by_prompt: after each step, the natural logarithm of each prompt's relative distance.
    """

    def __init__(self, recordings: Sequence[Recording]) -> None:
        self._recordings = recordings
        self.relative: list[float] = []
        self.by_prompt: list[list[float]] = []

    def distances(self, index: int, samples: Sequence[Tensor | None]) -> list[Distance | None]:
        """Compare one step of the own prompts; None at step 0, which starts from the same latents.

        Args:
            index: the step, 0 to T.
            samples: for each own prompt, the latent at the start of the step, (batch, ...); None at step 0.
        """
        found: list[Distance | None] = []
        for recording, sample in zip(self._recordings, samples, strict=True):
            if sample is None:
                found.append(None)
                continue
            full = recording.sample(index).double()
            error = float((sample.detach().cpu().double() - full).square().sum())
            found.append((error, max(float(full.square().sum()), _TINY)))
        return found

    def add(self, distances: Sequence[Distance | None]) -> None:
        """Note one step; does nothing at step 0.

        Args:
            distances: of all prompts.
        """
        known = [distance for distance in distances if distance is not None]
        if len(known) < len(distances):
            return
        errors, sizes = zip(*known, strict=True)
        self.relative.append((sum(errors) / sum(sizes)) ** 0.5)
        self.by_prompt.append([0.5 * log(max(e / n, _TINY)) for e, n in zip(errors, sizes, strict=True)])

    @property
    def scores(self) -> list[float]:
        """After each step, the mean of ``by_prompt``."""
        return [fmean(row) for row in self.by_prompt]


_TINY = 1e-24  # keeps the logarithm finite where a latent is exact
