"""The envelope: how far calibration's samples drifted by each computed step; `ertacache.watching` compares with it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial

from ertacache.arguments import each, invalid, normalized, number, whole

_wrong = invalid("envelope")


@dataclass(frozen=True)
class Envelope:
    """What calibration's samples had drifted, one entry a computed step, in sampling order.

    Args:
        steps: the computed steps whose drift is compared.
        middle: of these, the one where the sum begins anew.
        mean: of the logarithm of the root of the sum there, over calibration's samples.
        deviation: its standard deviation, over 0.
        limit: the score over which a sample is outside.

    Raises:
        PolicyFileError: if these are no numbers that a score can be made of.
    """

    steps: tuple[int, ...]
    middle: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    limit: float

    def __post_init__(self) -> None:
        step = partial(whole, at_least=0)
        normalized(self, _wrong, steps=each(step), middle=step)
        # The logarithms are those of sums of drifts from 1e-12 to 1e12.
        normalized(self, _wrong, mean=each(partial(number, at_least=-1000, at_most=1000)))
        normalized(self, _wrong, deviation=each(partial(number, above=0, at_most=1000)))
        normalized(self, _wrong, limit=partial(number, at_least=-1000, at_most=1000))

    def problem(self, computed_steps: Sequence[int]) -> str | None:
        """What does not fit together, or to a policy that computes these steps; None if all does."""
        if not len(self.mean) == len(self.deviation) == len(self.steps):
            return "the envelope has not one entry for each of its steps"
        if not self.steps or list(self.steps) != sorted(set(self.steps)) or not {*self.steps} <= {*computed_steps[1:]}:
            return "the envelope's steps are not computed steps that have another one before them"
        if self.middle not in self.steps:
            return "the envelope's sum begins anew at a step that it does not have"
        return None

    def shifted(self, first_step: int) -> Envelope:
        """The same with steps that count from ``first_step`` of the grid."""
        return replace(self, steps=tuple(step + first_step for step in self.steps), middle=self.middle + first_step)

    def reached(self, steps: Collection[int]) -> int:
        """How many of its steps, from the first one on, are among these: nothing behind a gap is compared."""
        missing = (n for n, step in enumerate(self.steps) if step not in steps)
        return next(missing, len(self.steps))
