"""Figures 2a, 2b, 5 and 6, drawn from what was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.paper.wording import Result
from ertacache.metrics import interval

_EXACT = 1e-6
"""Distances under it are rounding errors, and are not drawn."""


def distance(result: Result, path: Path) -> None:
    """Figure 2a: means over prompts, and one standard deviation to either side."""
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axis = figure.subplots()
    labels = {
        "measured": "measured, denoiser's output",
        "predicted": "predicted by TeaCache",
        "residual": "measured, residual (Eq. 12)",
    }
    for name, label in labels.items():
        mean, spread = np.mean(result[name], axis=0), np.std(result[name], axis=0)
        (line,) = axis.plot(result["steps"], mean, marker=".", label=label)
        axis.fill_between(result["steps"], mean - spread, mean + spread, alpha=0.2, color=line.get_color(), linewidth=0)
    axis.set(xlabel="step", ylabel="relative L1 distance to the step before", yscale="log")
    _finish(figure, [axis], path, f"{result['model']}: {len(result['measured'])} prompts")


def trajectory(result: Result, path: Path) -> None:
    """Figure 2b: the plane of the trajectories, and the distance to the full one."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, points in result["projected"].items():
        style = {"color": "black", "linewidth": 2} if name == "full" else {"linewidth": 1.2}
        left.plot(*np.transpose(points), marker=".", label=name, **style)
    for name, curve in result["distances"].items():
        off = [(x, y) for x, y in zip(result["positions"][name], curve, strict=True) if y > _EXACT]
        right.plot(*np.transpose(off), marker=".", label=name)
    left.set(xlabel="first principal direction of the latents", ylabel="second")
    right.set(xlabel="step of the full run's grid", ylabel="relative distance to the full run", yscale="log")
    _finish(figure, [left, right], path, f"{result['model']}: {result['prompt']}")


def sensitivity(result: Result, path: Path) -> None:
    """Figure 5: held-out PSNR and SSIM with 95 % intervals."""
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    axes = figure.subplots(1, 2)
    methods = dict.fromkeys(row["method"] for row in result["rows"])
    for axis, metric in zip(axes, ("psnr", "ssim"), strict=True):
        for method in methods:
            rows = [row for row in result["rows"] if row["method"] == method]
            means = [float(np.mean(row[metric])) for row in rows]
            bars = np.abs(np.transpose([interval(row[metric]) for row in rows]) - np.array(means))
            axis.errorbar([row["size"] for row in rows], means, bars, marker="o", capsize=3, label=method)
        axis.set(xscale="log", xlabel="calibration prompts", ylabel=metric.upper())
    _finish(figure, list(axes), path, f"{result['model']}: {len(result['rows'][0]['psnr'])} held-out prompts")


def error_map(result: Result, path: Path) -> None:
    """Figure 6: a row for each prompt, a column for each channel, one scale for all."""
    maps = np.asarray(result["maps"])
    rows, columns = maps.shape[:2]
    figure = Figure(figsize=(2.1 * columns + 1, 2.1 * rows + 0.6), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    limit = float(np.abs(maps).max())
    for line, prompt, caption in zip(axes, maps, result["prompts_shown"], strict=True):
        for number, (axis, channel) in enumerate(zip(line, prompt, strict=True)):
            shown = axis.imshow(channel, cmap="RdBu_r", vmin=-limit, vmax=limit)
            axis.set(xticks=[], yticks=[])
            axis.set_title(f"channel {number}" if axis in axes[0] else "", fontsize=8)
        line[0].set_ylabel(caption[:28], fontsize=6)
    figure.colorbar(shown, ax=axes)
    _finish(figure, [], path, f"{result['model']}: cache error at step {result['step']}")


def _finish(figure: Figure, axes: list[Any], path: Path, title: str) -> None:
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    if axes:
        axes[0].legend(frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
