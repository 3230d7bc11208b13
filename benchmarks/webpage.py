"""The comparison as one HTML page: curves, every prompt, and pictures, those where ours is worst first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

from benchmarks.markdown import Rows
from benchmarks.report import COSTS, LEADS, SPEEDUPS, by_rival, figure_of, lead_rows, quality_rows
from benchmarks.rivals.base import Subject
from benchmarks.rivals.curves import by_operations, qualities_at
from benchmarks.rivals.harness import Entry, Setting
from benchmarks.rivals.ours import ALIGNED
from ertacache.evaluation.comparison import Variant, calls_of
from ertacache.evaluation.harness import Measured
from ertacache.presenting.differences import visible_gain
from ertacache.presenting.page import Cases, Grid, Page, Part, Plot, Section, write
from ertacache.presenting.quality_plots import prompt_by_prompt
from ertacache.presenting.worst_cases import Selection, worst_cases

SHOWN_AT = 2.0
"""The speedup at which pictures and single prompts are shown."""


def nearest(settings: Sequence[Setting], entries: Sequence[Entry]) -> dict[str, tuple[Entry, Measured]]:
    """For each rival the setting whose operations are nearest to `SHOWN_AT`, ours first, then the best first."""
    found: dict[str, tuple[Entry, Measured]] = {}
    for setting, entry in zip(settings, entries, strict=True):
        kept = found.get(setting.rival)
        if kept is None or _distance(setting.measured) < _distance(kept[1]):
            found[setting.rival] = entry, setting.measured
    names = sorted(found, key=lambda name: (name != ALIGNED.name, -found[name][1].mean_psnr))
    return {name: found[name] for name in names}


def _distance(row: Measured) -> float:
    return abs(fmean(by_operations(row, k) for k in range(len(row.psnr))) - SHOWN_AT)


def section_of(
    subject: Subject,
    prompts: Sequence[str],
    seed: int,
    settings: Sequence[Setting],
    entries: Sequence[Entry],
    *,
    show: int,
    on_generation: Callable[[int], None] = lambda count: None,
) -> Section:
    """One pipeline's part of the page; its pictures are generated again.

    Args:
        subject: the pipeline.
        prompts: as they were measured.
        seed: of the first.
        settings: the measured settings.
        entries: the same settings, ready to run.
        show: how many prompts to show.
        on_generation: told how many generations were made.
    """
    rivals = by_rival(settings)
    title = f"{subject.name}: {len(prompts)} held-out prompts, {subject.num_steps} steps"
    curve = "Mean PSNR of every rival over its cost; ours is thick, bands are 95 % intervals over prompts."
    parts: list[Part] = [Plot(figure_of(rivals, title), curve, curve)]
    for cost, label in COSTS.values():
        parts.append(_grid(quality_rows(rivals, cost), f"Mean PSNR in dB at equal {label}"))
        parts.append(_grid(lead_rows(rivals, cost), f"Ours against the best of all others, at equal {label}"))
    ours = rivals.get(ALIGNED.name) and qualities_at(rivals[ALIGNED.name], SHOWN_AT, by_operations)
    others = {
        name: found
        for name, rows in rivals.items()
        if name != ALIGNED.name and (found := qualities_at(rows, SHOWN_AT, by_operations)) is not None
    }
    if ours and others and len(ours) > 1:
        best = max(others, key=lambda name: fmean(others[name]))
        told = f"Every prompt at {SHOWN_AT:g}x by operations: ours over {best}, the best other one in the mean."
        pair = Measured(ALIGNED.name, 0, psnr=ours), Measured(best, 0, psnr=others[best])
        parts.append(Plot(prompt_by_prompt(*pair), told, told))
    chosen = nearest(settings, entries)
    cases, _ = worst_cases(
        subject.pipe,
        Variant("full", subject.num_steps),
        [entry.variant for entry, _ in chosen.values()],
        calls_of(subject.arguments, prompts, seed),
        Selection(
            chosen[ALIGNED.name][1].psnr,
            lambda k: {
                name: f"{row.psnr[k]:.1f} dB at {by_operations(row, k):.2f}x" for name, (_, row) in chosen.items()
            },
            count=show,
        ),
        on_generation=on_generation,
    )
    rival = next((name for name in chosen if name != ALIGNED.name), "full")  # the best of the others at that cost
    panels = list(dict.fromkeys(["full", ALIGNED.name, rival]))
    parts.append(Cases(cases, rival, ALIGNED.name, panels, visible_gain([case.pictures for case in cases], "full")))
    return Section(subject.name, parts)


def _grid(table: Rows, caption: str) -> Grid:
    plain = [[cell.replace("**", "") for cell in row] for row in table]
    return Grid(plain[0], plain[1:], caption)


def write_webpage(sections: Sequence[Section], path: Path) -> None:
    """Write the page about all pipelines that were measured."""
    lead = (
        "Small pipelines that this project trained; no figure is from published weights. All rivals get the same "
        "held-out prompts, seeds and latents, in one run. Each rival's knob is swept; pictures show its setting "
        f"nearest to {SHOWN_AT:g}x by operations of the denoiser. Tables read the curves at "
        f"{', '.join(f'{x:g}x' for x in SPEEDUPS)} and up to {LEADS[-1]:g}x."
    )
    write(Page("Every rival in one harness", lead, sections), path)
