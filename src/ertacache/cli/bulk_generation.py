"""``ertacache generate --prompts``: pictures or clips for many prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from ertacache.calibration.progress import CalibrationProgress
from ertacache.cli.console import say
from ertacache.cli.prompt_lines import Prompt, texts_of
from ertacache.distributed.bulk import MANIFEST, Manifest, Order, generate_all
from ertacache.evaluation.comparison import Variant


def generate_many(
    load: Any,
    variant: Variant,
    prompts: Sequence[Prompt],
    arguments: Mapping[str, Any],
    folder: Path,
    workers: Any,
    **given: Any,
) -> None:
    """Make what is missing in the folder, and say what there is.

    Args:
        load: the pipeline; with workers, what loads it.
        variant: the way to generate.
        prompts: one picture or clip for each.
        arguments: of every call.
        folder: where to.
        workers: processes that share the prompts, or None.
        given: further fields of `ertacache.distributed.bulk.Order`.

    Raises:
        typer.Exit: with status 1, if a picture could not be made.
    """
    own = [{} if isinstance(prompt, str) else dict(prompt) for prompt in prompts]
    order = Order(texts_of(prompts), variant, arguments, own=own if any(own) else (), **given)
    known = Manifest(folder, order)
    left = len(known.left())
    if left < len(prompts):
        say(f"{len(prompts) - left} of {len(prompts)} are there already")
    with CalibrationProgress(True, "files") as progress:
        progress.phase("generating")
        progress.expect(left)
        manifest = generate_all(load, order, folder, workers, lambda entry: progress.advance(1))
    entries = manifest.entries.values()
    flagged = sorted(entry["file"] for entry in entries if entry.get("flagged") and "file" in entry)
    failed = [entry for entry in entries if "error" in entry]
    if flagged:
        again = ", made again in full" if order.recompute_flagged else ""
        say(f"{len(flagged)} flagged by the guard{again}: {', '.join(flagged)}")
    for entry in failed:
        say(f"prompt {entry['number']} failed: {entry['error']}")
    say(f"wrote {len(prompts) - len(failed)} files and {folder / MANIFEST}")
    if failed:
        raise typer.Exit(1)
