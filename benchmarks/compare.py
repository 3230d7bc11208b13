"""Every rival on the small trained pipelines, side by side in one run, and docs/results.md about it.

    ertacache benchmark     # all rivals on all pipelines; hours

Held-out prompts and seeds that neither training nor calibration saw; quality against the full run. An interrupted run
goes on from what it had measured.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from benchmarks.keys import environment, key_of, source_digest
from benchmarks.report import write_page
from benchmarks.rivals import harness
from benchmarks.rivals.base import Knobs
from benchmarks.rivals.roster import OURS, RIVALS
from benchmarks.webpage import section_of, write_webpage
from ertacache import zoo
from ertacache.errors import ERTACacheError
from ertacache.evaluation.perceptual import perceptual_metrics
from ertacache.files import written_whole


class RivalError(ERTACacheError, ValueError):
    """A rival that does not exist."""


def run(
    models: Sequence[str],
    *,
    names: Sequence[str],
    prompts: int,
    seed: int,
    work: Path,
    out: Path,
    page: Path,
    webpage: Path,
    quick: bool,
    console: Console,
) -> list[Path]:
    """Measure each pipeline and write its figures.

    Args:
        models: names of embedded pipelines.
        names: of rivals, or none for all; ours always takes part.
        prompts: how many held-out ones.
        seed: of the first.
        work: for policies and unfinished measurements.
        out: for the figures, as JSON.
        page: written anew after every pipeline, about all figures there are in ``out``.
        webpage: the same as HTML with pictures, about the pipelines measured now.
        quick: two prompts, eight steps, one setting of each rival: a check, no figures.
        console: where to show progress.

    Returns:
        What was written, the pages last.

    Raises:
        RivalError: if a rival's name is unknown.
    """
    known = [rival.name for rival in RIVALS]
    for name in names:
        if name not in known:
            raise RivalError("there is no such rival", given=name, cure=f"Choose among {', '.join(known)}.")
    rivals = [rival for rival in RIVALS if not names or rival.name in (OURS, *names)]
    if quick:
        prompts = 2
    written, sections = [], []
    metrics, code = perceptual_metrics(), source_digest(Path(__file__).parent)
    for model in models:
        embedded = zoo.load(model)
        if quick:
            embedded = replace(embedded, calibration_prompts=embedded.calibration_prompts[:2])
            embedded.arguments["num_inference_steps"] = 8
        key = key_of(embedded, seed, [rival.name for rival in rivals], quick, code)
        subject = harness.subject_of(embedded, model, work / model / key)
        entries = harness.entries_of(
            subject,
            rivals,
            on_prepare=lambda name: console.print(f"preparing {name}", style="dim"),
            choose=_middle if quick else list,
        )
        with Progress(console=console, transient=True) as progress:
            task = progress.add_task(f"{model}: generating", total=prompts * len(entries))
            told = partial(progress.advance, task)
            held_out = embedded.held_out_prompts[:prompts]
            rows = harness.run(subject, entries, held_out, seed, metrics=metrics, on_generation=told)
        num_shown = 1 if quick else 5
        with Progress(console=console, transient=True) as progress:
            task = progress.add_task(f"{model}: pictures for the page", total=None)
            told = partial(progress.advance, task)
            sections.append(section_of(subject, held_out, seed, rows, entries, show=num_shown, on_generation=told))
        result = {
            **environment(),
            "model": model,
            "arguments": embedded.arguments,
            "prompts": prompts,
            "seed": seed,
            "settings": harness.as_json(rows),
            "sources": {rival.name: rival.source for rival in rivals},
            "refused": {rival.name: why for rival in rivals if (why := rival.refuses(subject))},
        }
        path = out / f"rivals-{model}.json"
        with written_whole(path) as unfinished:
            Path(unfinished).write_text(json.dumps(result, indent=1) + "\n")
        written.append(path)
        write_page(out, page)
        write_webpage(sections, webpage)
    return [*written, page, webpage]


def _middle(knobs: Sequence[Knobs]) -> Sequence[Knobs]:
    return [knobs[len(knobs) // 2]]
