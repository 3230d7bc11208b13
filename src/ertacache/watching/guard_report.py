"""What the guard saw in one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from ertacache.policy import Envelope
from ertacache.watching.envelope import is_outside, score
from ertacache.watching.pinned_copy import PinnedCopy

Mode = Literal["report", "compute"]


class GuardReport:
    """What the guard saw in one call; what it asks the device for, it asks for when it is read.

    Attributes:
        mode: what the guard was asked to do.
        computed_steps: the steps that it had computed and that the policy caches.
    """

    def __init__(self, envelope: Envelope, mode: Mode) -> None:
        self.mode, self.envelope = mode, envelope
        self.computed_steps: list[int] = []
        self._late: dict[int, PinnedCopy] = {}

    def keep(self, step: int, drift: Tensor) -> None:
        """Take in the drift of a computed step, (batch,)."""
        self._late[step] = PinnedCopy(drift)

    def forget(self) -> None:
        """Another trajectory begins."""
        self._late.clear()

    @property
    def drifts(self) -> tuple[dict[int, float], ...]:
        """For each sample of the batch, what was compared, by step."""
        return self._drifts(list(self._late))

    @property
    def complete(self) -> bool:
        """Whether every step was compared that calibration's runs have."""
        return self.envelope.reached(self._late) == len(self.envelope.steps)

    @property
    def scores(self) -> tuple[float, ...]:
        """How far outside of the envelope each sample is; empty if no step could be compared with calibration's."""
        reached = self.envelope.reached(self._late)
        return tuple(score(self.envelope, own) for own in self.drifts) if reached else ()

    @property
    def limit(self) -> float:
        """The score over which a sample is outside."""
        return self.envelope.limit

    @property
    def left(self) -> tuple[bool, ...]:
        """For each sample of the batch, whether it is outside of the envelope, by all that was compared."""
        return tuple(score > self.limit for score in self.scores)

    def left_before_the_last(self) -> bool:
        """Whether a sample was outside by all drifts but the newest, which the device may not have found yet."""
        return any(is_outside(self.envelope, own) for own in self._drifts(list(self._late)[:-1]))

    def _drifts(self, steps: Sequence[int]) -> tuple[dict[int, float], ...]:
        samples = zip(*(self._late[step].read() for step in steps), strict=True)
        return tuple(dict(zip(steps, row, strict=True)) for row in samples)

    def __str__(self) -> str:
        scores, left = self.scores, self.left
        if not scores:
            return "guard: no step could be compared with calibration's"
        worst = f"score {max(scores):.2f}, limit {self.limit:.2f}"
        computed = f"; {len(self.computed_steps)} cached steps were computed" if self.computed_steps else ""
        if not any(left):
            return f"guard: within calibration's envelope ({worst}){computed}"
        return f"guard: outside of calibration's envelope{named_samples(left)} ({worst}){computed}"


def named_samples(left: Sequence[bool]) -> str:
    """Of several samples, those that left."""
    return "" if len(left) == 1 else f": samples {', '.join(str(k) for k, out in enumerate(left) if out)}"
