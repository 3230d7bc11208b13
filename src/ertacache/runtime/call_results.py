"""What a call returned: its pictures or clips, and their sound; of standard and of modular pipelines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ertacache.errors import PipelineError

_PICTURES = ("images", "frames", "videos")


def pictures_of(result: Any) -> Tensor:
    """Get the pictures or clips that a call returned, float32 on the CPU, (batch, ..., channels, height, width).

    Raises:
        PipelineError: if it returned no tensor of pictures.
    """
    found = next((value for name in _PICTURES if (value := _part(result, name)) is not None), None)
    if not isinstance(found, Tensor):
        raise PipelineError(
            "the quality of what this pipeline makes cannot be measured: it returns no tensor of pictures",
            given=type(found if found is not None else result).__name__,
            cure="Use a budget of steps or seconds, and compare by other means.",
        )
    return found.detach().float().cpu()


def sound_of(result: Any) -> Tensor | None:
    """Get the sound that a call returned beside its clips, float32 on the CPU, (batch, channels, samples); or None."""
    found = _part(result, "audio")
    if not isinstance(found, Tensor) or not found.is_floating_point():
        return None
    sound = found.detach().float().cpu()
    return sound.unsqueeze(1) if sound.ndim == 2 else sound


def _part(result: Any, name: str) -> Any:
    """A part of a pipeline's output, or of a modular pipeline's state."""
    values = getattr(result, "values", None)
    if isinstance(values, Mapping):  # a state
        return values.get(name)
    return result.get(name) if isinstance(result, Mapping) else getattr(result, name, None)


def sampling_rate_of(pipe: Any) -> int:
    """The sampling rate of the sound that a pipeline makes, in Hz: its vocoder's, or its autoencoder's."""
    for part in ("vocoder", "audio_vae"):
        config = getattr(getattr(pipe, part, None), "config", None)
        if not isinstance(config, Mapping):
            continue
        for name in ("output_sampling_rate", "sampling_rate", "sample_rate"):
            if config.get(name):
                return int(config[name])
    return _USUAL_RATE


def frame_rate_of(arguments: Mapping[str, Any], fps: int, sound: Any) -> int:
    """The frames per second of a clip: with sound those of the call, so that both end together; else ``fps``."""
    return round(arguments.get("frame_rate") or fps) if sound is not None else fps


_USUAL_RATE = 24_000
