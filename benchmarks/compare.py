"""Measures every rival on the small trained pipelines, side by side in one run, and writes docs/records/results.md.

    ertacache benchmark     # all rivals on all pipelines; hours

Prompts and seeds are held out: neither training nor calibration saw them. Quality is against the full run. An
interrupted run resumes. If only some rivals are measured, for example after one of them has changed, the rows of all
others stay as they are. Fewer steps, the control, is then measured again, and must give what it gave before.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from benchmarks.keys import environment, key_of, source_digest
from benchmarks.report import write_page
from benchmarks.rivals import harness
from benchmarks.rivals.base import Knobs
from benchmarks.rivals.roster import OURS, RIVALS
from benchmarks.rivals.solvers import FEWER_STEPS
from benchmarks.webpage import section_of, write_webpage
from ertacache import zoo
from ertacache.errors import ERTACacheError
from ertacache.evaluation.perceptual import perceptual_metrics
from ertacache.files import written_whole

CONTROL = FEWER_STEPS.name
SAME = 0.1
"""How many dB the control may differ on any prompt between two runs whose rows are shown side by side."""


class RivalError(ERTACacheError, ValueError):
    """A rival that does not exist, or figures that cannot stand beside others."""


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
        names: rivals to measure, empty for all; ours and fewer steps always take part, others' rows stay as they are.
        prompts: number of held-out prompts.
        seed: of the first prompt.
        work: for policies and unfinished measurements.
        out: for the figures, as JSON.
        page: written after every pipeline, from all figures in ``out``.
        webpage: the same as HTML with pictures, for the pipelines measured now.
        quick: two prompts, eight steps, one setting of each rival: a check, no figures.
        console: where to show progress.

    Returns:
        The files that were written, the pages last.

    Raises:
        RivalError: if a rival's name is unknown, or the new rows cannot stand beside the old ones.
    """
    known = [rival.name for rival in RIVALS]
    for name in names:
        if name not in known:
            raise RivalError("there is no such rival", given=name, cure=f"Choose among {', '.join(known)}.")
    rivals = [rival for rival in RIVALS if not names or rival.name in (OURS, CONTROL, *names)]
    if quick:
        prompts = 2
    written, sections = [], []
    metrics, code = perceptual_metrics(), source_digest(Path(__file__).parent)
    for model in models:
        embedded = zoo.load(model)
        if quick:
            embedded = replace(embedded, calibration_prompts=embedded.calibration_prompts[:2])
            embedded.arguments["num_inference_steps"] = 8
        path = out / f"rivals-{model}.json"
        setting = {"model": model, "arguments": embedded.arguments, "prompts": prompts, "seed": seed}
        earlier = _earlier(path, setting) if names else {}
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
            **setting,
            "settings": [{**row, "measured_on": date.today().isoformat()} for row in harness.as_json(rows)],
            "sources": {rival.name: rival.source for rival in rivals},
            "refused": {rival.name: why for rival in rivals if (why := rival.refuses(subject))},
        }
        with written_whole(path) as unfinished:
            Path(unfinished).write_text(json.dumps(joined(result, earlier), indent=1) + "\n")
        written.append(path)
        write_page(out, page)
        write_webpage(sections, webpage)
    return [*written, page, webpage]


def _earlier(path: Path, setting: Mapping[str, Any]) -> dict[str, Any]:
    """The earlier figures that new rows are added to; empty if there are none."""
    if not path.exists():
        return {}
    earlier: dict[str, Any] = json.loads(path.read_text())
    differing = [name for name, value in setting.items() if earlier[name] != value]
    if differing:
        raise RivalError(
            "the rows of other rivals are of another setting",
            given=", ".join(f"{name} {earlier[name]!r} in {path}, now {setting[name]!r}" for name in differing),
            cure="Measure these rivals in that setting, or all rivals, or write to another folder with --out.",
        )
    return earlier


def joined(result: Mapping[str, Any], earlier: Mapping[str, Any]) -> dict[str, Any]:
    """The new rows of some rivals and the earlier rows of all others, in the order of the tables.

    Raises:
        RivalError: if fewer steps differs between the two runs, so that they cannot stand side by side.
    """
    if not earlier:
        return dict(result)
    was, now = (_control(figures["settings"]) for figures in (earlier, result))
    pairs = [pair for knobs in was.keys() & now.keys() for pair in zip(was[knobs], now[knobs], strict=True)]
    apart = max((abs(x - y) for x, y in pairs), default=math.inf)
    if apart > SAME:
        raise RivalError(
            "these rows cannot stand beside those of an earlier run",
            given=f"{CONTROL} differs by up to {apart:.2f} dB between the two",
            cure="Measure all rivals in one run: leave out --rival.",
        )
    anew = {row["rival"] for row in result["settings"]}
    rows = [*result["settings"], *(row for row in earlier["settings"] if row["rival"] not in anew)]
    places = {rival.name: place for place, rival in enumerate(RIVALS)}
    told = f"On *fewer steps*, the control, both runs agree to {apart:.2g} dB on every prompt."
    return {
        **result,
        "settings": sorted(rows, key=lambda row: places[row["rival"]]),
        "sources": {rival.name: rival.source for rival in RIVALS if rival.name in {row["rival"] for row in rows}},
        "refused": {**earlier["refused"], **result["refused"]},
        "notes": [told],
    }


def _control(settings: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    return {json.dumps(row["knobs"]): row["measured"]["psnr"] for row in settings if row["rival"] == CONTROL}


def _middle(knobs: Sequence[Knobs]) -> Sequence[Knobs]:
    return [knobs[len(knobs) // 2]]
