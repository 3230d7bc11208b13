"""The envelope: how far calibration's samples drifted up to each computed step.

`ertacache.watching.drift_score` makes it from calibration's runs, and scores later generations against it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial

from ertacache.value_checks import each, invalid, normalized, number, whole

_wrong = invalid("envelope")


@dataclass(frozen=True)
class Envelope:
    """The distribution of calibration's drifts, one entry for each compared step, in sampling order.

    At each step the drifts so far are summed (root of the sum of squares, restarted in the middle of the run), and the
    logarithm is taken.

    Args:
        steps: the computed steps whose drift is compared, rising.
        middle: the step of ``steps`` at which the sum restarts.
        mean: of the logarithm at each step, over calibration's samples.
        deviation: the standard deviation of the logarithm at each step, over 0.
        limit: a sample with a higher score is outside of the envelope.

    Raises:
        PolicyFileError: if a value is not a finite number, or out of range.
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
        """Describe what is inconsistent, or does not fit a policy with these computed steps, or None if all fits."""
        if not len(self.mean) == len(self.deviation) == len(self.steps):
            return "the envelope does not have one entry for each of its steps"
        if not self.steps or list(self.steps) != sorted(set(self.steps)) or not {*self.steps} <= {*computed_steps[1:]}:
            return "the envelope's steps must rise, and be computed steps other than the first one"
        if self.middle not in self.steps:
            return "the envelope's sum restarts at a step that is not one of its steps"
        return None

    def shifted(self, first_step: int) -> Envelope:
        """Move all steps by ``first_step``, for image-to-image calls that begin later in the grid."""
        return replace(self, steps=tuple(step + first_step for step in self.steps), middle=self.middle + first_step)

    def reached(self, steps: Collection[int]) -> int:
        """Count the envelope's steps, from the first on, that are in ``steps``; after a gap nothing counts."""
        missing = (n for n, step in enumerate(self.steps) if step not in steps)
        return next(missing, len(self.steps))
