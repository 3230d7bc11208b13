"""What `ertacache benchmark` becomes once it has checked its arguments and filled in the defaults.

See `ertacache benchmark --help` for the arguments.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks import compare
from ertacache.cli.console import console, escape_unprintable, say
from ertacache.cli.one_line_errors import one_line_errors


def main(
    models: list[str],
    *,
    rival: Annotated[list[str] | None, typer.Option()] = None,
    prompts: Annotated[int, typer.Option()],
    seed: Annotated[int, typer.Option()],
    work: Annotated[Path, typer.Option()],
    out: Annotated[Path, typer.Option()],
    page: Annotated[Path, typer.Option()],
    report: Annotated[Path, typer.Option()],
    quick: Annotated[bool, typer.Option("--quick")] = False,
) -> None:
    """Measure, and write the figures and both pages."""
    escape_unprintable()
    with one_line_errors():
        written = compare.run(
            models,
            names=rival or (),
            prompts=prompts,
            seed=seed,
            work=work,
            out=out,
            page=page,
            webpage=report,
            quick=quick,
            console=console,
        )
        for path in written:
            say(f"wrote {path}")


if __name__ == "__main__":
    typer.run(main)
