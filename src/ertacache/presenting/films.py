"""Generated clips as films: one MP4 in which all clips play in step."""

from __future__ import annotations

import io
import os
import wave
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ertacache.files import written_whole
from ertacache.presenting.pictures import pixels_of


def write_film(
    rows: Mapping[str, Sequence[Tensor]],
    path: str | os.PathLike[str],
    *,
    fps: int = 8,
    enlarge: int | None = None,
    sound: tuple[Tensor, int] | None = None,
) -> None:
    """Write all clips as one MP4 in which they play in step: a row for each label, a column for each clip.

    Args:
        rows: for each row's label its clips, each float (frames, channels, height, width) in 0 .. 1, all of one shape.
        path: the file to write.
        fps: frames per second.
        enlarge: how many pixels wide each pixel becomes; by default so many that a clip is at most 192 pixels wide,
            and at least 1.
        sound: float (channels, samples) in -1 .. 1, and its sampling rate in Hz; None for a silent film.
    """
    film = torch.cat([torch.cat(list(clips), dim=-1) for clips in rows.values()], dim=-2)
    enlarge = enlarge or max(1, 192 // next(iter(rows.values()))[0].shape[-1])
    pixels = pixels_of(film, enlarge)
    with TemporaryDirectory(prefix="ertacache-") as folder:
        heard: dict[str, Any] = {}
        if sound is not None:
            heard = {"audio_path": str(Path(folder) / "sound.wav"), "audio_codec": "aac"}
            Path(heard["audio_path"]).write_bytes(wav(*sound))
        encoded = mp4(pixels, fps, **heard)
    with written_whole(Path(path)) as unfinished:
        Path(unfinished).write_bytes(encoded)


def wav(sound: Tensor, sampling_rate: int) -> bytes:
    """Encode a sound as WAV of 16 bits.

    Args:
        sound: float (channels, samples) in -1 .. 1; values outside are clipped.
        sampling_rate: in Hz.

    Returns:
        The content of the file.
    """
    written = io.BytesIO()
    with wave.open(written, "wb") as file:
        file.setnchannels(len(sound))
        file.setsampwidth(2)
        file.setframerate(sampling_rate)
        file.writeframes((sound.clamp(-1, 1).T.contiguous() * 32767).round().short().numpy().tobytes())
    return written.getvalue()


def mp4(pixels: Any, fps: int, **settings: Any) -> bytes:
    """Encode a clip as MP4 (H.264).

    Args:
        pixels: uint8 (frames, height, width, 3), a tensor or an array; odd sides are scaled to even ones, as H.264
            needs them.
        fps: frames per second.
        settings: of imageio's FFMPEG writer, such as ``quality``.

    Returns:
        The content of the file.
    """
    import imageio.v3 as imageio

    settings = {"codec": "libx264", "macro_block_size": 2, **settings}
    encoded = imageio.imwrite("<bytes>", np.asarray(pixels), extension=".mp4", fps=fps, **settings)
    assert isinstance(encoded, bytes)  # it is None where imageio writes to a file
    return encoded
