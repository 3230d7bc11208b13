"""Eq. (12) between recorded steps, for schedules of Algorithm 2 that are planned before a closed loop."""

from __future__ import annotations

from collections.abc import Sequence

from ertacache.calibration.recording import Recording
from ertacache.method.residual import Level
from ertacache.method.threshold import Distance, relative_distance


def residual_distances(recordings: Sequence[Recording], level: Level) -> Distance:
    """Make a function for the distance of Eq. (12) between any two recorded steps, summed over prompts.

    Args:
        recordings: one recording for each prompt.
        level: the level of the residuals.

    Returns:
        ``distance(last, step)``, which computes each distance once.
    """
    known: dict[tuple[int, int], float] = {}

    def distance(last: int, step: int) -> float:
        if (last, step) not in known:
            error = size = 0.0
            for recording in recordings:
                fresh = recording.entry(step, level)
                parts = relative_distance(recording.entry(last, level), fresh, fresh)
                error, size = error + parts[0], size + parts[1]
            known[last, step] = error / size if size else 0.0
        return known[last, step]

    return distance
