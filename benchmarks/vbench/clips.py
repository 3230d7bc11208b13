"""Clips as MP4, written whole or not at all, so that an interrupted export goes on where it was."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.vbench.dimensions import VBenchError
from benchmarks.vbench.layout import Sample
from ertacache.files import written_whole
from ertacache.presenting.films import mp4

Pixels = np.ndarray[Any, Any]


def write_clip(clip: Any, path: Path, *, fps: int) -> None:
    """Write a clip as MP4 (H.264), whole or not at all.

    Args:
        clip: (frames, height, width, 3), uint8, or float in 0 .. 1 (what lies outside is clipped), as an array or a
            tensor on the CPU; height and width even, as H.264 wants them.
        path: where to.
        fps: frames a second.

    Raises:
        VBenchError: if that is no clip, if a pixel is NaN, or if imageio is missing.
    """
    pixels = _pixels(np.asarray(clip))
    missing = [name for name in ("imageio", "imageio_ffmpeg") if importlib.util.find_spec(name) is None]
    if missing:
        cure = "Install them: pip install 'ertacache[cli]'."
        raise VBenchError("writing clips needs imageio and imageio-ffmpeg", given=f"no {missing[0]}", cure=cure)
    # Little compression, for it is the pipeline that is judged: 8 of 10 is what Wan's own code asks for.
    encoded = mp4(pixels, fps, quality=8)
    with written_whole(path) as unfinished:
        Path(unfinished).write_bytes(encoded)


def _pixels(clip: Pixels) -> Pixels:
    floats = np.issubdtype(clip.dtype, np.floating)
    shaped = clip.ndim == 4 and clip.shape[-1] == 3 and clip.size and not any(side % 2 for side in clip.shape[1:3])
    if not shaped or not (floats or clip.dtype == np.uint8):
        raise VBenchError(
            "this is no clip",
            given=f"{clip.dtype}, shape {clip.shape}",
            cure="Give (frames, height, width, 3), height and width even, uint8 or float in 0 .. 1.",
        )
    if not floats:
        return clip
    if not np.isfinite(clip).all():
        raise VBenchError(
            "a clip has pixels that are no numbers, and is not written",
            given="NaN or infinity",
            cure="Find out where the pipeline overflows; --dtype float32 or bfloat16 may help.",
        )
    return np.asarray((clip.clip(0, 1) * 255).round().astype(np.uint8))


def export(
    samples: Sequence[Sample],
    generate: Callable[[Sample], Any],
    folder: Path,
    *,
    fps: int,
    on_clip: Callable[[], None] = lambda: None,
) -> int:
    """Generate and write the clips that are not there yet.

    Args:
        samples: which.
        generate: makes one, as `write_clip` takes it.
        folder: where the clips lie, alone.
        fps: frames a second.
        on_clip: told of every clip, made or found.

    Returns:
        How many were made.
    """
    made = 0
    for sample in samples:
        path = folder / sample.name
        if not path.exists():
            write_clip(generate(sample), path, fps=fps)
            made += 1
        on_clip()
    return made
