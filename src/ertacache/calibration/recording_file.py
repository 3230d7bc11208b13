"""Recordings as files: written whole or not at all, checked when first read, made anew if damaged."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path

from torch import Tensor

from ertacache.calibration.recording import Recording, Setting, StreamSetting, of_stream, senseless
from ertacache.errors import PolicyFileError
from ertacache.files import entries, opening, save


def write(tensors: dict[str, Tensor], setting: Setting, path: Path) -> None:
    """Write a recording to a file, whole or not at all."""
    save(path, "recording", asdict(setting), tensors)
    _intact[path] = _state_of(path)


def read(path: Path, warn: Callable[[str], None] = lambda line: None) -> tuple[Recording, Setting] | None:
    """Read a recording that an earlier calibration kept; None if there is no file, or it cannot be used.

    All its tensors are checked, once in a process.

    Args:
        path: the path of the file.
        warn: called with the reason why the file cannot be used.
    """
    if not path.is_file():
        return None
    try:
        with opening(path, "recording") as held:
            plain = entries(Setting, held.content, "the recording")
            streams = [StreamSetting(**entries(StreamSetting, part, "a latent")) for part in plain.get("streams", ())]
            setting = Setting(**{**plain, "streams": tuple(streams)})
            if _intact.get(path) != _state_of(path):
                _check(setting, held.tensors())
    except PolicyFileError as error:
        warn(f"{path.name} is made anew: {error.what}")
        return None
    _intact[path] = _state_of(path)
    return Recording(None, path), setting


def _check(setting: Setting, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Raise `CalibrationError` if the tensors of a file are not those of a full run in this setting."""
    steps = setting.num_steps
    shapes: dict[str, tuple[int, ...]] = {}
    for name, tensor in tensors:
        finite = all(bool(extreme.isfinite()) for extreme in tensor.aminmax())  # both are NaN if one element is
        if not tensor.is_floating_point() or not finite:
            raise senseless(f"{name} is not finite")
        shapes[name] = tuple(tensor.shape)
    for stream in range(setting.num_streams):
        _check_stream(setting.of_stream(stream), shapes, stream)
    residuals = {f"r{i}" for i in range(steps)}
    if shapes.keys() not in (set(), residuals):
        raise senseless(f"tensors {', '.join(sorted(shapes))}")


def _check_stream(setting: Setting, shapes: dict[str, tuple[int, ...]], stream: int) -> None:
    """Raise `CalibrationError` if a latent's tensors are not those of a full run; take their shapes out."""
    steps = setting.num_steps

    def pop(name: str) -> tuple[int, ...]:
        return shapes.pop(of_stream(name, stream), ())

    samples, outputs = {pop(f"x{i}") for i in range(steps + 1)}, {pop(f"v{i}") for i in range(steps)}
    alike = len(samples) == len(outputs) == 1 and (samples == outputs) == setting.same_shape
    if not alike or () in outputs or {shape[1:] for shape in samples} != {setting.latent_shape}:
        raise senseless(f"latents of {setting.latent_shape} in {samples}, outputs in {outputs}")
    if pop("gram") not in ((steps,) * 2, (2 * steps,) * 2):
        raise senseless(f"{steps} steps and another Gram matrix")
    if pop("response") != (steps,) * 2:
        raise senseless(f"{steps} steps and another response of the sampler")


def _state_of(path: Path) -> tuple[int, ...]:
    state = path.stat()
    return state.st_ino, state.st_size, state.st_mtime_ns


_intact: dict[Path, tuple[int, ...]] = {}
"""The files that this process has written or checked, with their state at that time."""
