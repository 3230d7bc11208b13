"""The report of the guard: how far the samples of one call drifted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from ertacache.policy import Envelope
from ertacache.watching.drift_score import is_outside, score
from ertacache.watching.pinned_copy import PinnedCopy

Mode = Literal["report", "compute"]


class GuardReport:
    """The drifts of one call. Waits for the device only when it is read.

    Args:
        envelope: calibration's.
        mode: what the guard does.

    Attributes:
        computed_steps: the steps that the policy caches and the guard asked to compute.
    """

    def __init__(self, envelope: Envelope, mode: Mode) -> None:
        self.mode, self.envelope = mode, envelope
        self.computed_steps: list[int] = []
        self._late: dict[int, PinnedCopy] = {}

    def keep(self, step: int, drift: Tensor) -> None:
        """Record the drift of each sample at a computed step, (batch,)."""
        self._late[step] = PinnedCopy(drift)

    def forget(self) -> None:
        """Drop all drifts, as when another trajectory begins."""
        self._late.clear()

    @property
    def drifts(self) -> tuple[dict[int, float], ...]:
        """For each sample of the batch, its drifts by step."""
        return self._drifts(list(self._late))

    @property
    def complete(self) -> bool:
        """True if all steps of the envelope were compared."""
        return self.envelope.reached(self._late) == len(self.envelope.steps)

    @property
    def scores(self) -> tuple[float, ...]:
        """For each sample of the batch, its score; empty if no step could be compared with calibration's."""
        reached = self.envelope.reached(self._late)
        return tuple(score(self.envelope, drifts) for drifts in self.drifts) if reached else ()

    @property
    def limit(self) -> float:
        """A sample with a higher score is outside of the envelope."""
        return self.envelope.limit

    @property
    def left(self) -> tuple[bool, ...]:
        """For each sample of the batch, whether it is outside of the envelope."""
        return tuple(score > self.limit for score in self.scores)

    def left_before_the_last(self) -> bool:
        """Return whether a sample is outside, ignoring the newest drift, which the device may still be computing."""
        return any(is_outside(self.envelope, drifts) for drifts in self._drifts(list(self._late)[:-1]))

    def _drifts(self, steps: Sequence[int]) -> tuple[dict[int, float], ...]:
        samples = zip(*(self._late[step].read() for step in steps), strict=True)
        return tuple(dict(zip(steps, row, strict=True)) for row in samples)

    def __str__(self) -> str:
        scores, left = self.scores, self.left
        if not scores:
            return "guard: no verdict: this run did not follow the calibrated steps (see the notes)"
        worst = f"score {max(scores):.2f}, limit {self.limit:.2f}"
        computed = f"; {len(self.computed_steps)} cached steps were computed instead" if self.computed_steps else ""
        if not any(left):
            return f"guard: nothing suspicious ({worst}){computed}"
        return f"guard: {suspicion(left)} ({worst}); look at it, or run it without the cache{computed}"


def suspicion(left: Sequence[bool]) -> str:
    """Name the samples that are outside, for a message; there is at least one."""
    outside = [str(k) for k, out in enumerate(left) if out]
    several = f"samples {', '.join(outside)} deviate" if len(outside) > 1 else f"sample {outside[0]} deviates"
    return f"suspicious: {'it deviates' if len(left) == 1 else several} more than calibration's prompts did"
