"""The program ``ertacache``: its commands in the order of ``--help``, and the error handling around them."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

try:
    import rich  # noqa: F401
    import typer
    from typer.core import TyperGroup
except ImportError as error:  # pragma: no cover - a plain install has no command line
    sys.exit(f"ertacache: the command line needs more packages ({error}). Install them: pip install 'ertacache[cli]'")

from ertacache._version import __version__
from ertacache.cli.benchmark import benchmark
from ertacache.cli.calibrate import calibrate
from ertacache.cli.console import escape_unprintable, say
from ertacache.cli.demo import demo
from ertacache.cli.doctor import doctor
from ertacache.cli.draft import draft
from ertacache.cli.evaluate import evaluate
from ertacache.cli.generate import generate
from ertacache.cli.inspect import inspect
from ertacache.cli.one_line_errors import one_line_errors
from ertacache.cli.pick import pick
from ertacache.cli.push import push

# Modules that need torch, diffusers or matplotlib are imported inside the commands: they take seconds to import, and
# `--help` must not wait for them.

# Torch warns from C++ of what a reader of the output cannot act on, as when memory is watched. It reads this once.
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


class Commands(TyperGroup):
    """The group of all commands. Bad input never ends in a traceback, whatever the terminal's encoding."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run as a program."""
        escape_unprintable()
        return super().main(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        """Run a command, with its errors as one line."""
        with one_line_errors():
            return super().invoke(ctx)


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
)
for command in (demo, doctor, calibrate, pick, draft, generate, inspect, evaluate, push, benchmark):
    app.command()(command)


def _version(wanted: bool) -> None:
    if wanted:
        say(f"ertacache {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Make a diffusion pipeline faster, and see what it costs.

    It skips denoising steps and predicts what they would have given. Begin with `ertacache demo`. On a pipeline of your
    own, `generate --speedup 2` needs no preparation; `calibrate` makes a policy, which comes nearer to the full run.
    """
