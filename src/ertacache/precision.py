"""Double precision where a device has it, and in main memory where it has not."""

from __future__ import annotations

import functools

import torch
from torch import Tensor


def widened(tensor: Tensor) -> Tensor:
    """The tensor in float64: on its device, or on the CPU where the device has no float64, as Apple's have not."""
    return tensor.double() if _has_float64(tensor.device) else tensor.cpu().double()


@functools.cache
def _has_float64(device: torch.device) -> bool:
    try:
        torch.zeros(1, dtype=torch.float64, device=device)
    except (RuntimeError, TypeError):  # a type error on MPS, a runtime error on small XPUs
        return False
    return True
