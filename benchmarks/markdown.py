"""Markdown tables for the pages, and the files that hold the figures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console

from ertacache.files import written_whole
from ertacache.metrics import interval

Rows = Sequence[Sequence[str]]
"""A table's cells, its head first; the best may be in bold, in Markdown."""


def table(rows: Rows) -> str:
    """A table as Markdown."""
    lines = ["".join(f"| {cell} " if cell else "| " for cell in row) + "|" for row in rows]
    lines.insert(1, "|---" * len(rows[0]) + "|")
    return "\n".join(lines)


def with_interval(values: Sequence[float], form: str = ".1f") -> str:
    """A mean with its 95 % interval over prompts."""
    low, high = interval(values)
    return f"{fmean(values):{form}} ({low:{form}} to {high:{form}})"


def write_figures(out: Path, name: str, result: Mapping[str, Any], tables: Mapping[str, str], console: Console) -> None:
    """Write what was measured as ``name.json``, and each table of a page as Markdown under its own name."""
    texts = {f"{name}.json": json.dumps(result, indent=1)} | {f"{table}.md": text for table, text in tables.items()}
    for file, text in texts.items():
        with written_whole(out / file) as unfinished:
            Path(unfinished).write_text(text + "\n")
        console.print(f"wrote {out / file}", highlight=False)
