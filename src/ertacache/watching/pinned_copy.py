"""Copy numbers from the device to the host without waiting for them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class PinnedCopy:
    """One number for each sample, on its way to the host. Reading waits only for the step that computes the numbers.

    Args:
        values: (batch,), on any device. From CUDA they are copied to pinned memory, after the work queued so far.
    """

    def __init__(self, values: Tensor) -> None:
        self._values = values
        self._arrived: Any = None
        self._read: list[float] | None = None
        if values.device.type == "cuda":
            self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrived.record(torch.cuda.current_stream(values.device))

    def read(self) -> list[float]:
        """Read the numbers, one for each sample; only the first call waits."""
        if self._read is None:
            if self._arrived is not None:
                self._arrived.synchronize()
            self._read = self._values.tolist()
        return self._read
