"""Measures ways to generate on the held-out prompts of an embedded pipeline, with a progress bar."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from ertacache import zoo
from ertacache.evaluation.comparison import Variant, calls_of
from ertacache.evaluation.harness import Measured, measure


def measured_on_held_out(
    embedded: zoo.Embedded, variants: Sequence[Variant], num_prompts: int, seed: int, folder: Path, console: Console
) -> list[Measured]:
    """One result for each variant, against the full run. Finished measurements are kept in ``folder``."""
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("generating", total=num_prompts * len(variants))
        return measure(
            embedded.pipe,
            Variant("full", embedded.arguments["num_inference_steps"]),
            variants,
            calls_of(embedded.arguments, embedded.held_out_prompts[:num_prompts], seed),
            folder,
            on_generation=partial(progress.advance, task),
        )
