"""Run a benchmark over several processes, which share its prompts: the same figures, sooner.

    python -m benchmarks.spread 4 benchmarks.method wan
    python -m benchmarks.spread 8 benchmarks.paper

Each process runs the whole program. Calibrations and measurements share their prompts, and at their end all processes
know the same (`ertacache.calibration.shard`). What rivals prepare for themselves, each prepares anew. The first process
prints; all write the same files, whole. An interrupted run is continued with or without other processes.

Speedups are ratios of a process's own times; on a processor whose cores all work, they scatter more.
"""

from __future__ import annotations

import contextlib
import os
import runpy
import sys
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Annotated, Any

import typer

from ertacache.calibration.shard import current_shard
from ertacache.distributed import Processes


def no_pipeline() -> Any:
    """What a worker loads: benchmarks load their own."""
    return SimpleNamespace(components={})


def run_module(nothing: Any, module: str, arguments: Sequence[str]) -> None:
    """Run a module as a program, silently but in the first process.

    Args:
        nothing: in place of a pipeline.
        module: its dotted name.
        arguments: of the program.
    """
    sys.argv = [module, *arguments]
    with contextlib.ExitStack() as stack:
        if not current_shard().is_first:
            hidden = stack.enter_context(open(os.devnull, "w"))
            stack.enter_context(contextlib.redirect_stdout(hidden))
            stack.enter_context(contextlib.redirect_stderr(hidden))
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as end:  # typer ends programs so
            if end.code:
                raise RuntimeError(f"{module} ended with status {end.code}") from end


def main(
    num_workers: Annotated[int, typer.Argument(help="processes")],
    module: Annotated[str, typer.Argument(help="the benchmark, such as benchmarks.method")],
    arguments: Annotated[list[str] | None, typer.Argument(help="of the benchmark")] = None,
    threads: Annotated[int, typer.Option(help="of torch in each process")] = 1,
) -> None:
    """Start the processes."""
    Processes(num_workers, threads=threads).run(run_module, no_pipeline, (module, arguments or []), {})


if __name__ == "__main__":
    typer.run(main)
