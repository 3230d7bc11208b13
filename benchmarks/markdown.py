"""Tables and figures as the pages show them."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from ertacache.metrics import interval

Rows = Sequence[Sequence[str]]
"""A table's cells, its head first; what is best may be in bold, as Markdown has it."""


def table(rows: Rows) -> str:
    """A table as Markdown."""
    lines = ["".join(f"| {cell} " if cell else "| " for cell in row) + "|" for row in rows]
    lines.insert(1, "|---" * len(rows[0]) + "|")
    return "\n".join(lines)


def with_interval(values: Sequence[float], form: str = ".1f") -> str:
    """A mean with its 95 % interval over prompts."""
    low, high = interval(values)
    return f"{fmean(values):{form}} ({low:{form}} to {high:{form}})"
