"""A pipeline that the experiments run on, with what they share: counts, prompts, policies, measurements."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from benchmarks.keys import key_of, source_digest
from benchmarks.method import policies_for
from benchmarks.rivals import base, harness
from ertacache import Policy, zoo
from ertacache.calibration.prompts import calls_for
from ertacache.calibration.recorder import record
from ertacache.evaluation.comparison import Variant, calls_of
from ertacache.evaluation.harness import Measured, measure
from ertacache.evaluation.perceptual import perceptual_metrics
from ertacache.method.named_methods import Method


@dataclass(frozen=True)
class Counts:
    """How much is measured.

    Args:
        held_out: prompts of the tables and of Figure 5.
        calibration: prompts that policies are made from, but in Figure 5.
        runs: full runs of Figures 2a and 6.
        shown: prompts of Figures 3, 4 and 6.
        sizes: of calibration sets in Figure 5.
        settings: of each rival, among which the one nearest to the paper's speedup is chosen.
        steps: of Table 4; with ``--quick`` of everything.
        repeats: of Table 4.
    """

    held_out: int = 32
    calibration: int = 16
    runs: int = 32
    shown: int = 3
    sizes: tuple[int, ...] = (2, 5, 10, 20, 30, 100)
    settings: int = 100
    steps: int = 30
    repeats: int = 3


QUICK = Counts(held_out=2, calibration=2, runs=2, shown=1, sizes=(1, 2), settings=2, steps=6, repeats=1)


@dataclass(frozen=True)
class Opened:
    """A pipeline with all that the experiments need.

    Args:
        name: of the pipeline, in file names.
        family: which of the paper's backbones it is.
        embedded: the pipeline, its arguments and its prompts.
        counts: how much to measure.
        seed: of the first held-out prompt.
        folder: for policies and unfinished measurements.
        images: where pictures go.
        console: where to show progress.
        attached: for each rival, its settings and their operations, once they were needed.
    """

    name: str
    family: str
    embedded: zoo.Embedded
    counts: Counts
    seed: int
    folder: Path
    images: Path
    console: Console
    attached: dict[str, list[tuple[harness.Entry, float]]] = field(default_factory=dict)

    @cached_property
    def key(self) -> str:
        """A key for all that affects the figures, except the experiments' own code."""
        prompts = self.embedded.calibration_prompts, self.embedded.held_out_prompts[: self.counts.held_out]
        rivals = source_digest(Path(base.__file__).parent)
        return key_of(self.embedded, self.seed, prompts, self.counts, rivals)

    @property
    def work(self) -> Path:
        """The folder for files of this key."""
        return self.folder / self.name / self.key

    @cached_property
    def subject(self) -> base.Subject:
        """The pipeline as rivals see it."""
        few = replace(self.embedded, calibration_prompts=self.embedded.calibration_prompts[: self.counts.calibration])
        return harness.subject_of(few, self.family, self.work)

    @property
    def num_steps(self) -> int:
        """T."""
        return int(self.embedded.arguments["num_inference_steps"])

    @property
    def full(self) -> Variant:
        """The reference."""
        return Variant("full", self.num_steps)

    @property
    def held_out(self) -> list[str]:
        """The prompts of the tables."""
        return self.embedded.held_out_prompts[: self.counts.held_out]

    def calls(self, prompts: Sequence[str]) -> list[dict[str, Any]]:
        """For `measure` and `compare`: everything but the number of steps; prompt k has the seed ``seed + k``."""
        return calls_of(self.embedded.arguments, prompts, self.seed)

    def full_run(self, number: int) -> dict[str, Tensor]:
        """The full run of a held-out prompt: its latents ``x0 .. xT`` and model outputs ``v0 .. v(T-1)``."""
        pipe, prompt = self.embedded.pipe, self.embedded.held_out_prompts[number]
        (call,) = calls_for(pipe, [prompt], self.embedded.arguments, self.seed + number)
        tensors, _ = record(pipe, call, 0, self.num_steps, lambda step: None, lambda count: None)
        return tensors

    def policies(self, methods: Mapping[str, Method], speedup: float) -> dict[str, Policy]:
        """The policies of some methods at one budget, calibrated unless they were before."""
        found = policies_for(self.embedded, dict(methods), [speedup], self.counts.calibration, self.work)
        return {name: policy for (_, name), policy in found.items()}

    def measured(self, variants: Sequence[Variant], name: str) -> list[Measured]:
        """The held-out prompts in every variant against the full run; ``name`` is the experiment's."""
        prompts, told = self.held_out, repr([(variant.name, variant.computed_steps) for variant in variants])
        with Progress(console=self.console, transient=True) as progress:
            task = progress.add_task(f"{self.name}: {name}", total=len(prompts) * len(variants))
            return measure(
                self.embedded.pipe,
                self.full,
                variants,
                self.calls(prompts),
                self.work / f"{name}-{hashlib.sha256(told.encode()).hexdigest()[:8]}",
                metrics=perceptual_metrics(),
                on_generation=partial(progress.advance, task),
            )
