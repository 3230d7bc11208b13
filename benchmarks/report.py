"""The page about the figures that `benchmarks.compare` measured; it writes the page itself when it is done.

python -m benchmarks.report     # docs/results.md anew from benchmarks/results, nothing measured
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from benchmarks.markdown import Rows, table, with_interval
from benchmarks.rivals.curves import Cost, by_operations, by_time, qualities_at
from benchmarks.rivals.harness import Setting, from_json
from benchmarks.rivals.ours import UNIFORM
from benchmarks.rivals.roster import OURS
from ertacache.evaluation.measuring import Measured
from ertacache.files import written_whole
from ertacache.metrics import interval

SPEEDUPS = (1.5, 2.0, 3.0, 4.0)
LEADS = (1.3, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0)
GRID = tuple(float(x) for x in np.geomspace(1.15, 6, 25))
COSTS: Mapping[str, tuple[Cost, str]] = {
    "time": (by_time, "measured speedup of denoising"),
    "operations": (by_operations, "operations of the full run's denoiser over this one's"),
}


def by_rival(settings: Sequence[Setting]) -> dict[str, list[Measured]]:
    """What each rival's settings measured, in order; the knobs as names."""
    found: dict[str, list[Measured]] = {}
    for setting in settings:
        knobs = ", ".join(f"{name} {value}" for name, value in setting.knobs.items())
        found.setdefault(setting.rival, []).append(replace(setting.measured, name=knobs))
    return found


def quality_rows(rivals: Mapping[str, Sequence[Measured]], cost: Cost) -> Rows:
    """Mean PSNR of each rival at each speedup, the best in bold; "-" where a rival is never that fast."""
    found = {name: [qualities_at(rows, s, cost) for s in SPEEDUPS] for name, rows in rivals.items()}
    cells = {name: [fmean(q) if q else None for q in row] for name, row in found.items()}
    best = [max((v for row in cells.values() if (v := row[k]) is not None), default=None) for k in range(len(SPEEDUPS))]
    lines: list[list[str]] = [["", *(f"{s:g}x" for s in SPEEDUPS)]]
    for name, row in cells.items():
        shown = []
        for value, top in zip(row, best, strict=True):
            text = "-" if value is None else f"{value:.1f}"
            shown.append(f"**{text}**" if value is not None and value == top else text)
        lines.append([name, *shown])
    return lines


def lead_rows(rivals: Mapping[str, Sequence[Measured]], cost: Cost) -> Rows:
    """Ours against the best of all others at each speedup, and by how much, with a 95 % interval over prompts."""
    lines: list[list[str]] = [["", "ours", "the best other", "lead, dB (95 %)"]]
    for speedup in LEADS:
        found = {name: q for name, rows in rivals.items() if (q := qualities_at(rows, speedup, cost)) is not None}
        others = {name: q for name, q in found.items() if name != OURS}
        if OURS not in found or not others:
            lines.append([f"{speedup:g}x", "-", "-", "-"])
            continue
        best = max(others, key=lambda name: fmean(others[name]))
        leads = np.subtract(found[OURS], others[best])
        told = f"{fmean(found[OURS]):.1f}", f"{best}: {fmean(others[best]):.1f}", with_interval(leads.tolist(), "+.1f")
        lines.append([f"{speedup:g}x", *told])
    return lines


def summary_rows(pipelines: Mapping[str, Mapping[str, Sequence[Measured]]], cost: Cost) -> Rows:
    """The lead of ours over the best of all others, a column for each pipeline."""
    columns = {name: lead_rows(rivals, cost) for name, rivals in pipelines.items()}
    return [["", *columns], *([f"{s:g}x", *(c[k][-1] for c in columns.values())] for k, s in enumerate(LEADS, 1))]


def against_uniform(pipelines: Mapping[str, Mapping[str, Sequence[Measured]]]) -> str:
    """For every pipeline, where each rival does best against plain reuse at evenly spaced steps; no straw men."""
    lines: list[list[str]] = [["", *pipelines]]
    names = dict.fromkeys(name for rivals in pipelines.values() for name in rivals if name not in (OURS, UNIFORM.name))
    for name in names:
        cells = []
        for rivals in pipelines.values():
            leads = []
            for speedup in LEADS:
                uniform = qualities_at(rivals[UNIFORM.name], speedup, by_operations) if UNIFORM.name in rivals else None
                its = qualities_at(rivals[name], speedup, by_operations) if name in rivals else None
                if its is not None and uniform is not None:
                    leads.append((np.subtract(its, uniform), speedup))
            if not leads:
                cells.append("-")
                continue
            lead, speedup = max(leads, key=lambda pair: (float(pair[0].mean()), pair[1]))
            text = f"{lead.mean():+.1f} dB at {speedup:g}x"
            cells.append(f"**{text}**" if interval(lead.tolist())[0] > 0 else text)
        lines.append([name, *cells])
    return table(lines)


def costs_table(rivals: Mapping[str, Sequence[Measured]]) -> str:
    """What each rival costs at its setting nearest to 2x: time, the whole call, operations, memory, and quality."""
    named = ("setting", "denoising", "whole call", "operations", "extra memory", "PSNR, 95 %", "SSIM")
    lines: list[list[str]] = [["nearest to 2x", *named]]
    for name, rows in rivals.items():
        row = min(rows, key=lambda row: abs(row.median_speedup - 2))
        lines.append(
            [
                name,
                row.name,
                f"{row.median_speedup:.2f}x",
                f"{median(row.call_speedup):.2f}x",
                f"{1 / median(row.flops):.2f}x",
                f"{row.peak_bytes / 1e6:+.1f} MB",
                with_interval(row.psnr),
                f"{fmean(row.ssim):.4f}",
            ]
        )
    return table(lines)


def figure_of(rivals: Mapping[str, Sequence[Measured]], title: str) -> Figure:
    """Two panels, quality against time and against operations, with 95 % intervals over prompts; ours is thick."""
    figure = Figure(figsize=(13, 5.6), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    colours = colormaps["tab20"]
    for axis, (cost, label) in zip(axes, COSTS.values(), strict=True):
        for number, (name, rows) in enumerate(rivals.items()):
            curve = [(x, q) for x in GRID if (q := qualities_at(rows, x, cost)) is not None]
            if not curve:
                continue
            ours, colour = name == OURS, "black" if name == OURS else colours(number % 20)
            costs, means = [x for x, _ in curve], [fmean(q) for _, q in curve]
            style = {"linewidth": 2.8, "zorder": 3} if ours else {"linewidth": 1.2, "zorder": 2}
            axis.plot(costs, means, label=name, color=colour, linestyle="-" if ours or number < 10 else "--", **style)
            low, high = zip(*(interval(q, resamples=1000) for _, q in curve), strict=True)
            axis.fill_between(costs, low, high, color=colour, alpha=0.25 if ours else 0.06, linewidth=0)
        axis.set(xscale="log", xlim=(1.05, 6.5), ylim=(15, 80), xlabel=label)
        axis.set_xticks([1.5, 2, 3, 4, 5, 6], ["1.5x", "2x", "3x", "4x", "5x", "6x"], minor=False)
        axis.xaxis.set_minor_locator(NullLocator())
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("PSNR against the full run, dB")
    figure.suptitle(title)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    return figure


def when(settings: Sequence[Mapping[str, Any]]) -> str:
    """On which day each rival was measured."""
    days: dict[str, dict[str, None]] = {}
    for row in settings:
        days.setdefault(row["measured_on"], {})[row["rival"]] = None
    if len(days) == 1:
        return f"Measured on {next(iter(days))}, in one run."
    few, *others = sorted(days.items(), key=lambda item: len(item[1]))
    return f"Measured on {few[0]}: {', '.join(few[1])}; on {' and '.join(day for day, _ in others)}: all others."


def section(result: Mapping[str, Any], rivals: Mapping[str, Sequence[Measured]], folder: Path) -> str:
    """One pipeline's part of the page; writes its plot."""
    model = result["model"]
    picture = folder / "images" / f"results-{model}.png"
    steps = result["arguments"]["num_inference_steps"]
    figure_of(rivals, f"{model}: {result['prompts']} held-out prompts, {steps} steps").savefig(picture, dpi=100)
    refused = "".join(f"- {name}: {why}.\n" for name, why in result["refused"].items())
    return f"""## {model}

{result["prompts"]} held-out prompts, {steps} steps in full; {result["machine"]}, torch {result["torch"]}, diffusers \
{result["diffusers"]}. {when(result["settings"])}{"".join(f" {note}" for note in result.get("notes", ()))}

![quality against cost](images/{picture.name})

Mean PSNR in dB at equal measured speedup of denoising:

{table(quality_rows(rivals, by_time))}

At equal operations of the denoiser:

{table(quality_rows(rivals, by_operations))}

`aligned` against the best of all others, at equal operations:

{table(lead_rows(rivals, by_operations))}

and at equal measured speedup of denoising:

{table(lead_rows(rivals, by_time))}

{costs_table(rivals)}
{
        f'''
Not on this pipeline:

{refused}'''
        if refused
        else ""
    }"""


HEAD = """# Results: every rival in one harness

Measured and written by `ertacache benchmark`: all rivals on the same small trained pipelines, held-out prompts, seeds
and latents; the figures are in `benchmarks/results`. Quality is against the full run. Each rival's knob is
swept; on every prompt the PSNR is interpolated between the settings that no other one beats, over the logarithm of the
speedup, and the mean over prompts is shown: so a cache that skips much on one prompt and nothing on the next is not
credited with the latter's perfect picture. "-" means that no setting is that fast. Small pipelines make each denoiser
call cheap, so a cache that intervenes in every block pays more for that in time here than it would in a large one: the
second table leaves time out. `--rival NAME` measures one anew, ours, and fewer steps, beside the others' rows.

"""


IN_SHORT = """## In short

The lead of `aligned` over whatever is best of all others at the same cost, in dB, with its 95 % interval over prompts.
At equal operations of the denoiser:

"""


STRAW = """## No straw men

Where each rival does best against the uniform cache, at equal operations of the denoiser; bold where the 95 % interval
of the lead over prompts is above 0. A rival without a bold cell was checked against its authors' code: the head of its
module in `benchmarks/rivals` says what was run side by side, and what differed. Two are exceptions: the authors of
Delta-DiT have published none, and DBCache is its authors' own package.

"""


def write_page(results: Path, page: Path) -> None:
    """Write the page and its plots, one section for each pipeline that has figures."""
    found = [json.loads(path.read_text()) for path in sorted(results.glob("rivals-*.json"))]
    sources = {name: source for result in found for name, source in result["sources"].items()}
    notes = "## What each one is\n\n" + "".join(f"- {name}: {source}.\n" for name, source in sources.items())
    (page.parent / "images").mkdir(parents=True, exist_ok=True)
    rivals = {result["model"]: by_rival(from_json(result["settings"])) for result in found}
    sections = "\n".join(section(result, rivals[result["model"]], page.parent) for result in found)
    short = f"{table(summary_rows(rivals, by_operations))}\n\nAt equal measured speedup of denoising:\n\n"
    short = f"{IN_SHORT}{short}{table(summary_rows(rivals, by_time))}\n\n"
    body = HEAD + short + sections + "\n" + STRAW + against_uniform(rivals) + "\n\n" + notes
    with written_whole(page) as partial:
        Path(partial).write_text(body)


if __name__ == "__main__":
    write_page(Path("benchmarks/results"), Path("docs/results.md"))
