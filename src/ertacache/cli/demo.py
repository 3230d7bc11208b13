"""``ertacache demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ertacache.cli import options
from ertacache.cli.console import console, say
from ertacache.output_paths import checked_folder

SPEEDUPS = (2.0, 3.0)


def demo(
    model: Annotated[str, typer.Option(help=f"One of {options.MODELS}.")] = "emoji",
    speedup: Annotated[
        list[float] | None,
        typer.Option(help="All steps over computed ones; 2 computes half of them. Repeatable. Default: 2 and 3."),
    ] = None,
    method: options.Method = "aligned",
    prompts: Annotated[int, typer.Option(min=1, max=64, help="How many held-out prompts to generate.")] = 12,
    calibration_prompts: Annotated[int, typer.Option(min=1, max=64, help="How many prompts to calibrate on.")] = 8,
    out: Annotated[Path, typer.Option(help="Folder for the pictures, the plots and the policies.")] = Path("out/demo"),
    seed: options.Seed = 1000,
) -> None:
    """Calibrate on a small pipeline, and show full, accelerated and fewer-steps runs, and a rival's, side by side."""
    checked_folder(out)
    from ertacache.cli import demonstration

    files = demonstration.run(
        model=model,
        speedups=list(dict.fromkeys(speedup or SPEEDUPS)),
        method=method,
        num_prompts=prompts,
        num_calibration_prompts=calibration_prompts,
        out=out,
        seed=seed,
        console=console,
    )
    for path in files:
        say(f"wrote {path}")
