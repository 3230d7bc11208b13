"""Show the progress of a calibration."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from ertacache.untrusted_text import visible


class CalibrationProgress:
    """A progress bar over denoiser calls, with lines of text above it.

    Args:
        show: whether to show anything at all.
    """

    def __init__(self, show: bool) -> None:
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("denoiser calls"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not show,
        )
        self._task = self._bar.add_task("calibrating", total=None)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def expect(self, denoiser_calls: int) -> None:
        """Set the total: at most so many calls will be made."""
        self._bar.update(self._task, total=denoiser_calls)

    def advance(self, denoiser_calls: int) -> None:
        """Advance the bar by so many calls."""
        self._bar.advance(self._task, denoiser_calls)

    def phase(self, name: str) -> None:
        """Show what is being done now."""
        self._bar.update(self._task, description=name)

    def say(self, line: str) -> None:
        """Print a line that stays."""
        if not self._bar.disable:
            self._bar.console.print(Text(visible(line)))
