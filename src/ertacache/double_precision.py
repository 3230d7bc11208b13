"""Double precision on every device: on the CPU where the device has none."""

from __future__ import annotations

import functools

import torch
from torch import Tensor


def as_float64(tensor: Tensor) -> Tensor:
    """Convert a tensor to float64, on its device; on the CPU if the device has no float64, as Apple's have not."""
    return tensor.double() if _has_float64(tensor.device) else tensor.cpu().double()


@functools.cache
def _has_float64(device: torch.device) -> bool:
    try:
        torch.zeros(1, dtype=torch.float64, device=device)
    except (RuntimeError, TypeError):  # TypeError on MPS, RuntimeError on small XPUs
        return False
    return True
