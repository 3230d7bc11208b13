"""A worker's share of the prompts, and its line to the driver."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar, cast

from ertacache.calibration.progress import CalibrationProgress
from ertacache.clock import now
from ertacache.distributed.messages import HandedIn, Interrupted, Job, Reply, Settled, Shown

T = TypeVar("T")

PATIENCE = 0.5
"""Seconds between two messages about progress."""


class Line(Protocol):
    """The line from a worker to its driver."""

    def send(self, message: Any) -> None:
        """Send a message."""

    def receive(self) -> Reply:
        """Wait for the answer."""


class LineShard:
    """See `ertacache.calibration.shard.Shard`.

    A worker that was started again has all exchanges so far. Until it has caught up it asks nobody, and loops that are
    over it does not run again.

    Args:
        job: what the worker is to do.
        line: to the driver.
    """

    def __init__(self, job: Job, line: Line) -> None:
        self._job, self._line = job, line
        self._number = 0
        self._own = range(0)

    @property
    def is_first(self) -> bool:
        """Whether it holds the first prompt."""
        return self._job.rank == 0

    @property
    def num_workers(self) -> int:
        """How many workers there are."""
        return self._job.num_workers

    @property
    def catches_up(self) -> bool:
        """Whether what it does now was done before."""
        return self._number < len(self._job.replies)

    def numbers(self, num_prompts: int) -> range:
        """Neighbouring prompts; the first workers have one more if they do not come out even."""
        each, more = divmod(num_prompts, self._job.num_workers)
        start = self._job.rank * each + min(self._job.rank, more)
        self._own = range(start, start + each + (self._job.rank < more))
        return self._own

    def gather(self, own: Sequence[T], what: str) -> list[T]:
        """Hand in, and wait for the others.

        Raises:
            KeyboardInterrupt: if the user has pressed Ctrl-C.
        """
        number = self._number
        if self.catches_up:
            reply = self._job.replies[number]
        else:
            self._line.send(HandedIn(number, list(own), what, self._own))
            reply = self._line.receive()
        self._number += 1
        if isinstance(reply, Interrupted):
            raise KeyboardInterrupt
        return reply

    def agreed(self, value: Callable[[], T], what: str) -> T:
        """What the first worker finds."""
        found = [value()] if self.is_first and not self.catches_up else []
        return self.gather(found, what)[0]

    def settled(self, loop: Callable[[], T]) -> tuple[T, bool]:
        """Run the loop, unless it is over."""
        begin = self._number
        if begin in self._job.outcomes:
            outcome, self._number = self._job.outcomes[begin]
            return outcome, False
        found = loop()
        if self.is_first:
            self._line.send(Settled(begin, (found, self._number)))
        return found, True

    def progress(self, show: bool) -> CalibrationProgress:
        """What the driver shows."""
        return cast(CalibrationProgress, RemoteProgress(self, self._line, show))


class RemoteProgress:
    """Tells the driver what to show; all workers say how many calls they made, the first one also what it does.

    Args:
        shard: of this worker.
        line: to the driver.
        show: whether to show anything.
    """

    def __init__(self, shard: LineShard, line: Line, show: bool) -> None:
        self._shard, self._line, self._show = shard, line, show
        self._calls, self._told = 0, now()

    def __enter__(self) -> RemoteProgress:
        return self

    def __exit__(self, *error: object) -> None:
        self._tell("advance", self._calls)

    def expect(self, denoiser_calls: int) -> None:
        """See `ertacache.calibration.progress.CalibrationProgress`."""
        self._say("expect", denoiser_calls)

    def phase(self, name: str) -> None:
        """See there."""
        self._say("phase", name)

    def say(self, line: str) -> None:
        """See there."""
        self._say("say", line)

    def advance(self, denoiser_calls: int) -> None:
        """See there; told twice a second at most."""
        self._calls += denoiser_calls
        if now() - self._told > PATIENCE:
            self._tell("advance", self._calls)
            self._calls, self._told = 0, now()

    def _say(self, how: str, value: Any) -> None:
        if self._shard.is_first:
            self._tell(how, value)

    def _tell(self, how: str, value: Any) -> None:
        if self._show and not self._shard.catches_up:
            self._line.send(Shown(how, value))
