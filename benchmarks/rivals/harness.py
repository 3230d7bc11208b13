"""Runs rivals side by side, on the same pipelines, prompts, seeds and latents: quality and cost of every setting."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.rivals.base import Calls, Knobs, Rival, Subject
from ertacache import zoo
from ertacache.evaluation.comparison import Variant, calls_of
from ertacache.evaluation.harness import Measured, Metric, measure


@dataclass(frozen=True)
class Setting:
    """One setting of one rival, measured."""

    rival: str
    knobs: Knobs
    measured: Measured


@dataclass(frozen=True)
class Entry:
    """One setting of one rival on a subject, ready to run."""

    rival: Rival
    knobs: Knobs
    variant: Variant


def subject_of(embedded: zoo.Embedded, name: str, work: Path) -> Subject:
    """An embedded pipeline as rivals see it; how often a step calls the denoiser is counted."""
    calls = Calls(1)
    short = {**embedded.arguments, "num_inference_steps": 2, "output_type": "latent"}
    with calls.counted(embedded.pipe.transformer):
        embedded.pipe(prompt=embedded.calibration_prompts[0], **short)
    per_step, rest = divmod(calls.made + 1, 2)
    assert not rest, "steps that call the denoiser unequally often"
    work.mkdir(parents=True, exist_ok=True)
    return Subject(name, embedded.pipe, embedded.arguments, embedded.calibration_prompts, per_step, work)


def entries_of(
    subject: Subject,
    rivals: Sequence[Rival],
    *,
    on_prepare: Callable[[str], None] = lambda name: None,
    choose: Callable[[Sequence[Knobs]], Sequence[Knobs]] = lambda knobs: knobs,
) -> list[Entry]:
    """Prepare each rival that runs on the subject, and attach it once at each of its settings.

    Args:
        subject: the pipeline.
        rivals: some of them may refuse it, and are left out.
        on_prepare: told each rival's name.
        choose: which of a rival's settings to take.
    """
    found = []
    for rival in rivals:
        if rival.refuses(subject):
            continue
        on_prepare(rival.name)
        prepared = rival.prepare(subject)
        for knobs in choose(rival.knobs(subject)):
            around = partial(_attached, rival, subject, knobs, prepared)
            with around(subject.pipe):  # what is fitted at the first use is fitted now, before anything is measured
                pass
            found.append(Entry(rival, knobs, Variant(rival.name, rival.num_steps(subject, knobs), around=around)))
    return found


def _attached(rival: Rival, subject: Subject, knobs: Knobs, prepared: Any, pipe: Any) -> Any:
    return rival.attach(subject, knobs, prepared)


def run(
    subject: Subject,
    entries: Sequence[Entry],
    prompts: Sequence[str],
    seed: int,
    *,
    metrics: Mapping[str, Metric] | None = None,
    on_generation: Callable[[int], None] = lambda count: None,
) -> list[Setting]:
    """Generate every prompt in full and at every setting; see `ertacache.evaluation.harness.measure`.

    Args:
        subject: the pipeline.
        entries: the settings.
        prompts: held-out ones; prompt k gets the seed ``seed + k``.
        seed: see there.
        metrics: further ones, by name.
        on_generation: told how many generations were made, or found.
    """
    rows = measure(
        subject.pipe,
        Variant("full", subject.num_steps),
        [entry.variant for entry in entries],
        calls_of(subject.arguments, prompts, seed),
        subject.work,
        adaptive=[position for position, entry in enumerate(entries) if entry.rival.adaptive],
        metrics=metrics,
        on_generation=on_generation,
    )
    return [Setting(entry.rival.name, entry.knobs, row) for entry, row in zip(entries, rows, strict=True)]


def as_json(settings: Sequence[Setting]) -> list[dict[str, Any]]:
    """For a results file; `from_json` reads it."""
    return [asdict(setting) for setting in settings]


def from_json(settings: Sequence[Mapping[str, Any]]) -> list[Setting]:
    """What `as_json` wrote."""
    return [Setting(s["rival"], s["knobs"], Measured(**s["measured"])) for s in settings]
