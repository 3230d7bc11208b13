"""Plots of quality: against cost, and prompt by prompt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import fmean
from typing import Any, Protocol

import numpy as np
from matplotlib.figure import Figure

from ertacache.metrics import interval
from ertacache.presenting.plot_style import LITERAL, literal_legend
from ertacache.presenting.ways import Way
from ertacache.untrusted_text import visible

MARKERS = "os^Dv"
"""The policy's own marker, and those of the ways that are compared with it."""


class Series(Protocol):
    """What was measured of one way to generate: PSNR, one number per prompt."""

    @property
    def name(self) -> str: ...
    @property
    def psnr(self) -> Sequence[float]: ...


def quality_against_cost(ways: Sequence[Way]) -> Figure:
    """Plot mean PSNR (dB, with 95 % intervals of the mean) over the step ratio; single prompts are faint points.

    A policy and the ways beside it have one colour, and stand side by side where they would cover each other.
    """
    figure, axis = _axis(6.0, 4.4)
    drawn: dict[str, Any] = {}
    policies = [way.name for way in ways if not way.beside]
    seen: Counter[str] = Counter()
    for way in ways:
        policy = way.beside or way.name
        colour, at = f"C{policies.index(policy)}", way.step_ratio * (1 + 0.015 * seen[policy])
        style = {"marker": MARKERS[seen[policy] % len(MARKERS)], "color": colour}
        mean, (low, high) = fmean(way.psnr), interval(way.psnr)
        axis.scatter([at] * len(way.psnr), way.psnr, s=9, alpha=0.3, linewidths=0, **style)
        bars = [[mean - low], [high - mean]]
        drawn[way.name] = axis.errorbar([at], [mean], yerr=bars, linestyle="none", capsize=4, **style)
        seen[policy] += 1
    axis.set(xlabel="step ratio: all steps over computed ones", ylabel="PSNR against the full run, dB")
    ratios = sorted({way.step_ratio for way in ways})
    axis.set(xlim=(0.85 * ratios[0], 1.2 * ratios[-1]), xticks=ratios, xticklabels=[f"{at:.3g}x" for at in ratios])
    literal_legend(figure, drawn)
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
