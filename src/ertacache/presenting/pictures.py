"""Generated pictures as files: single ones, and grids of them side by side."""

from __future__ import annotations

import io
import os
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from ertacache.files import written_whole
from ertacache.presenting.plot_style import LITERAL, save_figure
from ertacache.untrusted_text import visible


def picture_suffixes() -> tuple[str, ...]:
    """The file suffixes that `write_pictures` can write, ``.png`` first: those that Pillow has an encoder for."""
    Image.init()
    others = {suffix for suffix in Image.registered_extensions() if _can_encode(suffix)} - {".png"}
    return (".png", *sorted(others))


def _can_encode(suffix: str) -> bool:
    kind = Image.registered_extensions()[suffix]
    try:
        with warnings.catch_warnings(action="ignore"):  # some formats are deprecated
            Image.new("RGB", (16, 16)).save(io.BytesIO(), kind)
    except (OSError, ValueError, KeyError):
        return False
    return True


def pixels_of(picture: Tensor, enlarge: int = 1) -> Tensor:
    """A picture or clip in the layout that files need: uint8, channels last.

    Args:
        picture: float (..., channels, height, width) in 0 .. 1; values outside are clipped.
        enlarge: how many pixels wide and high each pixel becomes, at least 1.

    Returns:
        uint8 (..., height * enlarge, width * enlarge, channels).
    """
    pixels = (picture.clamp(0, 1) * 255).round().byte().movedim(-3, -1)
    return pixels.repeat_interleave(enlarge, dim=-3).repeat_interleave(enlarge, dim=-2).contiguous()


def write_pictures(pictures: Sequence[Tensor], path: str | os.PathLike[str]) -> None:
    """Write pictures side by side into one file.

    Args:
        pictures: each float (3, height, width) in 0 .. 1.
        path: the file to write; its suffix is one of `picture_suffixes` and decides the format.
    """
    kind = Image.registered_extensions()[Path(path).suffix.lower()]
    pixels = pixels_of(torch.cat(list(pictures), dim=-1))
    with written_whole(Path(path)) as unfinished:
        Image.fromarray(pixels.numpy()).save(unfinished, kind)


def side_by_side(
    rows: Mapping[str, Sequence[Tensor]], captions: Sequence[str], path: str | os.PathLike[str], title: str = ""
) -> None:
    """Write a grid of pictures with labels: one row for each way to generate, one column for each prompt.

    Args:
        rows: for each row's label its pictures, each float (channels, height, width) in 0 .. 1.
        captions: one for each column.
        path: the file to write; PNG without a suffix.
        title: stands above all.
    """
    columns = len(captions)
    figure = Figure(figsize=(1.75 * columns + 1.1, 1.75 * len(rows) + 0.8 + 0.25 * bool(title)), layout="constrained")
    figure.suptitle(title, fontsize=9)
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for line, (label, pictures) in zip(axes, rows.items(), strict=True):
        for axis, picture in zip(line, pictures, strict=True):
            _show(axis, picture)
        line[0].set_ylabel(visible(label), fontsize=9, **LITERAL)
    for axis, caption in zip(axes[0], captions, strict=True):
        axis.set_title(textwrap.fill(visible(caption), 24, max_lines=8), fontsize=7, **LITERAL)
    save_figure(figure, path, dpi=110)


def contact_sheet(
    rows: Mapping[str, Sequence[Tensor]],
    captions: Sequence[str],
    path: str | os.PathLike[str],
    *,
    frames: int = 6,
) -> None:
    """Write a few frames of each clip in a row, the clips of one prompt under each other.

    Args:
        rows: for each row's label its clips, one for each caption: float (frames, channels, height, width) in 0 .. 1.
        captions: one for each clip of a row.
        path: the file to write; PNG without a suffix.
        frames: how many frames of each clip, at least 2: evenly spaced, the first and the last included.
    """
    lines, columns = len(rows) * len(captions), frames
    figure = Figure(figsize=(1.1 * columns + 1.4, 1.1 * lines + 0.4 * len(captions)), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False)
    for k, caption in enumerate(captions):
        for line, (label, clips) in zip(axes[k * len(rows) :], rows.items(), strict=False):
            clip = clips[k]
            shown = [round(i * (len(clip) - 1) / (frames - 1)) for i in range(frames)]
            for axis, frame in zip(line, clip[shown], strict=True):
                _show(axis, frame)
            line[0].set_ylabel(visible(label), fontsize=7, **LITERAL)
        title = axes[k * len(rows)][0].text(0, -3, " ".join(visible(caption).split()), fontsize=8, **LITERAL)
        title.set_in_layout(False)  # it spans all columns, and would widen the first
    room = 0.15 / figure.get_figheight()
    engine: Any = figure.get_layout_engine()
    engine.set(h_pad=0.1, rect=(0, 0, 1, 1 - room))  # space for the captions
    save_figure(figure, path, dpi=110)


def _show(axis: Any, picture: Tensor) -> None:
    axis.imshow(picture.clamp(0, 1).permute(1, 2, 0).numpy(), interpolation="nearest")
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set_visible(False)
