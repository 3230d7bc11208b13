"""Eq. (12) between recorded steps, for schedules of Algorithm 2 that are planned before a closed loop."""

from __future__ import annotations

from collections.abc import Sequence

from ertacache.calibration.recording import Recording
from ertacache.calibration.shard import current_shard
from ertacache.method.residual import Level
from ertacache.method.threshold import Distance, relative_distance


def residual_distances(recordings: Sequence[Recording], level: Level) -> Distance:
    """Make a function for the distance of Eq. (12) between any two recorded steps, summed over prompts.

    Args:
        recordings: one recording for each of this process's prompts.
        level: the level of the residuals.

    Returns:
        ``distance(last, step)``, which computes each distance once.
    """
    known: dict[tuple[int, int], float] = {}

    def distance(last: int, step: int) -> float:
        if (last, step) not in known:
            own = []
            for recording in recordings:
                fresh = recording.entry(step, level)
                own.append(relative_distance(recording.entry(last, level), fresh, fresh))
            parts = current_shard().gather(own, f"distance of steps {last} and {step}")
            error, size = (sum(values) for values in zip(*parts, strict=True))
            known[last, step] = error / size if size else 0.0
        return known[last, step]

    return distance
