"""Measure ways to generate against the full run: quality, time, operations and memory; can be interrupted.

For every prompt the full run comes first, then each way, with the full run timed again in between; a speedup is the
ratio to the full run timed last. Operations and memory are counted in separate runs, since counting slows a run down,
and only on the first prompt unless they depend on the prompt. Results are kept prompt by prompt, and an interrupted
measurement continues from there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean, median
from typing import Any

from torch import Tensor

from ertacache.calibration.shard import current_shard, own_numbers
from ertacache.evaluation.comparison import Result, Variant, generate, started
from ertacache.evaluation.cost import counting_flops, watching_memory
from ertacache.files import kept
from ertacache.metrics import motion_error, psnr, ssim
from ertacache.runtime.call_results import sampling_rate_of
from ertacache.runtime.environment import device_of
from ertacache.sound_metrics import log_mel_distance, signal_to_error

Metric = Callable[[Tensor, Tensor, str], float]
"""A metric: given the generated pictures, those of the full run, and the prompt."""

SOUND, LOG_MEL = "sound, dB", "log-mel, dB"
"""The names of the metrics of sound: `ertacache.sound_metrics.signal_to_error` and ``log_mel_distance``."""

FULL_RUN_EVERY = 8
"""How many variants are timed between two timings of the full run."""


def full_runs_needed(full: Variant, variants: Sequence[Variant], num_calls: int, shown: int = 0) -> float:
    """The work of `measure`, in full runs, if nothing is there yet.

    Args:
        full: the reference.
        variants: what is compared with it.
        num_calls: how many calls are measured.
        shown: how many of them are generated once more for a page.

    >>> full_runs_needed(Variant("full", 30), [Variant("fewer steps", 15)], num_calls=4, shown=2)
    13.0
    """
    each = sum(variant.computed_steps for variant in variants) / full.computed_steps
    timed = 1 + (max(1, len(variants)) - 1) // FULL_RUN_EVERY
    return 1 + 2 * (1 + each) + num_calls * (timed + each) + shown * (1 + each)


@dataclass(frozen=True)
class Measured:
    """The results of one variant; each list holds one number per prompt.

    Args:
        name: of the variant.
        peak_bytes: peak memory of the call less that of the full run, in bytes.
        flops: operations of the denoiser over those of the full run.
        speedup: denoising time of the full run over that of this variant: of the processors on a CPU
            (`ertacache.clock.work`), of the clock on an accelerator.
        call_speedup: the same for the whole call, with text encoders and decoder.
        psnr: against the full run, in dB.
        ssim: against the full run.
        motion: of clips, the relative error of the change between frames; empty for pictures.
        more: further metrics, by name.
    """

    name: str
    peak_bytes: int
    flops: list[float] = field(default_factory=list)
    speedup: list[float] = field(default_factory=list)
    call_speedup: list[float] = field(default_factory=list)
    psnr: list[float] = field(default_factory=list)
    ssim: list[float] = field(default_factory=list)
    motion: list[float] = field(default_factory=list)
    more: dict[str, list[float]] = field(default_factory=dict)

    @property
    def mean_psnr(self) -> float:
        """Mean over prompts, in dB."""
        return fmean(self.psnr)

    @property
    def median_speedup(self) -> float:
        """Median over prompts, of denoising time."""
        return median(self.speedup)


def measure(
    pipe: Any,
    full: Variant,
    variants: Sequence[Variant],
    calls: Sequence[Mapping[str, Any]],
    folder: Path,
    *,
    adaptive: Collection[int] = (),
    metrics: Mapping[str, Metric] | None = None,
    on_generation: Callable[[int], None] = lambda count: None,
) -> list[Measured]:
    """Generate every call in full and in every variant, and measure each; workers share the calls.

    Args:
        pipe: a diffusers pipeline.
        full: the reference.
        variants: what to compare with it.
        calls: the arguments of each call, with ``seed`` in place of ``generator``.
        folder: where to keep results; nothing but these variants and calls may use it.
        adaptive: positions of the variants whose work depends on the prompt: their operations are counted per prompt.
        metrics: further metrics, by name.
        on_generation: called with the number of variants that were generated or found in ``folder``; with 0 while
            operations and memory are counted.

    Returns:
        One for each variant.
    """
    measurement = _Measurement(pipe, full, variants, calls, adaptive, metrics or {}, on_generation)
    shard = current_shard()
    costs: list[list[int]] = shard.agreed(lambda: kept(folder / "costs.json", measurement.costs), "operations")
    rows = [Measured(variant.name, peak - costs[0][1]) for variant, (_, peak) in zip(variants, costs[1:], strict=True)]
    paths = {number: folder / f"prompt-{number}.json" for number in own_numbers(shard, len(calls))}
    if not all(path.exists() for path in paths.values()):
        measurement.run(full, 0)  # warm-up: the first call allocates, compiles, reads weights
    own = []
    for number, path in paths.items():
        if path.exists():
            on_generation(len(variants))
        own.append(kept(path, partial(measurement.figures, number, costs)))
    for figures in shard.gather(own, "figures of the prompts"):
        for row, values in zip(rows, figures, strict=True):
            _append(row, values)
    return rows


def _append(row: Measured, values: dict[str, Any]) -> None:
    """Add one prompt's figures."""
    for name, value in values.items():
        if name != "more":
            getattr(row, name).append(value)
    for name, value in values["more"].items():
        row.more.setdefault(name, []).append(value)


@dataclass(frozen=True)
class _Measurement:
    """The arguments of `measure`, and the runs that it is made of; "number" is a call's position."""

    pipe: Any
    full: Variant
    variants: Sequence[Variant]
    calls: Sequence[Mapping[str, Any]]
    adaptive: Collection[int]
    metrics: Mapping[str, Metric]
    on_generation: Callable[[int], None]

    def run(self, variant: Variant, number: int) -> Result:
        return generate(self.pipe, variant, started(self.calls[number]))

    def operations(self, variant: Variant, number: int) -> int:
        with counting_flops(self.pipe) as counter:
            self.run(variant, number)
        return counter.flops

    def costs(self) -> list[tuple[int, int]]:
        """Operations and peak bytes on the first prompt: of the full run, then of each variant."""
        found = []
        for variant in (self.full, *self.variants):
            with watching_memory(device_of(self.pipe)) as watched:
                self.run(variant, 0)
            found.append((self.operations(variant, 0), watched.peak_bytes))
            self.on_generation(0)  # none of those that are counted, but time for a word
        return found

    def figures(self, number: int, costs: Sequence[Sequence[int]]) -> list[dict[str, Any]]:
        """One prompt's figures for every variant, given what `costs` returned."""
        found = []
        reference = timed = self.run(self.full, number)
        for position, variant in enumerate(self.variants):
            if position and position % FULL_RUN_EVERY == 0:
                timed = self.run(self.full, number)
            result = self.run(variant, number)
            own = position in self.adaptive and number
            flops = self.operations(variant, number) if own else costs[position + 1][0]
            found.append(
                {
                    "flops": flops / costs[0][0],
                    "speedup": timed.loop_work / result.loop_work,
                    "call_speedup": timed.call_work / result.call_work,
                    **self.quality(result, reference, number),
                }
            )
            self.on_generation(1)
        return found

    def quality(self, result: Result, full: Result, number: int) -> dict[str, Any]:
        pictures, reference = result.pictures, full.pictures
        values: dict[str, Any] = {"psnr": psnr(pictures, reference), "ssim": ssim(pictures, reference)}
        if pictures.ndim == 5:
            values["motion"] = motion_error(pictures, reference)
        prompt = self.calls[number]["prompt"] if self.metrics else ""
        values["more"] = {name: of(pictures, reference, prompt) for name, of in self.metrics.items()}
        if result.sound is not None and full.sound is not None:
            values["more"] |= {
                SOUND: signal_to_error(result.sound, full.sound),
                LOG_MEL: log_mel_distance(result.sound, full.sound, sampling_rate_of(self.pipe)),
            }
        return values
