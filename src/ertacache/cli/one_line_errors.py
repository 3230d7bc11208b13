"""Errors of the command line as one line with the cure; bugs keep their traceback."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from traceback import walk_tb

import typer
from rich.text import Text

from ertacache.cli.console import notes, say
from ertacache.errors import ERTACacheError
from ertacache.memory_errors import full_memory
from ertacache.untrusted_text import visible


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Print an error that the input, a file, the disk or full memory caused as one line, and exit with status 2.

    An interrupt (Ctrl-C) prints "interrupted" and exits with status 130. Any other error is a bug, and passes through.
    """
    try:
        yield
    except KeyboardInterrupt:
        say("interrupted", to=notes)
        raise typer.Exit(130) from None
    except Exception as error:
        message = _message_of(error)
        if message is None:
            raise
        line = Text.assemble(("error:", "red"), " ", visible(" ".join(message.split())))
        notes.print(line, soft_wrap=True)
        raise typer.Exit(2) from None


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the name of its class if it has no message."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _message_of(error: Exception) -> str | None:
    """The message to show for an error that the input, a file, the disk or full memory caused; None for a bug."""
    if isinstance(error, ERTACacheError):
        return str(error)
    if hasattr(error, "format_message"):  # a wrong option; the class is typer's, or click's in older versions
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "ertacache"
        return f"{error.format_message().rstrip('.')}. See `{command} --help`."
    if full := full_memory(error):
        told = ". ".join(first_line(error).split(". ")[:3]).rstrip(".")  # what torch counts up after that is long
        return f"{full.what}: {told}. {full.cure}"
    if isinstance(error, OSError):
        return _message_of_system(error)
    if isinstance(error, ModuleNotFoundError):
        return f"a package is missing: {error}. Install what the commands need: pip install 'ertacache[cli]'."
    if isinstance(error, UnicodeError):
        return f"a text cannot be read or written: {error}. Use UTF-8 in files and names."
    if isinstance(error, RecursionError):
        return "a file is nested too deeply to be read. Make it again."
    if type(error).__name__ == "SafetensorError":
        return f"a file cannot be read or written: {error}. Check that it is complete, and that its disk has room."
    if _raised_by_pipeline(error):
        return (
            f"the pipeline refused this call: {type(error).__name__}: {first_line(error)}. "
            "Check the prompts and the --set arguments."
        )
    return None


def _message_of_system(error: OSError) -> str | None:
    if error.errno == errno.EPIPE:  # the reader of our output is gone
        return None
    if error.errno is None:
        return str(error)
    path = error.filename or "a file"
    return f"{error.strerror}: {path}. Check that it exists, that you have permission, and that its disk has room."


def _raised_by_pipeline(error: Exception) -> bool:
    """Whether the error came out of a pipeline's call, and not from code of this library."""
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    called = any(f.f_code.co_name == "__call__" and hasattr(f.f_locals.get("self"), "scheduler") for f in frames)
    last = frames[-1].f_globals.get("__name__", "")
    return called and not (last.startswith("ertacache.") and not last.startswith("ertacache.opensora."))
