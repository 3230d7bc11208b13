"""What a report is made of, and how it becomes one file: nothing in it comes from outside."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure
from rich.table import Table
from rich.text import Text
from torch import Tensor

from ertacache._version import __version__
from ertacache.files import written_whole
from ertacache.output_paths import kept_somewhere
from ertacache.report.media import Film, film_of, inline_svg, picture_uri
from ertacache.untrusted_text import visible


@dataclass(frozen=True)
class Grid:
    """A table.

    Args:
        head: the columns' names, or none.
        rows: its cells, as text.
        caption: what it shows.
    """

    kind: ClassVar[str] = "grid"
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""

    @classmethod
    def of(cls, table: Table) -> Grid:
        """The table that the terminal shows."""
        columns = [[_text(cell) for cell in column.cells] for column in table.columns]
        head = [_text(column.header) for column in table.columns] if table.show_header else []
        return cls(head, list(zip(*columns, strict=True)), _text(table.title or ""))


def _text(cell: Any) -> str:
    """What a terminal shows of a cell."""
    return cell.plain if isinstance(cell, Text) else Text.from_markup(str(cell)).plain


@dataclass(frozen=True)
class Plot:
    """A drawing.

    Args:
        figure: of matplotlib; its black becomes the page's text colour.
        label: what it shows, for those who cannot see it.
        caption: how to read it.
    """

    kind: ClassVar[str] = "plot"
    figure: Figure
    label: str
    caption: str = ""

    @cached_property
    def svg(self) -> str:
        """The drawing as markup."""
        return inline_svg(self.figure)


@dataclass(frozen=True)
class Case:
    """One prompt, generated in several ways.

    Args:
        prompt: its text.
        note: which one it is: the worst, the median.
        pictures: for each way's name, float (channels, height, width) in 0 .. 1; clips with frames first.
        figures: for each way's name, how it is told from the full run: "31.4 dB".
        fps: of clips, frames a second.
    """

    prompt: str
    note: str
    pictures: Mapping[str, Tensor]
    figures: Mapping[str, str]
    fps: int = 8

    @property
    def is_clip(self) -> bool:
        """Whether it moves."""
        return next(iter(self.pictures.values())).ndim == 4

    @cached_property
    def film(self) -> Film:
        """All its clips side by side in one film, so that they cannot but play in step."""
        return film_of(self.pictures, self.fps)

    @cached_property
    def uris(self) -> dict[str, str]:
        """Its pictures, each as an address that holds it."""
        return {name: picture_uri(picture) for name, picture in self.pictures.items()}

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        first = next(iter(self.pictures.values()))
        return first.shape[-1], first.shape[-2]


@dataclass(frozen=True)
class Cases:
    """Prompts to look at, two ways at a time under a slider.

    Args:
        cases: all with the same ways.
        left: the way that is shown left of the slider at first.
        right: and right of it.
    """

    kind: ClassVar[str] = "cases"
    cases: Sequence[Case]
    left: str
    right: str

    @property
    def names(self) -> list[str]:
        """The ways to generate."""
        return list(self.cases[0].pictures)

    @property
    def are_clips(self) -> bool:
        """Whether they move."""
        return self.cases[0].is_clip


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it: paragraphs, tables, plots, cases."""

    title: str
    parts: Sequence[str | Grid | Plot | Cases]


@dataclass(frozen=True)
class Page:
    """A report.

    Args:
        title: its heading.
        lead: what it is, in a sentence or two.
        sections: what it shows.
    """

    title: str
    lead: str
    sections: Sequence[Section]


def write(page: Page, path: str | os.PathLike[str]) -> None:
    """Write a report as one HTML file, whole or not at all."""
    environment = Environment(
        loader=PackageLoader("ertacache.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    values: dict[str, Any] = {"page": page, "version": __version__}
    text = environment.get_template("page.html").render(values)

    def write_text(target: Path) -> None:
        with written_whole(target) as unfinished:
            Path(unfinished).write_text(text, encoding="utf-8")

    kept_somewhere(Path(path), write_text)


def _shown(value: Any) -> Any:
    """What takes the place of an expression: text as it can be seen; markup of this package as it is."""
    return visible(value) if type(value) is str else value
