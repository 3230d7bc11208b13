"""The report of a draft: how far each sample of a call is estimated to be from the full run."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, log

from torch import Tensor

from ertacache.watching.drift_score import size_of
from ertacache.watching.guard_report import GuardReport, suspicion
from ertacache.watching.pinned_copy import PinnedCopy


class DraftReport:
    """The comparison of a call with its draft; see `ertacache.draft`. Waits for the device only when it is read.

    Args:
        distances: the distances between the final latents of the run and the draft, (batch,), floating, on any device.
        drifts: the drifts of the run and of the draft, or None if one of the policies has no envelope.
        mean: the mean logarithm of the estimated errors of calibration's samples.
        deviation: the standard deviation of that logarithm.
        limit: a sample with a higher score is farther off than calibration's.
        denoiser_calls: how many denoiser calls the draft made.
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
        """For each sample of the batch, the root mean square of the difference between the final latents."""
        return tuple(self._late.read())

    @property
    def errors(self) -> tuple[float, ...]:
        """For each sample of the batch, its estimated distance to the full run; see `estimated_errors`."""
        return estimated_errors(self.distances, self._watched)

    @property
    def scores(self) -> tuple[float, ...]:
        """For each sample, the logarithm of its error, in standard deviations above calibration's mean.

        Empty if not all steps of calibration's runs could be compared, as when the guard has computed some.
        """
        return tuple((log(e) - self.mean) / self.deviation if e else -inf for e in self.errors)

    @property
    def left(self) -> tuple[bool, ...]:
        """For each sample of the batch, whether it is farther off than calibration's samples, or NaN."""
        return tuple(not score <= self.limit for score in self.scores)

    def __str__(self) -> str:
        scores, left = self.scores, self.left
        if not scores:
            return "draft: no verdict: this run did not follow the calibrated steps (see the notes and the guard)"
        worst = f"score {max(scores):.2f}, limit {self.limit:.2f}; {self.denoiser_calls} more denoiser calls"
        if not any(left):
            return f"draft: nothing suspicious ({worst})"
        return f"draft: {suspicion(left)} ({worst}); look at it, or run it without the cache"


def estimated_errors(distances: Sequence[float], drifts: tuple[GuardReport, GuardReport] | None) -> tuple[float, ...]:
    """Estimate how far the final latents are from the full run's: distance to the draft x run's drift / draft's drift.

    If the draft computes fewer steps, the distance to it is nearly all the draft's own error. Divided by the draft's
    drift, it says how much the denoiser amplifies errors on this prompt; times the run's drift, it estimates the run's
    error. If the draft computes more steps, the distance is mostly the run's error itself, and the drifts change it
    little (docs/records/research-log.md).

    Args:
        distances: the distances to the draft, one for each sample.
        drifts: the drifts of the run and of the draft; None if they are unknown: the distances are then returned.

    Returns:
        One for each sample; none if not all steps of calibration's runs were compared.
    """
    if drifts is None:
        return tuple(distances)
    if not all(report.complete for report in drifts):
        return ()
    samples = zip(distances, *(report.drifts for report in drifts), strict=True)
    return tuple(distance * size_of(run.values()) / size_of(draft.values()) for distance, run, draft in samples)
