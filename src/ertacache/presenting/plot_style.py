"""What all plots share: the colours of a schedule, labels taken literally, and how figures become files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ertacache.files import written_whole
from ertacache.untrusted_text import visible

COMPUTED, CACHED = "#1f4e79", "#d9e2ec"
LITERAL: dict[str, Any] = {"parse_math": False, "usetex": False}
"""Makes matplotlib show a text as it is: a prompt may contain dollar signs."""


def plot_suffixes() -> tuple[str, ...]:
    """The file suffixes that plots can be written to, ``.png`` first."""
    others = set(Figure().canvas.get_supported_filetypes()) - {"png"}
    return (".png", *sorted(f".{kind}" for kind in others))


def save_figure(figure: Figure, path: str | os.PathLike[str], dpi: int) -> None:
    """Write a figure, whole or not at all, in the format of the path's suffix (PNG without one).

    Args:
        figure: the figure.
        path: the file to write.
        dpi: pixels per inch, for formats made of pixels.
    """
    with written_whole(Path(path)) as unfinished:
        figure.savefig(unfinished, dpi=dpi, format=Path(path).suffix[1:].lower() or "png")


def literal_legend(figure: Figure, drawn: Mapping[str, Any]) -> None:
    """Add a legend that shows its labels as they are, below the axes: there it covers no data.

    Args:
        figure: a figure with constrained layout.
        drawn: for each label, the line or marker that it names.
    """
    handles, labels = list(drawn.values()), [str(k) for k in range(len(drawn))]
    columns = 2 if len(drawn) > 1 else 1
    legend = figure.legend(handles, labels, frameon=False, fontsize=8, loc="outside lower center", ncols=columns)
    # The labels are set afterwards: legend() leaves out those that begin with an underscore.
    for text, label in zip(legend.get_texts(), drawn, strict=True):
        text.set(text=visible(label), **LITERAL)
