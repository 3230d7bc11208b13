"""Gram matrices: the dot products of the outputs of all steps. The surrogate and transfers are computed from them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

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


def gram_of_rows(rows: Sequence[Tensor]) -> Tensor:
    """Compute the dot products of all pairs of tensors of one size, (rows, rows), float64."""
    flat = [row.flatten() for row in rows]
    total = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    for start in range(0, len(flat[0]), _PART):
        wide = torch.stack([row[start : start + _PART].double() for row in flat])
        total += wide @ wide.T
    return total


_PART = 1 << 16  # elements of a tensor that are widened at a time
