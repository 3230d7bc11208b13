"""Gram matrices: the dot products of the outputs of all steps. The surrogate and transfers are computed from them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ertacache.calibration.recording import Recording


def gram_of(recordings: Sequence[Recording], num_steps: int | None = None) -> NDArray[np.float64]:
    """Compute ``<v_i, v_j>`` for all pairs of steps, summed over prompts.

    Args:
        recordings: one recording for each prompt.
        num_steps: how many rows to use, from the first one on; None for all that were recorded.

    Returns:
        (num_steps, num_steps), float64.
    """
    total: NDArray[np.float64] = np.sum([recording.gram()[:num_steps, :num_steps] for recording in recordings], axis=0)
    return total
