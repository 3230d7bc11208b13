"""Where full runs are kept: in memory, in files when they are large, and for good when a folder is given."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from ertacache.calibration.recording import Recording, Setting
from ertacache.calibration.recording_file import read, write


class RecordingStore:
    """Keeps the full runs of one calibration.

    Args:
        folder: keep them there, so that an interrupted calibration can go on; None to keep them only as long as
            the calibration lasts.
        key: the calibration's name within the folder.
        memory_limit: bytes; above it in all, recordings go to files even without a folder.

    Attributes:
        in_files: whether all recordings together are above the limit.
    """

    def __init__(self, folder: Path | None, key: str, memory_limit: float) -> None:
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._folder = folder / key if folder else None
        self._memory_limit = memory_limit
        self.in_files = False

    def reserve(self, num_bytes: int) -> str:
        """Choose a place for recordings of so many bytes in all, and set ``in_files``.

        Returns:
            The place, for people.
        """
        self.in_files = num_bytes > self._memory_limit
        if self._folder is None and self.in_files:
            self._temporary = tempfile.TemporaryDirectory(prefix="ertacache-")
            self._folder = Path(self._temporary.name)
        where = "memory" if self._folder is None else str(self._folder)
        return f"{where} (memory_limit={readable(self._memory_limit)})"

    def find(self, prompt: int, warn: Callable[[str], None] = lambda line: None) -> tuple[Recording, Setting] | None:
        """The full run of a prompt, if an earlier calibration kept it.

        Args:
            prompt: its number.
            warn: called with the reason why a file cannot be used.
        """
        return read(self._path(prompt), warn) if self._folder else None

    def keep(self, prompt: int, tensors: dict[str, Tensor], setting: Setting) -> Recording:
        """Keep a full run."""
        if self._folder is None:
            return Recording(tensors)
        write(tensors, setting, self._path(prompt))
        return Recording(None, self._path(prompt))

    def _path(self, prompt: int) -> Path:
        assert self._folder is not None  # both callers have checked
        return self._folder / f"full-run-{prompt:03d}.safetensors"

    def close(self) -> None:
        """Drop what was kept for this calibration only."""
        if self._temporary is not None:
            self._temporary.cleanup()


def readable(num_bytes: float) -> str:
    """A number of bytes as a person reads it.

    >>> readable(3_500_000)
    '3 MB'
    """
    for unit in ("B", "KB", "MB"):
        if num_bytes < 1024:
            return f"{num_bytes:.0f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.1f} GB"
