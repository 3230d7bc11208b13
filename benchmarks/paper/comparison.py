"""Tables 1 and 2: the methods that the paper compares with, each at the setting nearest to its speedup, and ours.

The paper's own rows are method ``paper`` at its step ratios; `aligned` and fewer steps stand below at the same number
of computed steps. A rival's setting is chosen by operations on calibration prompts, since time depends on the machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import log
from statistics import fmean
from typing import Any

from rich.progress import Progress

from benchmarks.paper.pipelines import Opened
from benchmarks.paper.published import COMPARISONS
from benchmarks.rivals import harness
from benchmarks.rivals.base import Knobs, Rival
from benchmarks.rivals.ours import ALIGNED, PAPER
from benchmarks.rivals.roster import RIVALS
from benchmarks.rivals.solvers import FEWER_STEPS
from ertacache.evaluation.comparison import Variant, calls_of, generate, started
from ertacache.evaluation.cost import counting_flops
from ertacache.evaluation.perceptual import perceptual_metrics
from ertacache.method.schedule import computed_steps_for

ADAPTIVE_PROMPTS = 4
"""Number of calibration prompts over which operations are averaged, if they depend on the prompt."""


@dataclass(frozen=True)
class Line:
    """A row of the table.

    Args:
        method: as the paper prints it, or "" for a row that is ours alone.
        wanted: the paper's speedup.
        entry: what runs, or None where the rival refuses the pipeline.
        refused: why.
    """

    method: str
    wanted: float
    entry: harness.Entry | None
    refused: str = ""


def run(opened: Opened) -> dict[str, Any]:
    """Every row measured on the held-out prompts, in one run."""
    lines = lines_of(opened)
    entries = {name_of(line.entry): line.entry for line in lines if line.entry}
    folder = opened.work / f"comparison-{hashlib.sha256(repr(list(entries)).encode()).hexdigest()[:8]}"
    with Progress(console=opened.console, transient=True) as progress:
        task = progress.add_task(f"{opened.name}: comparison", total=len(opened.held_out) * len(entries))
        settings = harness.run(
            replace(opened.subject, work=folder),
            list(entries.values()),
            opened.held_out,
            opened.seed,
            metrics=perceptual_metrics(),
            on_generation=partial(progress.advance, task),
        )
    found = dict(zip(entries, harness.as_json(settings), strict=True))
    return {
        "rows": [
            {"method": line.method, "wanted": line.wanted, "refused": line.refused}
            | (found[name_of(line.entry)] if line.entry else {})
            for line in lines
        ]
    }


def lines_of(opened: Opened) -> list[Line]:
    """The paper's rows, in its order; below each of its own the same budget by `aligned` and by fewer steps."""
    lines = []
    for row in COMPARISONS[opened.family]:
        if row.rival:
            entry, why = entry_at(opened, row.rival, row.speedup)
            lines.append(Line(row.method, row.speedup, entry, why))
            continue
        computed = computed_steps_for(opened.num_steps, row.speedup)
        ours = [(row.method, PAPER), ("", ALIGNED), ("", FEWER_STEPS)]
        lines += [Line(method, row.speedup, entry_with(opened, rival, computed)) for method, rival in ours]
    return lines


def entry_with(opened: Opened, rival: Rival, computed: int) -> harness.Entry:
    """One of our own methods, or fewer steps, at a number of computed steps; calibrated unless it was before."""
    knob = "num_inference_steps" if rival is FEWER_STEPS else "num_computed_steps"
    opened.console.print(f"{opened.name}: {rival.name}, {computed} computed steps", style="dim")
    return harness.entries_of(opened.subject, [rival], choose=lambda knobs: [{knob: computed}])[0]


def entry_at(opened: Opened, name: str, speedup: float) -> tuple[harness.Entry | None, str]:
    """A rival at its setting whose operations are nearest to a speedup, or why it does not run."""
    rival = next(rival for rival in RIVALS if rival.name == name)
    if why := rival.refuses(opened.subject):
        return None, why
    if name not in opened.attached:
        opened.attached[name] = _with_operations(opened, rival)
    found = opened.attached[name]
    return found[nearest([operations for _, operations in found], speedup)][0], ""


def nearest(operations: Sequence[float], speedup: float) -> int:
    """The index of the ratio of operations nearest to a speedup, by their quotient."""
    return min(range(len(operations)), key=lambda k: abs(log(operations[k] / speedup)))


def name_of(entry: harness.Entry) -> str:
    """The name of a rival with its setting."""
    return f"{entry.rival.name} {dict(entry.knobs)}"


def _with_operations(opened: Opened, rival: Rival) -> list[tuple[harness.Entry, float]]:
    """All settings of a rival, and the full run's operations over theirs on calibration prompts."""
    opened.console.print(f"{opened.name}: choosing a setting of {rival.name}", style="dim")
    few = partial(_few, count=opened.counts.settings)
    entries = harness.entries_of(opened.subject, [rival], choose=few)
    prompts = range(min(ADAPTIVE_PROMPTS, opened.counts.calibration) if rival.adaptive else 1)
    full = _operations(opened, opened.full, 0)
    return [(entry, full / fmean(_operations(opened, entry.variant, k) for k in prompts)) for entry in entries]


def _few(knobs: Sequence[Knobs], count: int) -> list[Knobs]:
    """At most ``count`` settings, each from the middle of an equal part."""
    if len(knobs) <= count:
        return list(knobs)
    return [knobs[round((k + 0.5) * len(knobs) / count - 0.5)] for k in range(count)]


def _operations(opened: Opened, variant: Variant, number: int) -> int:
    subject = opened.subject
    (call,) = calls_of(subject.arguments, [subject.calibration_prompts[number]], number)
    with counting_flops(subject.pipe) as counted:
        generate(subject.pipe, variant, started(call))
    return counted.flops
