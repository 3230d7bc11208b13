"""Where full runs are kept: in memory, in files when they are large, and for good when a folder is given."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from ertacache.calibration.recording import Recording, Setting, read, write
from ertacache.errors import CalibrationError
from ertacache.runtime.calls import Call
from ertacache.runtime.identity import Circumstances, identify
from ertacache.runtime.pipeline_key import digest_of, pipeline_key


def key_of(
    pipe: Any, circumstances: Circumstances, calls: Sequence[Call], num_inference_steps: int, *, hidden: bool = False
) -> str:
    """A name for a calibration's full runs: the same models, settings, calls and ways to compute give the same name.

    Where weights cannot be read, nothing tells whether they are the same, and the name is new each time.

    Raises:
        CalibrationError: if an argument of a call cannot be told apart from others like it.
    """
    parts: list[Any] = [num_inference_steps, hidden, pipeline_key(pipe, circumstances)]
    parts += [(_plain(call.arguments()), _plain(call.random.torch[0])) for call in calls]
    return digest_of(parts)


def _plain(value: Any, within: tuple[Any, ...] = ()) -> Any:
    """Something whose ``repr`` tells two call arguments apart.

    ``within``: what the value is a part of; callbacks and their objects may hold themselves.
    """
    if any(value is outer for outer in within):
        return "itself"

    def plain(part: Any) -> Any:
        return _plain(part, (*within, value))

    if isinstance(value, (str, int, float, complex, bool, bytes, type(None), torch.dtype, torch.device)):
        return value
    if isinstance(value, Mapping):
        return sorted((str(key), plain(item)) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(repr(plain(item)) for item in value)
    if isinstance(value, torch.Generator):
        return plain(value.get_state())
    if isinstance(value, Tensor):
        data = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        return [tuple(value.shape), str(value.dtype), hashlib.sha256(data.tobytes()).hexdigest()]
    if isinstance(value, nn.Module):
        return identify(value)
    if hasattr(value, "tobytes"):  # pictures and arrays
        kind = [str(getattr(value, name, "")) for name in ("mode", "size", "shape", "dtype")]
        return [type(value).__name__, kind, hashlib.sha256(value.tobytes()).hexdigest()]
    if isinstance(value, FunctionType):  # a callback may change the latents
        held = [cell.cell_contents for cell in value.__closure__ or ()]
        code, given = value.__code__, (value.__defaults__, value.__kwdefaults__)
        return [value.__module__, value.__qualname__, plain(code), plain(given), plain(held)]
    if isinstance(value, CodeType):
        return [value.co_code.hex(), value.co_names, plain(value.co_consts)]
    if isinstance(value, partial):
        return ["partial", plain(value.func), plain(value.args), plain(value.keywords)]
    if isinstance(value, MethodType):
        return ["method", plain(value.__func__), plain(value.__self__)]
    if isinstance(value, (type, BuiltinFunctionType)):
        return [value.__module__, value.__qualname__]
    if isinstance(value, ModuleType):
        return value.__name__
    if hasattr(value, "components"):  # a pipeline; its parts have names of their own
        return type(value).__name__
    if hasattr(value, "__dict__"):
        return [type(value).__module__, type(value).__qualname__, plain(vars(value))]
    raise CalibrationError(
        "a checkpoint cannot tell this argument of the call from others like it",
        given=type(value).__name__,
        cure="Calibrate without checkpoint=, or give something made of numbers, texts, tensors, pictures, functions.",
    )


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

    Attributes:
        in_files: whether all recordings together are above it.
    """

    def __init__(self, folder: Path | None, key: str, memory_limit: float) -> None:
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._folder = folder / key if folder else None
        self._memory_limit = memory_limit
        self.in_files = False

    def expect(self, num_bytes: int) -> str:
        """Be told how large all recordings will be; says where they go, and sets ``in_files``."""
        self.in_files = num_bytes > self._memory_limit
        if self._folder is None and self.in_files:
            self._temporary = tempfile.TemporaryDirectory(prefix="ertacache-")
            self._folder = Path(self._temporary.name)
        where = "memory" if self._folder is None else str(self._folder)
        return f"{where} (memory_limit={readable(self._memory_limit)})"

    def find(self, prompt: int, tell: Callable[[str], None] = lambda line: None) -> tuple[Recording, Setting] | None:
        """The full run of a prompt, if an earlier calibration kept it; ``tell`` is told why one cannot be used."""
        return read(self._path(prompt), tell) if self._folder else None

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
