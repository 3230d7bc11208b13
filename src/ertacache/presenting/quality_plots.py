"""Plots of quality: against cost, and prompt by prompt."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, median
from typing import Any, Protocol

import numpy as np
from matplotlib.figure import Figure

from ertacache.metrics import interval
from ertacache.presenting.plot_style import LITERAL, literal_legend
from ertacache.untrusted_text import visible


class Series(Protocol):
    """What was measured of one way to generate: each list holds one number per prompt."""

    @property
    def name(self) -> str: ...
    @property
    def speedup(self) -> Sequence[float]: ...
    @property
    def psnr(self) -> Sequence[float]: ...


def quality_against_cost(rows: Sequence[Series]) -> Figure:
    """Plot mean PSNR (dB, with 95 % intervals of the mean) over median speedup; single prompts are faint points."""
    figure, axis = _axis(6.4, 4.2)
    drawn = {}
    for number, row in enumerate(rows):
        colour = f"C{number}"
        mean, (low, high) = fmean(row.psnr), interval(row.psnr)
        axis.scatter(row.speedup, row.psnr, s=9, color=colour, alpha=0.3, linewidths=0)
        bars = [[mean - low], [high - mean]]
        drawn[row.name] = axis.errorbar([median(row.speedup)], [mean], yerr=bars, fmt="o", color=colour, capsize=4)
    axis.set(xlabel="speedup of denoising, measured", ylabel="PSNR against the full run, dB")
    literal_legend(axis, drawn)
    return figure


def prompt_by_prompt(ours: Series, theirs: Series) -> Figure:
    """Plot each prompt as a point: PSNR of ``ours`` over that of ``theirs``, in dB.

    Above the diagonal ``ours`` is nearer to the full run. The three prompts where it does worst are numbered, from 1.
    """
    figure, axis = _axis(4.4, 4.2)
    ends = [min(*ours.psnr, *theirs.psnr) - 1, max(*ours.psnr, *theirs.psnr) + 1]
    axis.plot(ends, ends, color="#888888", linewidth=1)
    axis.scatter(theirs.psnr, ours.psnr, s=16, color="C0", alpha=0.8, linewidths=0)
    for k in np.argsort(np.subtract(ours.psnr, theirs.psnr))[: 3 if len(ours.psnr) > 3 else 0]:
        at = theirs.psnr[k], ours.psnr[k]
        axis.annotate(str(k + 1), at, fontsize=7, xytext=(3, -8), textcoords="offset points")
    axis.set_xlabel(f"{visible(theirs.name)}, dB", **LITERAL)
    axis.set_ylabel(f"{visible(ours.name)}, dB", **LITERAL)
    axis.set(xlim=ends, ylim=ends, aspect="equal")
    return figure


def _axis(width: float, height: float) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axis = figure.subplots()
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    return figure, axis
