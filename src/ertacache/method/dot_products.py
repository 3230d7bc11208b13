"""The Gram matrix of large tensors, in blocks: double precision without a copy of them all."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ertacache.double_precision import as_float64


def gram_of_rows(rows: Sequence[Tensor]) -> Tensor:
    """Compute the dot products of all pairs of tensors of one size.

    Args:
        rows: floating, on any device; the products are summed there, a block at a time.

    Returns:
        (rows, rows), float64, on the CPU.
    """
    flat = [row.flatten() for row in rows]
    total = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    for start in range(0, len(flat[0]), _BLOCK):
        wide = as_float64(torch.stack([row[start : start + _BLOCK] for row in flat]))
        total += (wide @ wide.T).cpu()
    return total


_BLOCK = 1 << 16  # elements of each tensor that are widened at a time
