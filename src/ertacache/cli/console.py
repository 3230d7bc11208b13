"""Printing to the terminal."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.text import Text

from ertacache.untrusted_text import visible

console = Console()
notes = Console(stderr=True)
"""For what is beside the result, so that a program can read standard output."""


def say(text: str, *, to: Console | None = None, soft_wrap: bool = False) -> None:
    """Print a text without markup, with control characters escaped.

    Args:
        text: what to print.
        to: the console to print to; by default the one for standard output.
        soft_wrap: leave long lines to the terminal, so that an address in them can be copied whole.
    """
    (to or console).print(Text(visible(text)), soft_wrap=soft_wrap)


def escape_unprintable() -> None:
    r"""From now on, print characters that the terminal's encoding lacks as ``\x..`` instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
