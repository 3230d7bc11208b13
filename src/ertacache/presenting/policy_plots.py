"""Plots of policies: a schedule with its errors step by step, and a profile's quality at each speed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ertacache.calibration import Profile
from ertacache.metrics import interval
from ertacache.policy import Policy
from ertacache.presenting.plot_style import CACHED, COMPUTED, LITERAL, literal_legend, save_figure

BAND_FROM = 4
"""From so many prompts on, the plot of a policy shows the range between the quartiles too."""


def policy_plot(
    policy: Policy, path: str | os.PathLike[str], measured: Mapping[str, Sequence[Sequence[float]]] | None = None
) -> None:
    """Write what `policy_figure` draws.

    Args:
        policy: the policy.
        path: the file to write; its suffix is one of `ertacache.presenting.plot_style.plot_suffixes`.
        measured: see `policy_figure`.
    """
    save_figure(policy_figure(policy, measured), path, dpi=110)


def policy_figure(policy: Policy, measured: Mapping[str, Sequence[Sequence[float]]] | None = None) -> Figure:
    """Draw the schedule over the steps, and above it the error of the latent after each step.

    Args:
        policy: the policy.
        measured: for each label, one curve per prompt: the relative error of the latent after every step. Without
            it, the curve that calibration measured is drawn.
    """
    figure = Figure(figsize=(7, 4.6), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[5, 1])
    steps = range(policy.first_step, policy.num_inference_steps)
    curves = dict(measured or {})
    if not curves and policy.calibration.step_errors:
        curves = {"calibration prompts": [policy.calibration.step_errors]}
    drawn = {label: _median_curve(top, lines, steps) for label, lines in curves.items()}
    if curves:
        literal_legend(figure, drawn)
        top.set_yscale("log")
    top.set_ylabel("error of the latent, relative")
    for step in policy.computed_steps:
        top.axvline(step, color=COMPUTED, alpha=0.15, linewidth=1)
    top.set_title(
        f"{policy.method.name}: {len(policy.computed_steps)} of {policy.num_made_steps} steps computed",
        fontsize=10,
        **LITERAL,
    )
    cached = set(policy.cached_steps)
    heights = [0.4 if i in cached else 1 for i in steps]
    bottom.bar(steps, heights, width=0.9, color=[CACHED if i in cached else COMPUTED for i in steps])
    bottom.set_yticks([])
    bottom.set_xlabel("step (tall: computed, short: cached)")
    for axis in (top, bottom):
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def _median_curve(axis: Any, lines: Sequence[Sequence[float]], steps: Sequence[int]) -> Any:
    """Draw the median over prompts; from `BAND_FROM` prompts on also a band between the quartiles."""
    columns = [sorted(column) for column in zip(*lines, strict=True)]
    count = len(lines)
    drawn = axis.plot(steps, [column[count // 2] for column in columns], marker=".", markersize=4)[0]
    if count >= BAND_FROM:
        low = [column[count // 4] for column in columns]
        high = [column[(3 * count) // 4] for column in columns]
        axis.fill_between(steps, low, high, alpha=0.15, color=drawn.get_color(), linewidth=0)
    return drawn


def frontier_plot(profile: Profile, path: str | os.PathLike[str]) -> None:
    """Plot a profile's quality over its speed: mean PSNR with 95 % intervals over the step ratio.

    Policies off the frontier are drawn as hollow points.

    Args:
        profile: the profile.
        path: the file to write; its suffix is one of `ertacache.presenting.plot_style.plot_suffixes`.
    """
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
    save_figure(figure, path, dpi=130)
