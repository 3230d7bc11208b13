"""Keep full runs: in memory, in temporary files if they are large, or in a checkpoint folder if one is given."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from ertacache.calibration.checkpoint_key import CheckpointKey
from ertacache.calibration.recording import Recording, Setting
from ertacache.calibration.recording_file import read, write


class RecordingStore:
    """Keeps the full runs of one calibration.

    Args:
        folder: the checkpoint folder, which lets an interrupted calibration continue; None to keep recordings only as
            long as the calibration lasts.
        key: the names of the full runs within the folder; not used without one.
        memory_limit: the size of all recordings, in bytes, above which they go to files even without a folder.

    Attributes:
        in_files: whether all recordings together are above the limit.
    """

    def __init__(self, folder: Path | None, key: CheckpointKey | None, memory_limit: float) -> None:
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._folder = folder / key.setting if folder and key else None
        self._names = key.calls if key else ()
        self._memory_limit = memory_limit
        self.in_files = False

    def reserve(self, num_bytes: int) -> str:
        """Choose a place for recordings of so many bytes in all, and set ``in_files``.

        Returns:
            The place as text, for a message.
        """
        self.in_files = num_bytes > self._memory_limit
        if self._folder is None and self.in_files:
            self._temporary = tempfile.TemporaryDirectory(prefix="ertacache-")
            self._folder = Path(self._temporary.name)
        where = "memory" if self._folder is None else str(self._folder)
        return f"{where} (memory_limit={readable(self._memory_limit)})"

    def find(self, prompt: int, warn: Callable[[str], None] = lambda line: None) -> tuple[Recording, Setting] | None:
        """Load the full run of a prompt; None if no earlier calibration kept it.

        Args:
            prompt: the number of the prompt.
            warn: called with the reason why a file cannot be used.
        """
        return read(self._path(prompt), warn) if self._folder else None

    def keep(self, prompt: int, tensors: dict[str, Tensor], setting: Setting) -> Recording:
        """Keep the full run of a prompt."""
        if self._folder is None:
            return Recording(tensors)
        write(tensors, setting, self._path(prompt))
        return Recording(None, self._path(prompt))

    def _path(self, prompt: int) -> Path:
        assert self._folder is not None  # both callers have checked
        name = self._names[prompt] if self._names else f"{prompt:03d}"
        return self._folder / f"full-run-{name}.safetensors"

    def close(self) -> None:
        """Delete temporary files."""
        if self._temporary is not None:
            self._temporary.cleanup()


def readable(num_bytes: float) -> str:
    """Write a number of bytes in a unit that people can read.

    >>> readable(3_500_000)
    '3 MB'
    """
    for unit in ("B", "KB", "MB"):
        if num_bytes < 1024:
            return f"{num_bytes:.0f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.1f} GB"
