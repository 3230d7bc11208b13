"""Measure ways to generate against the full run: quality, time, operations and memory, resumable.

For every prompt the full run comes first, then each way, with the full run timed again in between; a speedup is the
ratio to the full run timed last. Operations and memory are counted apart, since counting slows a run down, and on the
first prompt alone where they are the same for all. What was measured is kept prompt by prompt, and an interrupted
measurement goes on from there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean, median
from typing import Any

from torch import Tensor

from ertacache.evaluation.comparison import Result, Variant, generate, started
from ertacache.evaluation.cost import counting_flops, watching_memory
from ertacache.files import kept
from ertacache.metrics import motion_error, psnr, ssim

Metric = Callable[[Tensor, Tensor, str], float]
"""Of generated pictures, the full run's, and the prompt."""

FULL_RUN_EVERY = 8
"""Variants between two timings of the full run."""


@dataclass(frozen=True)
class Measured:
    """One variant; each list holds a number for each prompt.

    Args:
        name: of the variant.
        flops: operations of the denoiser, over those of the full run.
        peak_bytes: memory at the call's peak, above the full run's peak.
        speedup: denoising time of the full run over this one's.
        call_speedup: the same of the whole call, text encoders and decoder included.
        psnr: in dB, against the full run.
        ssim: likewise.
        motion: of clips, the relative error of the change between frames; empty for pictures.
        more: further metrics by name.
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
        """Median over prompts, of denoising alone."""
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
    """Generate every call in full and in every variant.

    Args:
        pipe: a diffusers pipeline.
        full: the reference.
        variants: what to compare with it.
        calls: the arguments of each call but the generator; ``seed`` gives the generator's.
        folder: where to keep what was measured; of these variants and calls alone.
        adaptive: positions of the variants whose work depends on the prompt, so that it is counted for each.
        metrics: further ones, by name.
        on_generation: told how many variants were generated, or found.

    Returns:
        One for each variant.
    """

    def run(variant: Variant, number: int) -> Result:
        return generate(pipe, variant, started(calls[number]))

    def operations(variant: Variant, number: int) -> int:
        with counting_flops(pipe) as counter:
            run(variant, number)
        return counter.flops

    def costs() -> list[tuple[int, int]]:
        """Operations and memory on the first prompt, the full run's first."""
        found = []
        for variant in (full, *variants):
            with watching_memory(pipe.device) as watched:
                run(variant, 0)
            found.append((operations(variant, 0), watched.peak_bytes))
        return found

    def figures(number: int) -> list[dict[str, Any]]:
        found = []
        reference = timed = run(full, number)
        for count, variant in enumerate(variants):
            if count and count % FULL_RUN_EVERY == 0:
                timed = run(full, number)
            result = run(variant, number)
            pictures = result.pictures, reference.pictures
            flops = operations(variant, number) if count in adaptive and number else counted[count + 1][0]
            row: dict[str, Any] = {
                "flops": flops / counted[0][0],
                "psnr": psnr(*pictures),
                "ssim": ssim(*pictures),
                "speedup": timed.loop_seconds / result.loop_seconds,
                "call_speedup": timed.call_seconds / result.call_seconds,
            }
            if result.pictures.ndim == 5:
                row["motion"] = motion_error(*pictures)
            row["more"] = {name: of(*pictures, calls[number]["prompt"]) for name, of in (metrics or {}).items()}
            found.append(row)
            on_generation(1)
        return found

    counted: list[list[int]] = kept(folder / "costs.json", costs)
    rows = [
        Measured(variant.name, peak - counted[0][1]) for variant, (_, peak) in zip(variants, counted[1:], strict=True)
    ]
    paths = [folder / f"prompt-{number}.json" for number in range(len(calls))]
    if not all(path.exists() for path in paths):
        run(full, 0)  # a warm-up: the first call allocates, compiles, reads weights
    for number, path in enumerate(paths):
        if path.exists():
            on_generation(len(variants))
        found = kept(path, partial(figures, number))
        for row, values in zip(rows, found, strict=True):
            more = values.pop("more")
            for name, value in values.items():
                getattr(row, name).append(value)
            for name, value in more.items():
                row.more.setdefault(name, []).append(value)
    return rows
