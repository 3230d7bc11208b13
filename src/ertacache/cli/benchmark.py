"""``ertacache benchmark``: becomes ``python -m benchmarks.rivals`` of the checkout that this package is part of."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from ertacache.cli import options
from ertacache.errors import PipelineError
from ertacache.output_paths import checked_folder, checked_output

_SOURCE = Path(__file__).parents[2]
_CHECKOUT = _SOURCE.parent


def benchmark(
    models: Annotated[
        list[str] | None, typer.Argument(help=f"Of {options.MODELS}. Default: all that this checkout has.")
    ] = None,
    rival: Annotated[
        list[str] | None,
        typer.Option(help="Measure only this rival, by its name in the tables; keep the others' rows. Repeatable."),
    ] = None,
    prompts: Annotated[int, typer.Option(min=1, max=64, help="How many held-out prompts.")] = 32,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the figures, as JSON. Default: benchmarks/results, if not --quick.")
    ] = None,
    page: Annotated[
        Path | None,
        typer.Option(help="The Markdown page about all of --out. Default: docs/records/results.md, if not --quick."),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="The HTML page with pictures. Default: results.html in the --work folder.")
    ] = None,
    work: Annotated[
        Path,
        typer.Option(help="Folder for policies and unfinished measurements, and for everything --quick writes."),
    ] = Path("out/benchmark"),
    seed: options.Seed = 1000,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Two prompts, eight steps, one setting per rival: a check, not a measurement."),
    ] = False,
) -> None:
    """Compare with every rival on the small pipelines, in a checkout of the repository; takes hours, can be resumed."""
    if not (_CHECKOUT / "benchmarks/rivals").is_dir():
        raise PipelineError(
            "the rivals do not travel with the package",
            given=str(_SOURCE / "ertacache"),
            cure="Clone the repository and install it from there: pip install -e '.[dev]'.",
        )
    folder = checked_folder(out or (work / "quick" if quick else Path("benchmarks/results")))
    page = checked_output(page or (work / "quick/results.md" if quick else Path("docs/records/results.md")))
    webpage = checked_output(report or work / ("quick/results.html" if quick else "results.html"), besides=[page])
    checked_folder(work)
    from ertacache import zoo

    for model in models or []:
        zoo.folder_of(model)
    paths = {"out": folder, "page": page, "report": webpage, "work": work}
    command = [
        *(models or zoo.available()),
        *(f"--rival={name}" for name in rival or []),
        f"--prompts={prompts}",
        f"--seed={seed}",
        *(f"--{name}={path}" for name, path in paths.items()),
        *(["--quick"] if quick else []),
    ]
    _become(["benchmarks.rivals", *command])


def _become(module_and_arguments: Sequence[str]) -> NoReturn:
    """Replace this process by one that runs a module of the checkout: its signals and its exit status are then ours."""
    # Without the working directory (-P), which may hold another folder `benchmarks`.
    path = [str(_CHECKOUT), str(_SOURCE), *filter(None, [os.environ.get("PYTHONPATH")])]
    command = [sys.executable, "-P", "-m", *module_and_arguments]
    os.execve(sys.executable, command, {**os.environ, "PYTHONPATH": os.pathsep.join(path)})
