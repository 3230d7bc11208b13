"""Show the progress of long work: a bar in a terminal, now and then a line where there is none."""

from __future__ import annotations

from time import monotonic
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from ertacache.untrusted_text import visible

LINE_EVERY = 15.0
"""Seconds between two lines of progress where no bar can be drawn, as in a file or a log."""


class CalibrationProgress:
    """A progress bar, with lines of text above it; without a terminal, a line of progress every `LINE_EVERY` seconds.

    Args:
        show: whether to show anything at all.
        unit: what is counted; a calibration counts denoiser calls.
    """

    def __init__(self, show: bool, unit: str = "denoiser calls") -> None:
        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(unit),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not show,
        )
        self._task = self._bar.add_task("calibrating", total=None)
        self._unit = unit
        self._as_lines = show and not (console.is_jupyter or (console.is_terminal and not console.is_dumb_terminal))
        self._begun = self._told = monotonic()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def expect(self, count: int) -> None:
        """Set the total: at most so many will be made."""
        self._bar.update(self._task, total=count)

    def advance(self, count: int) -> None:
        """Advance the bar by so many."""
        self._bar.advance(self._task, count)
        if self._as_lines and monotonic() - self._told >= LINE_EVERY:
            self._told = monotonic()
            self.say(self._line())

    def _line(self) -> str:
        task = self._bar.tasks[0]
        total = "" if task.total is None else f" of {task.total:.0f}"
        return f"{task.description}: {task.completed:.0f}{total} {self._unit}, {monotonic() - self._begun:.0f} s so far"

    def phase(self, name: str) -> None:
        """Show what is being done now."""
        self._bar.update(self._task, description=name)

    def say(self, line: str) -> None:
        """Print a line that stays."""
        if not self._bar.disable:
            self._bar.console.print(Text(visible(line)))
