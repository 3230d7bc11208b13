"""Figures 2 to 6 on the page: one table of numbers for each, with a row for each pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import numpy as np

from benchmarks.markdown import table, with_interval
from benchmarks.paper import distances
from benchmarks.paper.tables import AGAINST_TIME
from benchmarks.paper.wording import Result, filled, gain, held
from ertacache.metrics import interval

NEAR = 0.5
"""dB within which Figure 5 takes two calibration sets for equally good."""
UNLIKE = 0.5
"""The cosine under which Figure 6 takes the errors of two prompts for errors of different structure."""


def diverges(result: Result) -> bool:
    """Figure 2a: whether TeaCache's prediction is further off in the last third of the steps than in the first."""
    early, late = distances.misses(result["measured"], result["predicted"])
    return late > early


def distance(results: Sequence[Result]) -> str:
    """Figure 2a."""
    rows = [["", "prompts", "distance of a step", "prompts differ by", "predictions differ by"]]
    rows[0] += ["prediction off, first third", "last third", "verdict"]
    for result in results:
        measured, predicted = result["measured"], result["predicted"]
        means = np.mean(measured, axis=0)
        row = [result["model"], str(len(measured)), f"{means.min():.3f} to {means.max():.3f}"]
        row += [f"{100 * distances.consistency(curves):.0f} %" for curves in (measured, predicted)]
        row += [f"{100 * miss:.0f} %" for miss in distances.misses(measured, predicted)]
        rows.append([*row, held(diverges(result))])
    about = (
        "*Distance* is the relative distance of a step's output from the one before, averaged over prompts; *differ "
        "by* is the standard deviation over prompts, relative to the mean. TeaCache's polynomial was fitted to these "
        "weights by its authors' recipe. The verdict says whether the prediction is further off in the last third than "
        "in the first."
    )
    return f"{filled(about)}\n\n{table(rows)}"


def comes_nearer(result: Result) -> bool:
    """Figure 2b: whether the run ends nearer to the full one with the timestep adjustment than without."""
    ends = {name: curve[-1] for name, curve in result["distances"].items()}
    return bool(ends["offline+time"] < ends["offline"])


def trajectory(results: Sequence[Result]) -> str:
    """Figure 2b."""
    names = list(results[0]["distances"])
    rows = [["final latent off by", "prompt", *(f"`{name}`" for name in names), "verdict"]]
    for result in results:
        ends = [f"{100 * result['distances'][name][-1]:.1f} %" for name in names]
        rows.append([result["model"], result["prompt"], *ends, held(comes_nearer(result))])
    why = "" if all(comes_nearer(result) for result in results) else f"{AGAINST_TIME}\n\n"
    about = (
        "The verdict says whether the adjustment brings the final latent nearer to the full run's. On an adjusted "
        "grid, the distance is to the full trajectory interpolated at the same noise level."
    )
    return f"{table(rows)}\n\n{why}{filled(about)}"


def pictures(result: Result) -> str:
    """Figures 3 and 4."""
    rows = [["PSNR, dB", *result["prompts_shown"], "mean"]]
    best = max(fmean(values) for values in result["psnr"].values())
    for name, values in result["psnr"].items():
        mean = f"{fmean(values):.1f}"
        rows.append([name, *(f"{value:.1f}" for value in values), f"**{mean}**" if fmean(values) == best else mean])
    return f"Near {result['speedup']:g}x:\n\n{table(rows)}"


def sensitivity(results: Sequence[Result]) -> str:
    """Figure 5."""
    rows = [["PSNR", "method", "fewest prompts", "most prompts", "gain, dB (95 %)", "verdict"]]
    rows[0].append(f"within {NEAR:g} dB of the last from")
    notes: dict[str, None] = {}
    for result in results:
        for method in dict.fromkeys(row["method"] for row in result["rows"]):
            found = [row for row in result["rows"] if row["method"] == method]
            change = gain(found[-1], found[0])
            low, high = interval(change)
            told = "a gain" if low > 0 else "a loss" if high < 0 else "no significant difference"
            ends = [f"{fmean(row['psnr']):.1f} dB with {row['size']}" for row in (found[0], found[-1])]
            more = [with_interval(change, "+.2f"), told, f"{stable_from(found)} prompts"]
            rows.append([result["model"], f"`{method}`", *ends, *more])
        most = max(row["size"] for row in result["rows"])
        if result["distinct"] < most:
            note = f"Of the {most} prompts {result['distinct']} are distinct; the others repeat with other seeds."
            notes[note] = None
    return "\n\n".join([table(rows), *notes])


def stable_from(rows: Sequence[Result]) -> int:
    """The least size from which on the mean PSNR stays within `NEAR` of that of the largest set."""
    last = fmean(rows[-1]["psnr"])
    near = [abs(fmean(row["psnr"]) - last) <= NEAR for row in rows]
    return int(next(row["size"] for k, row in enumerate(rows) if all(near[k:])))


def differs(result: Result) -> bool:
    """Figure 6: whether each prompt's error has a structure of its own."""
    return bool(result["likeness"] < UNLIKE)


def error_map(results: Sequence[Result]) -> str:
    """Figure 6."""
    rows = [["", "cached step", "reuses step", "mean cosine between two prompts' errors", "verdict", "K and B remove"]]
    for result in results:
        share = 100 * result["explained"]
        removed = f"{share:.0f} %" if share >= 0 else f"nothing ({share:.0f} %)"
        row = [result["model"], str(result["step"]), str(result["cached_at"]), f"{result['likeness']:.2f}"]
        rows.append([*row, held(differs(result)), removed])
    about = (
        "The error of one cached step that reuses an earlier residual. K and B were fitted for each channel on half of "
        "the prompts; the last column is the share of the squared error that they remove on the other half."
    )
    return f"{filled(about)}\n\n{table(rows)}"
