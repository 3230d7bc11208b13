"""Where full runs are kept: in memory, in files when they are large, and for good when a folder is given."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from ertacache.calibration.prompts import Call
from ertacache.calibration.recording import Recording, Setting, read, write
from ertacache.runtime.identity import identify
from ertacache.runtime.run import denoisers_of
from ertacache.runtime.seams import own_class


def key_of(pipe: Any, calls: Sequence[Call], num_inference_steps: int, *, hidden: bool = False) -> str:
    """A name for a calibration's full runs: the same model, scheduler and calls give the same name."""
    digest = hashlib.sha256()
    parts: list[Any] = [num_inference_steps, own_class(pipe).__name__, own_class(pipe.scheduler).__name__]
    parts.append(sorted((name, value) for name, value in pipe.scheduler.config.items() if not name.startswith("_")))
    parts += [(name, identify(module)) for name, module in denoisers_of(pipe).items()]
    parts += [_plain(call.arguments()) for call in calls]
    parts += ["hidden"] if hidden else []
    for part in parts:
        digest.update(repr(part).encode())
    return digest.hexdigest()[:16]


def _plain(value: Any) -> Any:
    """Something whose ``repr`` tells two call arguments apart."""
    if isinstance(value, Mapping):
        return sorted((str(key), _plain(item)) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, torch.Generator):
        return _plain(value.get_state())
    if isinstance(value, Tensor):
        return hashlib.sha256(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()
    if hasattr(value, "tobytes"):
        return hashlib.sha256(value.tobytes()).hexdigest()
    if isinstance(value, FunctionType):  # a callback may change the latents
        held = [cell.cell_contents for cell in value.__closure__ or ()]
        held = [h.__qualname__ if isinstance(h, FunctionType) else h for h in held]  # it may hold itself
        code = value.__code__
        return [value.__module__, value.__qualname__, code.co_code.hex(), _plain(list(code.co_consts)), _plain(held)]
    return value if isinstance(value, (str, int, float, bool, type(None))) else type(value).__name__


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


class Shelf:
    """Keeps the full runs of one calibration.

    Args:
        folder: keep them there, so that an interrupted calibration can go on; None to keep them only as long as
            the calibration lasts.
        key: the calibration's name within the folder.
        memory_limit: above so many bytes in all, recordings go to files even without a folder.
    """

    def __init__(self, folder: Path | None, key: str, memory_limit: int) -> None:
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._folder = folder / key if folder else None
        self._memory_limit = memory_limit

    def expect(self, num_bytes: int) -> str:
        """Be told how large all recordings will be; says where they go."""
        if self._folder is None and num_bytes > self._memory_limit:
            self._temporary = tempfile.TemporaryDirectory(prefix="ertacache-")
            self._folder = Path(self._temporary.name)
        where = "memory" if self._folder is None else str(self._folder)
        return f"{where} (memory_limit={readable(self._memory_limit)})"

    def find(self, prompt: int) -> tuple[Recording, Setting] | None:
        """The full run of a prompt, if an earlier calibration kept it."""
        return read(self._path(prompt)) if self._folder else None

    def keep(self, prompt: int, tensors: dict[str, Tensor], setting: Setting) -> Recording:
        """Keep a full run."""
        if self._folder is None:
            return Recording(tensors)
        write(tensors, setting, self._path(prompt))
        return Recording(None, self._path(prompt))

    def _path(self, prompt: int) -> Path:
        assert self._folder is not None  # asked for by the callers
        return self._folder / f"full-run-{prompt:03d}.safetensors"

    def close(self) -> None:
        """Drop what was kept for this calibration only."""
        if self._temporary is not None:
            self._temporary.cleanup()
