"""The pictures that a person looks at: generations side by side, and what a policy does step by step."""

from __future__ import annotations

import io
import os
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from ertacache.calibration import Profile
from ertacache.files import written_whole
from ertacache.metrics import interval
from ertacache.policy import Policy
from ertacache.untrusted_text import visible

COMPUTED, CACHED = "#1f4e79", "#d9e2ec"
PLAIN: dict[str, Any] = {"parse_math": False, "usetex": False}
"""How matplotlib takes a text of others as it is: a prompt may have dollar signs in it."""


def plot_suffixes() -> tuple[str, ...]:
    """The endings of files that plots can be written to."""
    others = set(Figure().canvas.get_supported_filetypes()) - {"png"}
    return (".png", *sorted(f".{kind}" for kind in others))


def picture_suffixes() -> tuple[str, ...]:
    """The endings of files that `write_pictures` can write: what Pillow finds an encoder for."""
    Image.init()
    others = {suffix for suffix in Image.registered_extensions() if _encodes(suffix)} - {".png"}
    return (".png", *sorted(others))


def _encodes(suffix: str) -> bool:
    kind = Image.registered_extensions()[suffix]
    try:
        with warnings.catch_warnings(action="ignore"):  # some are on their way out
            Image.new("RGB", (16, 16)).save(io.BytesIO(), kind)
    except (OSError, ValueError, KeyError):
        return False
    return True


def write_pictures(pictures: Sequence[Tensor], path: str | os.PathLike[str]) -> None:
    """Pictures, mostly one, side by side in one file, in the format of its ending.

    Args:
        pictures: each float (3, height, width) in 0 .. 1.
        path: where to write; its ending is one of `picture_suffixes`.
    """
    kind = Image.registered_extensions()[Path(path).suffix.lower()]
    pixels = pixels_of(torch.cat(list(pictures), dim=-1))
    with written_whole(Path(path)) as unfinished:
        Image.fromarray(pixels.numpy()).save(unfinished, kind)


def _write(figure: Figure, path: str | os.PathLike[str], dpi: int) -> None:
    with written_whole(Path(path)) as unfinished:
        figure.savefig(unfinished, dpi=dpi, format=Path(path).suffix[1:].lower() or "png")


def side_by_side(rows: Mapping[str, Sequence[Tensor]], captions: Sequence[str], path: str | os.PathLike[str]) -> None:
    """One row of pictures for each name, one column for each caption, written as PNG.

    Args:
        rows: for each row's label, its pictures, float (channels, height, width) in 0 .. 1.
        captions: one for each column.
        path: where to write.
    """
    columns = len(captions)
    figure = Figure(figsize=(1.75 * columns + 1.1, 1.75 * len(rows) + 0.8), layout="constrained")
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for line, (label, pictures) in zip(axes, rows.items(), strict=True):
        for axis, picture in zip(line, pictures, strict=True):
            _picture(axis, picture)
        line[0].set_ylabel(visible(label), fontsize=9, **PLAIN)
    for axis, caption in zip(axes[0], captions, strict=True):
        axis.set_title(textwrap.fill(visible(caption), 24, max_lines=8), fontsize=7, **PLAIN)
    _write(figure, path, dpi=110)


def contact_sheet(
    rows: Mapping[str, Sequence[Tensor]],
    captions: Sequence[str],
    path: str | os.PathLike[str],
    *,
    frames: int = 6,
) -> None:
    """For each caption its clips one under the other, a few frames of each in a row, written as PNG.

    Args:
        rows: for each row's label, its clips, float (frames, channels, height, width) in 0 .. 1, one a caption.
        captions: one for each clip of a row.
        path: where to write.
        frames: how many frames of each clip, evenly spaced, the first and the last among them.
    """
    lines, columns = len(rows) * len(captions), frames
    figure = Figure(figsize=(1.1 * columns + 1.4, 1.1 * lines + 0.4 * len(captions)), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False)
    for k, caption in enumerate(captions):
        for line, (label, clips) in zip(axes[k * len(rows) :], rows.items(), strict=False):
            clip = clips[k]
            shown = [round(i * (len(clip) - 1) / (frames - 1)) for i in range(frames)]
            for axis, frame in zip(line, clip[shown], strict=True):
                _picture(axis, frame)
            line[0].set_ylabel(visible(label), fontsize=7, **PLAIN)
        title = axes[k * len(rows)][0].text(0, -3, " ".join(visible(caption).split()), fontsize=8, **PLAIN)
        title.set_in_layout(False)  # it runs over all columns, and would widen the first
    room = 0.15 / figure.get_figheight()
    engine: Any = figure.get_layout_engine()
    engine.set(h_pad=0.1, rect=(0, 0, 1, 1 - room))  # for the captions
    _write(figure, path, dpi=110)


def write_clip(
    rows: Mapping[str, Sequence[Tensor]], path: str | os.PathLike[str], *, fps: int = 8, enlarge: int | None = None
) -> None:
    """All clips in one film that plays in step: a row for each label, a column for each clip, written as MP4.

    Args:
        rows: for each row's label, its clips, float (frames, channels, height, width) in 0 .. 1.
        path: where to write.
        fps: frames a second.
        enlarge: how many pixels wide a pixel becomes; by default as many as make a clip 192 pixels wide, at least 1.
    """
    film = torch.cat([torch.cat(list(clips), dim=-1) for clips in rows.values()], dim=-2)
    enlarge = enlarge or max(1, 192 // next(iter(rows.values()))[0].shape[-1])
    encoded = mp4(pixels_of(film, enlarge), fps)
    with written_whole(Path(path)) as unfinished:
        Path(unfinished).write_bytes(encoded)


def pixels_of(picture: Tensor, enlarge: int = 1) -> Tensor:
    """A picture or clip as files want it: uint8, (..., height, width, channels), each pixel ``enlarge`` pixels wide.

    Args:
        picture: float (..., channels, height, width) in 0 .. 1; what lies outside is clipped.
        enlarge: a whole number.
    """
    pixels = (picture.clamp(0, 1) * 255).round().byte().movedim(-3, -1)
    return pixels.repeat_interleave(enlarge, dim=-3).repeat_interleave(enlarge, dim=-2).contiguous()


def mp4(pixels: Any, fps: int, **settings: Any) -> bytes:
    """A clip as MP4 (H.264).

    Args:
        pixels: uint8 (frames, height, width, 3), tensor or array; of odd sides, what H.264 cannot hold is scaled.
        fps: frames a second.
        settings: of imageio's FFMPEG writer, such as ``quality``.
    """
    import imageio.v3 as imageio

    settings = {"codec": "libx264", "macro_block_size": 2, **settings}
    encoded = imageio.imwrite("<bytes>", np.asarray(pixels), extension=".mp4", fps=fps, **settings)
    assert isinstance(encoded, bytes)  # it is None where imageio writes to a file
    return encoded


def _picture(axis: Any, picture: Tensor) -> None:
    axis.imshow(picture.clamp(0, 1).permute(1, 2, 0).numpy(), interpolation="nearest")
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set_visible(False)


def policy_plot(
    policy: Policy, path: str | os.PathLike[str], measured: Mapping[str, Sequence[Sequence[float]]] | None = None
) -> None:
    """`policy_figure`, written as PNG."""
    _write(policy_figure(policy, measured), path, dpi=110)


def policy_figure(policy: Policy, measured: Mapping[str, Sequence[Sequence[float]]] | None = None) -> Figure:
    """The schedule over the steps, and the error of the latent after each.

    Args:
        policy: the policy.
        measured: for each label, one curve a prompt: the relative error of the latent after every step. Without
            it, the curve that calibration measured is drawn.
    """
    figure = Figure(figsize=(8, 4.6), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[5, 1])
    steps = range(policy.first_step, policy.num_inference_steps)
    curves = dict(measured or {})
    if not curves and policy.calibration.step_errors:
        curves = {"calibration prompts": [policy.calibration.step_errors]}
    drawn = {label: _curve(top, lines, steps) for label, lines in curves.items()}
    if curves:
        plain_legend(top, drawn)
        top.set_yscale("log")
    top.set_ylabel("error of the latent, relative")
    for step in policy.computed_steps:
        top.axvline(step, color=COMPUTED, alpha=0.15, linewidth=1)
    top.set_title(
        f"{policy.method.name}: {len(policy.computed_steps)} of {policy.num_made_steps} steps computed",
        fontsize=10,
        **PLAIN,
    )
    cached = set(policy.cached_steps)
    bottom.bar(steps, [1] * len(steps), width=0.9, color=[CACHED if i in cached else COMPUTED for i in steps])
    bottom.set_yticks([])
    bottom.set_xlabel("step (dark: computed, light: cached)")
    for axis in (top, bottom):
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def frontier_plot(profile: Profile, path: str | os.PathLike[str]) -> None:
    """What quality is to be expected at what speed: a profile's mean PSNR with its 95 % interval, written as PNG."""
    policies = profile.policies
    ratios = [policy.step_ratio for policy in policies]
    means = np.array([np.mean(policy.calibration.psnr) for policy in policies])
    bounds = np.array([interval(policy.calibration.psnr) for policy in policies])
    best = {len(policy.computed_steps) for policy in profile.frontier()}
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axis = figure.subplots()
    axis.errorbar(ratios, means, yerr=np.abs(bounds.T - means), color=COMPUTED, capsize=3, marker="o", markersize=4)
    for policy, ratio, mean in zip(policies, ratios, means, strict=True):
        if len(policy.computed_steps) not in best:
            axis.plot(ratio, mean, "o", color="white", markeredgecolor=COMPUTED, zorder=3)
    axis.set_xlabel("step ratio")
    axis.set_ylabel("PSNR against the full run, dB")
    above = axis.secondary_xaxis("top")
    above.set_xticks(ratios, [str(len(policy.computed_steps)) for policy in policies], fontsize=7)
    above.set_xlabel("steps computed", fontsize=8)
    axis.grid(alpha=0.3)
    _write(figure, path, dpi=130)


def plain_legend(axis: Any, drawn: Mapping[str, Any]) -> None:
    """A legend that takes its labels as they are.

    Args:
        axis: of matplotlib.
        drawn: for each label, what it is about.
    """
    legend = axis.legend(list(drawn.values()), [str(k) for k in range(len(drawn))], frameon=False, fontsize=8)
    for text, label in zip(legend.get_texts(), drawn, strict=True):  # of labels given above, those with _ are left out
        text.set(text=visible(label), **PLAIN)


def _curve(axis: Any, lines: Sequence[Sequence[float]], steps: Sequence[int]) -> Any:
    """The median over prompts, and the range between the quartiles where there are at least four prompts."""
    columns = [sorted(column) for column in zip(*lines, strict=True)]
    count = len(lines)
    drawn = axis.plot(steps, [column[count // 2] for column in columns], marker=".", markersize=4)[0]
    if count >= 4:
        low = [column[count // 4] for column in columns]
        high = [column[(3 * count) // 4] for column in columns]
        axis.fill_between(steps, low, high, alpha=0.15, color=drawn.get_color(), linewidth=0)
    return drawn
