"""What the page says of Figures 2 to 6: sentences that follow from their numbers."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import numpy as np

from benchmarks.markdown import table, with_interval
from benchmarks.paper import distances
from benchmarks.paper.tables import AGAINST_TIME
from benchmarks.paper.wording import Result, best_first, gain
from ertacache.metrics import interval

NEAR = 0.5
"""dB within which Figure 5 takes two calibration sets for equally good."""
UNLIKE = 0.5
"""The cosine under which Figure 6 takes the errors of two prompts for errors of different structure."""


def distance(result: Result) -> str:
    """Figure 2a."""
    measured, predicted = result["measured"], result["predicted"]
    spreads = [100 * distances.consistency(curves) for curves in (measured, predicted)]
    early, late = (100 * miss for miss in distances.misses(measured, predicted))
    means = np.mean(measured, axis=0)
    return (
        f"Over {len(measured)} prompts the mean measured distance of a step is from {means.min():.3f} to "
        f"{means.max():.3f}, and prompts differ by {spreads[0]:.0f} % of it; TeaCache's predictions differ by "
        f"{spreads[1]:.0f} %, {'less' if spreads[1] < spreads[0] else 'not less'} than what they predict. Their mean "
        f"is off by {early:.0f} % in the first third of the steps and by {late:.0f} % in the last: it "
        f"{'diverges towards the end, as the paper says' if late > early else 'does not diverge towards the end'}. The "
        "polynomial was fitted to these weights, by the recipe of TeaCache's authors."
    )


def trajectory(result: Result) -> str:
    """Figure 2b."""
    ends = {name: 100 * curve[-1] for name, curve in result["distances"].items()}
    order = ", ".join(f"`{name}` {ends[name]:.1f} %" for name in sorted(ends, key=lambda name: ends[name]))
    nearer = ends["offline+time"] < ends["offline"]
    said = "nearer to the full run, as the paper says." if nearer else f"farther from the full run. {AGAINST_TIME}"
    return (
        f"“{result['prompt']}”: the final latent is off by, nearest first, {order}. With the timestep adjustment it "
        f"ends {said} On an adjusted grid the distance is to the full trajectory at the same noise level, between two "
        "of its steps."
    )


def pictures(result: Result) -> str:
    """Figures 3 and 4."""
    rows = [[name, *(f"{value:.1f}" for value in values)] for name, values in result["psnr"].items()]
    shown = table([["PSNR, dB", *result["prompts_shown"]], *rows])
    return f"{shown}\n\nNearest to the full run first, dB: {best_first(result['psnr'])}; near {result['speedup']:g}x."


def sensitivity(result: Result) -> str:
    """Figure 5."""
    sentences = []
    for method in dict.fromkeys(row["method"] for row in result["rows"]):
        rows = [row for row in result["rows"] if row["method"] == method]
        change = gain(rows[-1], rows[0])
        low, high = interval(change)
        told = "a gain" if low > 0 else "a loss" if high < 0 else "no difference that these prompts can tell"
        sentences += [
            f"`{method}` has {fmean(rows[0]['psnr']):.1f} dB with {rows[0]['size']} calibration prompts and "
            f"{fmean(rows[-1]['psnr']):.1f} with {rows[-1]['size']}, {with_interval(change, '+.2f')} more: {told}.",
            f"From {stable_from(rows)} on its mean stays within {NEAR:g} dB of the last.",
        ]
    most = max(row["size"] for row in result["rows"])
    if result["distinct"] < most:
        sentences.append(
            f"Of the {most} prompts {result['distinct']} are distinct; the others repeat with other seeds."
        )
    return " ".join(sentences)


def stable_from(rows: Sequence[Result]) -> int:
    """The least size from which on the mean PSNR stays within `NEAR` of that of the largest set."""
    last = fmean(rows[-1]["psnr"])
    near = [abs(fmean(row["psnr"]) - last) <= NEAR for row in rows]
    return int(next(row["size"] for k, row in enumerate(rows) if all(near[k:])))


def error_map(result: Result) -> str:
    """Figure 6."""
    own = result["likeness"] < UNLIKE
    said = "each has a structure of its own, as the paper says" if own else "they share much of their structure"
    share = 100 * result["explained"]
    change = f"take {share:.0f} %" if share >= 0 else f"take nothing ({share:.0f} %)"
    return (
        f"The error of step {result['step']}, had it reused the residual of step {result['cached_at']}. The mean "
        f"cosine between the errors of two prompts is {result['likeness']:.2f}: {said}. K and B of each channel, "
        f"fitted on half of the prompts, {change} of the squared error of the other half away."
    )
