"""The prompts of one process, and what it hears of the others': the seam between calibration and its workers.

Prompts meet in few places: their normal equations are summed at each step, their errors decide between schedules, their
Gram matrices are summed once. Everything else stays with the process that holds the prompt. So a calibration over many
workers is the same program in each of them, which at these places waits for what the others hand in. All then know the
same, in the order of the prompts, and go on alike: sums, and so policies, are the same to the bit for any number of
workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol, TypeVar

from ertacache.calibration.progress import CalibrationProgress
from ertacache.errors import CalibrationError

T = TypeVar("T")


class Shard(Protocol):
    """This process's share of the prompts, and its line to the processes that hold the others."""

    @property
    def is_first(self) -> bool:
        """Whether it holds the first prompt; it writes what is written once."""

    @property
    def num_workers(self) -> int:
        """How many processes there are."""

    def numbers(self, num_prompts: int) -> range:
        """The numbers of its own prompts, out of so many in all."""

    def gather(self, own: Sequence[T], what: str) -> list[T]:
        """Hand in something of each own prompt, and wait for that of all.

        Every process makes the same calls in the same order.

        Args:
            own: one for each own prompt, in their order, which can be pickled.
            what: what is being done, for an error that names it.

        Returns:
            One for each prompt, in the order of the prompts.
        """

    def agreed(self, value: Callable[[], T], what: str) -> T:
        """Find out something once: the first process does, and tells the others.

        Args:
            value: finds it out.
            what: as for `gather`.
        """

    def settled(self, loop: Callable[[], T]) -> tuple[T, bool]:
        """Run a whole loop over the prompts, unless it is over already and this process only catches up.

        Args:
            loop: runs it.

        Returns:
            What came of it, and whether it was run here and now.
        """

    def progress(self, show: bool) -> CalibrationProgress:
        """Make what shows the progress."""


class Alone:
    """All prompts are here."""

    is_first, num_workers = True, 1

    def numbers(self, num_prompts: int) -> range:
        """All of them."""
        return range(num_prompts)

    def gather(self, own: Sequence[T], what: str) -> list[T]:
        """All there are."""
        return list(own)

    def agreed(self, value: Callable[[], T], what: str) -> T:
        """What this process finds."""
        return value()

    def settled(self, loop: Callable[[], T]) -> tuple[T, bool]:
        """Run it."""
        return loop(), True

    def progress(self, show: bool) -> CalibrationProgress:
        """A progress bar in the terminal."""
        return CalibrationProgress(show)


_ALONE = Alone()
_current: ContextVar[Shard] = ContextVar("ertacache_shard")


def current_shard() -> Shard:
    """The shard of this process; `Alone` unless it is a worker."""
    return _current.get(_ALONE)


@contextmanager
def holding(shard: Shard) -> Iterator[None]:
    """Make a shard this process's, within a ``with`` block."""
    before = _current.set(shard)
    try:
        yield
    finally:
        _current.reset(before)


def own_numbers(shard: Shard, num_prompts: int) -> range:
    """The numbers of a shard's own prompts.

    Raises:
        CalibrationError: if there is none for it.
    """
    numbers = shard.numbers(num_prompts)
    if not numbers:
        raise CalibrationError(
            "there are more workers than prompts",
            given=f"{num_prompts} prompts",
            cure="Use as many workers as prompts at most; with more full runs (full_runs=), more prompts are used.",
        )
    return numbers


class Workers(Protocol):
    """Processes that hold a pipeline each; see `ertacache.distributed`."""

    def run(self, task: Callable[..., T], load: Any, arguments: Sequence[Any], keywords: dict[str, Any]) -> T:
        """Run ``task(pipe, *arguments, **keywords)`` in all of them, each with its own pipeline and shard.

        Args:
            task: a function of this library, such as `ertacache.calibrate`.
            load: returns a pipeline; or its id on the Hugging Face Hub, or its folder.
            arguments, keywords: of the task.

        Returns:
            What it returned, the same in all.
        """
