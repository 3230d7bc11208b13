"""What its draft tells of a generation."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, log

from torch import Tensor

from ertacache.watching.envelope import size_of
from ertacache.watching.guard_report import GuardReport, named_samples
from ertacache.watching.pinned_copy import PinnedCopy


class DraftReport:
    """What its draft tells of a generation; see `ertacache.draft`. The device is asked when it is read.

    Args:
        distances: (batch,), of the final latents.
        drifts: what the run and the draft drifted; None where a policy has no envelope.
        mean: of the logarithm of the error, over calibration's samples.
        deviation: of the same.
        limit: the score over which a sample is off by more than calibration's.
        denoiser_calls: of the draft.
    """

    def __init__(
        self,
        distances: Tensor,
        drifts: tuple[GuardReport, GuardReport] | None,
        mean: float,
        deviation: float,
        limit: float,
        denoiser_calls: int,
    ) -> None:
        self._late, self._watched = PinnedCopy(distances), drifts
        self.mean, self.deviation, self.limit = mean, deviation, limit
        self.denoiser_calls = denoiser_calls

    @property
    def distances(self) -> tuple[float, ...]:
        """The root mean square of the difference of the final latents, for each sample of the batch."""
        return tuple(self._late.read())

    @property
    def errors(self) -> tuple[float, ...]:
        """What `estimated_errors` makes of it, for each sample of the batch."""
        return estimated_errors(self.distances, self._watched)

    @property
    def scores(self) -> tuple[float, ...]:
        """The logarithm of the error, in standard deviations of calibration's samples above their mean.

        Empty if not all steps could be compared that calibration's runs have, as after the guard had some computed.
        """
        return tuple((log(e) - self.mean) / self.deviation if e else -inf for e in self.errors)

    @property
    def left(self) -> tuple[bool, ...]:
        """For each sample of the batch, whether it is off by more than calibration's are, or no number."""
        return tuple(not score <= self.limit for score in self.scores)

    def __str__(self) -> str:
        scores, left = self.scores, self.left
        if not scores:
            return "draft: not all steps could be compared with calibration's"
        worst = f"score {max(scores):.2f}, limit {self.limit:.2f}; {self.denoiser_calls} more denoiser calls"
        if not any(left):
            return f"draft: as near as calibration's ({worst})"
        return f"draft: farther off than calibration's{named_samples(left)} ({worst})"


def estimated_errors(distances: Sequence[float], drifts: tuple[GuardReport, GuardReport] | None) -> tuple[float, ...]:
    """How far the final latents are from those of the full run, by what a draft tells.

    The distance to a draft of fewer steps is nearly all the draft's own error. How large that is for what the draft
    drifted is how much this denoiser grows errors on this prompt; so a run is off by as much for what *it* drifted.
    To a draft of more steps it is mostly the run's error as it is, and the drifts change little (docs/research-log.md).

    Args:
        distances: to the draft, one for each sample.
        drifts: what the run and the draft drifted; None if that is not known, and the distance is all there is.

    Returns:
        One for each sample; none if not all steps were compared that calibration's runs have.
    """
    if drifts is None:
        return tuple(distances)
    if not all(watched.complete for watched in drifts):
        return ()
    of_samples = zip(distances, *(watched.drifts for watched in drifts), strict=True)
    return tuple(distance * size_of(own.values()) / size_of(other.values()) for distance, own, other in of_samples)
