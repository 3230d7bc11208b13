"""The plots of a report."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, median
from typing import Any, Protocol

import numpy as np
from matplotlib.figure import Figure

from ertacache.evaluation.plots import PLAIN, plain_legend
from ertacache.metrics import interval
from ertacache.untrusted_text import visible


class Series(Protocol):
    """What one way to generate measured: a number for each prompt in each list."""

    @property
    def name(self) -> str: ...
    @property
    def speedup(self) -> Sequence[float]: ...
    @property
    def psnr(self) -> Sequence[float]: ...


def quality_against_cost(rows: Sequence[Series]) -> Figure:
    """Mean PSNR over median speedup with 95 % intervals of the mean, the single prompts faint behind it."""
    figure, axis = _axis(6.4, 4.2)
    drawn = {}
    for number, row in enumerate(rows):
        colour = f"C{number}"
        mean, (low, high) = fmean(row.psnr), interval(row.psnr)
        axis.scatter(row.speedup, row.psnr, s=9, color=colour, alpha=0.3, linewidths=0)
        bars = [[mean - low], [high - mean]]
        drawn[row.name] = axis.errorbar([median(row.speedup)], [mean], yerr=bars, fmt="o", color=colour, capsize=4)
    axis.set(xlabel="speedup of denoising, measured", ylabel="PSNR against the full run, dB")
    plain_legend(axis, drawn)
    return figure


def prompt_by_prompt(ours: Series, theirs: Series) -> Figure:
    """Every prompt as a point: PSNR of one way over that of another; above the diagonal the first is nearer."""
    figure, axis = _axis(4.4, 4.2)
    ends = [min(*ours.psnr, *theirs.psnr) - 1, max(*ours.psnr, *theirs.psnr) + 1]
    axis.plot(ends, ends, color="#888888", linewidth=1)
    axis.scatter(theirs.psnr, ours.psnr, s=16, color="C0", alpha=0.8, linewidths=0)
    for k in np.argsort(np.subtract(ours.psnr, theirs.psnr))[: 3 if len(ours.psnr) > 3 else 0]:
        at = theirs.psnr[k], ours.psnr[k]
        axis.annotate(str(k + 1), at, fontsize=7, xytext=(3, -8), textcoords="offset points")
    axis.set_xlabel(f"{visible(theirs.name)}, dB", **PLAIN)
    axis.set_ylabel(f"{visible(ours.name)}, dB", **PLAIN)
    axis.set(xlim=ends, ylim=ends, aspect="equal")
    return figure


def _axis(width: float, height: float) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axis = figure.subplots()
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    return figure, axis
