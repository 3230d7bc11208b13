"""Outputs of a full generation, kept until it ends: on their device, or in a temporary file above a limit."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor


class OutputStore:
    """Tensors by name, in their own dtype.

    Args:
        memory_limit: bytes on the device; what comes above it goes to a temporary file, which is mapped into memory.
    """

    def __init__(self, memory_limit: float) -> None:
        self.memory_limit = memory_limit
        self._tensors: dict[str, Tensor] = {}
        self._held = 0.0
        self._folder: TemporaryDirectory[str] | None = None

    def keep(self, name: str, tensor: Tensor) -> None:
        """Keep a copy."""
        self._held += tensor.nbytes
        if self._held <= self.memory_limit:
            self._tensors[name] = tensor.detach().clone()
            return
        self._folder = self._folder or TemporaryDirectory(prefix="ertacache-")
        path = Path(self._folder.name) / f"{len(self._tensors)}"
        mapped = torch.from_file(str(path), shared=True, size=tensor.numel(), dtype=tensor.dtype)
        mapped.copy_(tensor.detach().flatten())
        self._tensors[name] = mapped

    def rows(self, names: list[str]) -> list[Tensor]:
        """Those of these names, flat; on the CPU if any of them is in a file."""
        rows = [self._tensors[name].flatten() for name in names]
        return [row.cpu() for row in rows] if self._folder else rows

    def clear(self) -> None:
        """Forget everything, and delete the file."""
        self._tensors.clear()
        self._held = 0.0
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None
