"""Writes docs/records/results.md from the figures of `benchmarks.compare`, which also calls it when it is done.

python -m benchmarks.report     # write the page again from benchmarks/results; measures nothing
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
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
from benchmarks.rivals.ours import CALIBRATION_PROMPTS, UNIFORM
from benchmarks.rivals.roster import OURS
from ertacache.evaluation.harness import Measured
from ertacache.files import written_whole
from ertacache.metrics import interval

SPEEDUPS = (1.5, 2.0, 3.0, 4.0)
LEADS = (1.3, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0)
GRID = tuple(float(x) for x in np.geomspace(1.15, 6, 25))
COSTS: Mapping[str, tuple[Cost, str]] = {
    "time": (by_time, "measured speedup of denoising"),
    "operations": (by_operations, "operations of the full run's denoiser over this one's"),
}


Rivals = Mapping[str, Sequence[Measured]]
"""What was measured on one pipeline: for each rival, its settings."""


def by_rival(settings: Sequence[Setting]) -> dict[str, list[Measured]]:
    """The measured settings of each rival, from mild to strong, each named by its knobs."""
    found: dict[str, list[Measured]] = {}
    for setting in settings:
        knobs = ", ".join(f"{name} {value}" for name, value in setting.knobs.items())
        found.setdefault(setting.rival, []).append(replace(setting.measured, name=knobs))
    return found


def quality_rows(rivals: Rivals, cost: Cost) -> Rows:
    """Mean PSNR of each rival at each speedup, the best in bold; "-" where no setting of a rival is that fast."""
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


@dataclass(frozen=True)
class Lead:
    """Ours against the best of all others at equal cost.

    Args:
        ours: our PSNR in dB, one value for each prompt.
        other: the rival with the highest mean PSNR among all others.
        theirs: its PSNR in dB, one value for each prompt.
    """

    ours: Sequence[float]
    other: str
    theirs: Sequence[float]

    @property
    def values(self) -> list[float]:
        """The lead in dB, one value for each prompt."""
        return [float(x) for x in np.subtract(self.ours, self.theirs)]


def lead_at(rivals: Rivals, speedup: float, cost: Cost) -> Lead | None:
    """The lead at one speedup; None where ours, or every other rival, has no setting that fast."""
    found = {name: q for name, rows in rivals.items() if (q := qualities_at(rows, speedup, cost)) is not None}
    others = {name: q for name, q in found.items() if name != OURS}
    if OURS not in found or not others:
        return None
    best = max(others, key=lambda name: fmean(others[name]))
    return Lead(found[OURS], best, others[best])


def lead_rows(rivals: Rivals, cost: Cost) -> Rows:
    """Ours against the best of all others at each speedup, and the lead with its 95 % interval over prompts."""
    lines: list[list[str]] = [["", "ours", "the best other", "lead, dB (95 %)"]]
    for speedup in LEADS:
        cells = ["-", "-", "-"]
        if lead := lead_at(rivals, speedup, cost):
            other = f"{lead.other}: {fmean(lead.theirs):.1f}"
            cells = [f"{fmean(lead.ours):.1f}", other, with_interval(lead.values, "+.1f")]
        lines.append([f"{speedup:g}x", *cells])
    return lines


def conclusion(pipelines: Mapping[str, Rivals]) -> str:
    """In how many comparisons at equal cost ours is ahead, and in how many that is more than chance."""
    costs = [cost for cost, _ in COSTS.values()]
    found = [lead_at(rivals, s, cost) for rivals in pipelines.values() for s in LEADS for cost in costs]
    leads = [lead.values for lead in found if lead]
    ahead, clear = sum(fmean(lead) > 0 for lead in leads), sum(interval(lead)[0] > 0 for lead in leads)
    return (
        f"**`aligned` is closest to the full run in {ahead} of {len(leads)} comparisons at equal cost; in {clear} the "
        "95 % interval of its lead over the best other is above 0.**"
    )


def side_by_side(rows_of: Callable[[Rivals, Cost], Rows], rivals: Rivals) -> Rows:
    """The same table by operations and, to its right, by measured speedup."""
    left, right = rows_of(rivals, by_operations), rows_of(rivals, by_time)
    (name, first, *rest), (_, second, *others) = left[0], right[0]
    head = [name, f"operations: {first}", *rest, f"measured speedup: {second}", *others]
    return [head, *([*row, *other[1:]] for row, other in zip(left[1:], right[1:], strict=True))]


def summary_rows(pipelines: Mapping[str, Rivals], cost: Cost) -> Rows:
    """Our lead over the best of all others, with a column for each pipeline."""
    columns = {name: lead_rows(rivals, cost) for name, rivals in pipelines.items()}
    return [["", *columns], *([f"{s:g}x", *(c[k][-1] for c in columns.values())] for k, s in enumerate(LEADS, 1))]


def against_uniform(pipelines: Mapping[str, Rivals]) -> str:
    """For every pipeline, the speedup at which each rival does best against a uniform cache, and its lead there."""
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


def costs_table(rivals: Rivals) -> str:
    """Each rival's setting nearest to 2x: its speedups, operations, memory and quality."""
    named = ("setting", "denoising", "whole call", "operations", "extra memory", "PSNR, 95 %", "SSIM")
    lines: list[list[str]] = [["", *named]]
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


def figure_of(rivals: Rivals, title: str) -> Figure:
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
    """The day on which each rival was measured."""
    days: dict[str, dict[str, None]] = {}
    for row in settings:
        days.setdefault(row["measured_on"], {})[row["rival"]] = None
    if len(days) == 1:
        return f"Measured on {next(iter(days))}, in one run."
    (day, few), *others = sorted(days.items(), key=lambda item: len(item[1]))
    names = ", ".join(f"*{name}*" for name in few)
    return f"Measured on {day}: {names}; on {' and '.join(day for day, _ in others)}: all others."


def section(result: Mapping[str, Any], rivals: Rivals, folder: Path) -> str:
    """One pipeline's part of the page; writes its plot."""
    model, steps = result["model"], result["arguments"]["num_inference_steps"]
    picture = folder / "images" / f"results-{model}.png"
    figure_of(rivals, f"{model}: {result['prompts']} held-out prompts, {steps} steps").savefig(picture, dpi=100)
    measured = "\n".join([when(result["settings"]), *result.get("notes", ())])
    refused = "".join(f"- {name}: {why}.\n" for name, why in result["refused"].items())
    return f"""## {model}

{measured}

![quality against cost](images/{picture.name})

Mean PSNR in dB at equal cost:

{table(side_by_side(quality_rows, rivals))}

`aligned` and the best other:

{table(side_by_side(lead_rows, rivals))}

Each rival at the setting whose measured speedup is nearest to 2x:

{costs_table(rivals)}
""" + (f"\nDoes not run here:\n\n{refused}" if refused else "")


HEAD = """# Results: all rivals in one harness

"""


METHOD = f"""
All figures are from small pipelines that this project trained: pictures of 96 x 96 pixels, clips of 48 x 48
([pipelines.md](pipelines.md)). None is from published weights.

- **Quality** is PSNR against the full run, on the same held-out prompts and seeds for all rivals.
- **Cost** is counted twice: as the full run's denoiser *operations* over the rival's, and as *measured speedup* of
  denoising. Calls of these small denoisers are cheap, so a cache that intervenes in every block loses more time here
  than in a large model; operations leave that out.
- **Equal cost.** Each rival is measured at many settings of its knobs. For each prompt separately, its Pareto-best
  settings are kept (no other one is both faster and better), and PSNR is interpolated between them at the target
  speedup, over the logarithm of the speedup. Then these values are averaged over prompts. Settings that skip nothing
  on a prompt are left out there, so prompts that were not sped up cannot inflate the mean. "-": no setting is that
  fast.
- **Calibration.** Our own policies are calibrated on {CALIBRATION_PROMPTS} other prompts. Other pages use other numbers
  of prompts, at a number of steps in place of an interpolated speedup, so the same method has other figures there.

`ertacache benchmark` measures all of it again and writes this page; `--rival NAME` measures one rival, `aligned` and
fewer steps, and keeps the others' rows. The raw figures are in `benchmarks/results`.

"""


IN_SHORT = """
## Lead over the best other

Mean lead of `aligned` over the best of all others, in dB, with its 95 % interval over prompts. At equal operations:

"""


UNIFORM_CHECK = """## Are the rivals set up well?

A rival that never beats a uniform cache (evenly spaced steps, last output reused) might be set up badly. The table
shows where each does best against it, at equal operations; bold where the 95 % interval of the lead is above 0. Rivals
without a bold cell were checked against their authors' code: the docstring of each module in `benchmarks/rivals` says
what was run side by side, and what differed. Two exceptions: Delta-DiT's authors have published no code, and DBCache
is its authors' own package.

"""


def setup(found: Sequence[Mapping[str, Any]]) -> str:
    """Prompts, steps, machine and versions; once for all pipelines that share them."""
    shared: dict[str, list[str]] = {}
    for result in found:
        versions = f"{result['machine']}, torch {result['torch']}, diffusers {result['diffusers']}"
        arguments, first = result["arguments"], result["seed"]
        guidance = arguments.get("true_cfg_scale", arguments.get("guidance_scale", "the pipeline's own"))
        how = (
            f"{result['prompts']} held-out prompts, prompt k with seed {first} + k, guidance {guidance}, "
            f"{arguments['num_inference_steps']} steps in full; {versions}"
        )
        shared.setdefault(how, []).append(result["model"])
    return "".join(f"- {', '.join(models)}: {how}.\n" for how, models in shared.items())


def write_page(results: Path, page: Path) -> None:
    """Write the page and its plots, with one section for each pipeline that was measured."""
    found = [json.loads(path.read_text()) for path in sorted(results.glob("rivals-*.json"))]
    sources = {name: source for result in found for name, source in result["sources"].items()}
    listed = "## The rivals\n\n" + "".join(f"- {name}: {source}.\n" for name, source in sources.items())
    (page.parent / "images").mkdir(parents=True, exist_ok=True)
    rivals = {result["model"]: by_rival(from_json(result["settings"])) for result in found}
    sections = "\n".join(section(result, rivals[result["model"]], page.parent) for result in found)
    leads = f"{table(summary_rows(rivals, by_operations))}\n\nAt equal measured speedup of denoising:\n\n"
    leads = f"{IN_SHORT}{leads}{table(summary_rows(rivals, by_time))}\n\n"
    head = f"{HEAD}{conclusion(rivals)}\n{METHOD}{setup(found)}"
    body = head + leads + sections + "\n" + UNIFORM_CHECK + against_uniform(rivals) + "\n\n" + listed
    with written_whole(page) as partial:
        Path(partial).write_text(body)


if __name__ == "__main__":
    write_page(Path("benchmarks/results"), Path("docs/records/results.md"))
