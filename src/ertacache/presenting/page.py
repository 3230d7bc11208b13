"""The parts of an HTML report, and how it becomes one self-contained file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
from ertacache.presenting.inline_media import Film, film_of, inline_svg, picture_uri, sound_uri
from ertacache.untrusted_text import visible


@dataclass(frozen=True)
class Grid:
    """A table.

    Args:
        head: the names of the columns; empty for a table without a head.
        rows: the cells, as text.
        caption: what the table shows.
        note: a warning below it.
        stacked: on a narrow screen every row becomes a block of its own; otherwise the table is scrolled there.
    """

    kind: ClassVar[str] = "grid"
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    note: str = ""
    stacked: bool = False

    @classmethod
    def of(cls, table: Table, *, stacked: bool = False) -> Grid:
        """The same table as the terminal shows."""
        columns = [[_text(cell) for cell in column.cells] for column in table.columns]
        head = [" ".join(_text(column.header).split()) for column in table.columns] if table.show_header else []
        texts = _text(table.title or ""), _text(table.caption or "")
        return cls(head, list(zip(*columns, strict=True)), *texts, stacked)


def _text(cell: Any) -> str:
    """A cell as plain text, as a terminal shows it."""
    return cell.plain if isinstance(cell, Text) else Text.from_markup(str(cell)).plain


@dataclass(frozen=True)
class Plot:
    """A plot.

    Args:
        figure: a matplotlib figure; black becomes the page's text colour.
        label: what it shows, for screen readers.
        caption: how to read it.
    """

    kind: ClassVar[str] = "plot"
    figure: Figure
    label: str
    caption: str = ""

    @cached_property
    def svg(self) -> str:
        """The plot as SVG markup."""
        return inline_svg(self.figure)


@dataclass(frozen=True)
class Case:
    """One prompt, generated in several ways.

    Args:
        prompt: the text of the prompt.
        note: its rank among all prompts, such as "the worst of 32".
        pictures: for the name of each way to generate, float (3, height, width) in 0 .. 1, or a clip,
            (frames, 3, height, width).
        figures: for names of ways, the quality to print below, such as "31.4 dB".
        fps: of clips, frames per second.
        sounds: of clips with sound, for the name of each way, float (channels, samples) in -1 .. 1.
        sampling_rate: of the sounds, in Hz.
    """

    prompt: str
    note: str
    pictures: Mapping[str, Tensor]
    figures: Mapping[str, str]
    fps: int = 8
    sounds: Mapping[str, Tensor] = field(default_factory=dict)
    sampling_rate: int = 0

    @property
    def key(self) -> str:
        """Tells it from the other cases of a page: other parts of the page find its pictures by this."""
        return hashlib.sha256(f"{self.note}\0{self.prompt}".encode("utf-8", "backslashreplace")).hexdigest()[:12]

    @cached_property
    def sound_uris(self) -> dict[str, str]:
        """The sounds, each as a ``data:`` URI; the loudest of them fills the range, the others keep their ratio."""
        loudest = max((float(sound.abs().max()) for sound in self.sounds.values()), default=1.0) or 1.0
        return {name: sound_uri(sound / loudest, self.sampling_rate) for name, sound in self.sounds.items()}

    @property
    def is_clip(self) -> bool:
        """Whether the pictures are clips."""
        return next(iter(self.pictures.values())).ndim == 4

    @cached_property
    def film(self) -> Film:
        """All clips side by side in one film: that way they always play in step."""
        return film_of(self.pictures, self.fps)

    @cached_property
    def uris(self) -> dict[str, str]:
        """The pictures, each as a ``data:`` URI."""
        return {name: picture_uri(picture) for name, picture in self.pictures.items()}

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        first = next(iter(self.pictures.values()))
        return first.shape[-1], first.shape[-2]


@dataclass(frozen=True)
class Sheet:
    """One prompt's pictures in a row, and below each its difference from the first. Its case must be in the page.

    Args:
        case: the prompt.
        names: of the ways to generate to show; the first is what the others are compared with.
        gain: how many times as bright differences are shown.
        figures: for names of ways, what to print above the picture.
    """

    kind: ClassVar[str] = "sheet"
    case: Case
    names: Sequence[str]
    gain: int
    figures: Mapping[str, str]


@dataclass(frozen=True)
class Cases:
    """Prompts to look at: for each, two ways to generate on either side of a slider.

    Args:
        cases: at least one, all with the same ways to generate.
        left: the way shown left of the slider at first.
        right: the way shown right of it at first.
        panels: of the ways that are also shown beside the slider, each with its difference from the first.
        gain: how many times as bright differences are shown.
        opened: how many cases are seen at once; the others can be unfolded.
    """

    kind: ClassVar[str] = "cases"
    cases: Sequence[Case]
    left: str
    right: str
    panels: Sequence[str] = ()
    gain: int = 8
    opened: int = 3

    @property
    def names(self) -> list[str]:
        """The names of the ways to generate."""
        return list(self.cases[0].pictures)

    @property
    def are_clips(self) -> bool:
        """Whether the pictures are clips."""
        return self.cases[0].is_clip


@dataclass(frozen=True)
class Folded:
    """Content that a click unfolds.

    Args:
        summary: what it is.
        part: the content.
    """

    kind: ClassVar[str] = "folded"
    summary: str
    part: Grid


Part = str | Grid | Plot | Sheet | Cases | Folded
"""What a section may hold; a string is a paragraph."""


@dataclass(frozen=True)
class Section:
    """A heading with its content: paragraphs, tables, plots, pictures."""

    title: str
    parts: Sequence[Part]


@dataclass(frozen=True)
class Page:
    """A report.

    Args:
        title: the heading of the page.
        lead: what the page shows, in a sentence or two.
        sections: the content.
        verdict: what came out, one sentence each.
    """

    title: str
    lead: str
    sections: Sequence[Section]
    verdict: Sequence[str] = ()


def write(page: Page, path: str | os.PathLike[str]) -> None:
    """Write a report as one HTML file, whole or not at all.

    Args:
        page: the report.
        path: the file to write. If that fails, the page goes to a temporary folder, and the error says where.

    Raises:
        OutputError: if it cannot be written there.
    """
    environment = Environment(
        loader=PackageLoader("ertacache.presenting"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_visible_text,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    values: dict[str, Any] = {"page": page, "version": __version__}
    text = environment.get_template("page.html").render(values)

    def write_text(target: Path) -> None:
        with written_whole(target) as unfinished:
            Path(unfinished).write_text(text, encoding="utf-8")

    kept_somewhere(Path(path), write_text)


def _visible_text(value: Any) -> Any:
    """What the template prints for a value: control characters in text made visible, markup unchanged."""
    return visible(value) if type(value) is str else value
