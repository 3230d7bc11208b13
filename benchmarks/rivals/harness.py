"""Runs rivals side by side: the same pipelines, prompts, seeds and latents, quality and cost of every setting.

For every held-out prompt the full run comes first, then each setting of each rival, with the full run timed again in
between; a speedup is the ratio to the full run timed last. Operations and memory are counted on the first prompt
alone and apart, since counting slows a run down. What was measured is kept prompt by prompt, and an interrupted run
goes on from there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch

from benchmarks.rivals.base import Calls, Knobs, Rival, Subject
from ertacache import zoo
from ertacache.evaluation.comparison import Result, Variant, generate
from ertacache.evaluation.cost import counting_flops, watching_memory
from ertacache.evaluation.metrics import motion_error, psnr, ssim
from ertacache.files import written_whole

FULL_RUN_EVERY = 8
"""Settings between two timings of the full run."""


@dataclass(frozen=True)
class Measured:
    """One setting of one rival; each list holds a number for each prompt.

    Args:
        rival: its name.
        knobs: the setting.
        psnr: in dB, against the full run.
        ssim: likewise.
        motion: of clips, the relative error of the change between frames; empty for pictures.
        speedup: denoising time of the full run over this one's.
        call_speedup: the same of the whole call, text encoders and decoder included.
        flops: operations of the denoiser, over those of the full run.
        peak_bytes: memory at the call's peak, above the full run's peak.
    """

    rival: str
    knobs: Knobs
    flops: float
    peak_bytes: int
    psnr: list[float] = field(default_factory=list)
    ssim: list[float] = field(default_factory=list)
    motion: list[float] = field(default_factory=list)
    speedup: list[float] = field(default_factory=list)
    call_speedup: list[float] = field(default_factory=list)

    @property
    def mean_psnr(self) -> float:
        """Mean over prompts, in dB."""
        return fmean(self.psnr)

    @property
    def median_speedup(self) -> float:
        """Median over prompts, of denoising alone."""
        return median(self.speedup)


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


@dataclass(frozen=True)
class Entry:
    """One setting of one rival on a subject, ready to run."""

    rival: Rival
    knobs: Knobs
    variant: Variant


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


def measure(
    subject: Subject,
    entries: Sequence[Entry],
    prompts: Sequence[str],
    seed: int,
    on_result: Callable[[int], None] = lambda count: None,
) -> list[Measured]:
    """Generate every prompt in full and at every setting.

    Args:
        subject: the pipeline.
        entries: the settings.
        prompts: held-out ones; prompt k gets the seed ``seed + k``.
        seed: see there.
        on_result: told how many generations were made, or found.
    """
    settings = {name: value for name, value in subject.arguments.items() if name != "num_inference_steps"}
    calls = [{**settings, "prompt": prompt} for prompt in prompts]
    full = Variant("full", subject.num_steps)

    def run(variant: Variant, number: int) -> Result:
        generator = torch.Generator("cpu").manual_seed(seed + number)
        return generate(subject.pipe, variant, {**calls[number], "generator": generator})

    costs = _kept(subject.work / "costs.json", lambda: _costs(run, subject, full, entries))
    rows = [Measured(entry.rival.name, entry.knobs, *cost) for entry, cost in zip(entries, costs, strict=True)]
    run(full, 0)  # a warm-up
    for number in range(len(prompts)):
        path = subject.work / f"prompt-{number}.json"
        figures = _kept(path, partial(_figures, run, full, entries, number, on_result))
        for row, found in zip(rows, figures, strict=True):
            for name, value in found.items():
                getattr(row, name).append(value)
    return rows


def _kept(path: Path, make: Callable[[], list[Any]]) -> list[Any]:
    if not path.exists():
        found = make()
        with written_whole(path) as partial_path:
            Path(partial_path).write_text(json.dumps(found))
    return json.loads(path.read_text())  # type: ignore[no-any-return]


def _costs(
    run: Callable[[Variant, int], Result], subject: Subject, full: Variant, entries: Sequence[Entry]
) -> list[tuple[float, int]]:
    """For each setting the share of the full run's operations, and the extra memory."""

    def cost(variant: Variant) -> tuple[int, int]:
        with counting_flops(subject.pipe) as counted:
            run(variant, 0)
        with watching_memory(subject.pipe.device) as watched:
            run(variant, 0)
        return counted.flops, watched.peak_bytes

    flops, peak = cost(full)
    found = [cost(entry.variant) for entry in entries]
    return [(ours / flops, most - peak) for ours, most in found]


def _figures(
    run: Callable[[Variant, int], Result],
    full: Variant,
    entries: Sequence[Entry],
    number: int,
    on_result: Callable[[int], None],
) -> list[Mapping[str, float]]:
    """One prompt at every setting."""
    found: list[Mapping[str, float]] = []
    reference = timed = run(full, number)
    for count, entry in enumerate(entries):
        if count and count % FULL_RUN_EVERY == 0:
            timed = run(full, number)
        result = run(entry.variant, number)
        pictures = result.pictures, reference.pictures
        figures = {
            "psnr": psnr(*pictures),
            "ssim": ssim(*pictures),
            "speedup": timed.loop_seconds / result.loop_seconds,
            "call_speedup": timed.call_seconds / result.call_seconds,
        }
        if result.pictures.ndim == 5:
            figures["motion"] = motion_error(*pictures)
        found.append(figures)
        on_result(1)
    return found


def as_json(rows: Sequence[Measured]) -> list[dict[str, Any]]:
    """For a results file; `from_json` reads it."""
    return [asdict(row) for row in rows]


def from_json(rows: Sequence[Mapping[str, Any]]) -> list[Measured]:
    """What `as_json` wrote."""
    return [Measured(**row) for row in rows]
