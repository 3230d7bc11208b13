"""The driver: gathers what workers hand in, tells all of them, and starts a worker again that has died."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from ertacache.calibration.progress import CalibrationProgress
from ertacache.distributed.messages import (
    Died,
    Done,
    Failed,
    HandedIn,
    Interrupted,
    Job,
    Message,
    Outcome,
    Reply,
    Settled,
    Shown,
)
from ertacache.errors import CalibrationError

T = TypeVar("T")

LIVES = 2
"""How often a worker may be started before its death ends the job."""


class Carrier(Protocol):
    """Starts workers, and carries messages."""

    @property
    def num_workers(self) -> int:
        """How many workers there are."""

    def start(self, job: Job) -> None:
        """Start the worker of the job's rank, in place of one that has died."""

    def wait(self) -> tuple[int, Message]:
        """Wait for a message of any worker, and return its rank and the message; `Died` if it is gone."""

    def send(self, rank: int, reply: Reply) -> None:
        """Answer a worker; one that has died meanwhile hears nothing."""

    def node(self, rank: int) -> str:
        """Where a worker runs, in words."""

    def close(self) -> None:
        """End all workers."""


class Driver:
    """Runs one job on all workers.

    Args:
        carrier: has the workers.
        job: what each is to do; rank and history are filled in.
        show: whether to show progress.

    Attributes:
        replies: all exchanges so far.
    """

    def __init__(self, carrier: Carrier, job: Job, *, show: bool) -> None:
        self._carrier, self._job, self._show = carrier, job, show
        self._waiting: dict[int, HandedIn] = {}
        self._outcomes: dict[int, Outcome] = {}
        self._done: dict[int, Done] = {}
        self._last: dict[int, HandedIn] = {}
        self._starts: Counter[int] = Counter()
        self._interrupted = False
        self.replies: list[Reply] = []

    def run(self) -> Any:
        """Run it, and return what the task returned.

        Raises:
            CalibrationError: if a worker dies twice, or the workers come to different results.
            KeyboardInterrupt: if the user presses Ctrl-C twice, or once where the task does not take it.
        """
        try:
            with CalibrationProgress(self._show) as progress:
                for rank in range(self._carrier.num_workers):
                    self._start(rank)
                while len(self._done) < self._carrier.num_workers:
                    try:
                        rank, message = self._carrier.wait()
                    except KeyboardInterrupt:
                        if self._interrupted:
                            raise
                        self._interrupted = True
                        progress.say("interrupted: ending with what there is; press Ctrl-C again to stop at once")
                        continue
                    self._take(rank, message, progress)
        finally:
            self._carrier.close()
        return self._result()

    def _start(self, rank: int) -> None:
        self._starts[rank] += 1
        self._carrier.start(
            replace(
                self._job,
                rank=rank,
                num_workers=self._carrier.num_workers,
                replies=tuple(self.replies),
                outcomes=dict(self._outcomes),
            )
        )

    def _take(self, rank: int, message: Message, progress: CalibrationProgress) -> None:
        if isinstance(message, HandedIn):
            self._hand_in(rank, message)
        elif isinstance(message, Shown):
            getattr(progress, message.how)(message.value)
        elif isinstance(message, Settled):
            self._outcomes[message.begin] = message.outcome
        elif isinstance(message, Done):
            self._done[rank] = message
        elif isinstance(message, Failed) and message.is_final:
            raise message.error
        elif rank not in self._done:
            self._restart(rank, message, progress)

    def _hand_in(self, rank: int, message: HandedIn) -> None:
        self._last[rank] = message
        if message.number < len(self.replies):  # started again, it asks for what was answered while it loaded
            self._carrier.send(rank, self.replies[message.number])
            return
        self._waiting[rank] = message
        if len(self._waiting) == self._carrier.num_workers:
            self._check_places()
            reply: Reply = [one for k in sorted(self._waiting) for one in self._waiting[k].own]
            if self._interrupted:
                reply, self._interrupted = Interrupted(), False
            self._waiting.clear()
            self.replies.append(reply)
            for other in range(self._carrier.num_workers):
                self._carrier.send(other, reply)

    def _check_places(self) -> None:
        """Raise `CalibrationError` if the workers hand in different things, so that one has gone another way."""
        places = {rank: one.what for rank, one in self._waiting.items()}
        if len(set(places.values())) > 1:
            raise CalibrationError(
                "the workers are not at the same place",
                given="; ".join(f"worker {rank}: {what}" for rank, what in sorted(places.items())),
                cure="Give all of them the same files to begin with, such as one shared checkpoint folder.",
            )

    def _restart(self, rank: int, message: Failed | Died, progress: CalibrationProgress) -> None:
        """Start a worker again that has died, or raise `CalibrationError` if it was started as often as it may be."""
        how = message.how
        last = self._last.get(rank)
        after = f"after {last.what}" if last else "before its first step"
        prompts = f"prompts {last.prompts.start} to {last.prompts.stop - 1}" if last and last.prompts else "its prompts"
        if self._starts[rank] >= LIVES:
            trace = f"\n{message.trace}" if isinstance(message, Failed) else ""
            raise CalibrationError(
                f"a worker has died {LIVES} times",
                given=f"worker {rank} with {prompts}, on {self._carrier.node(rank)}, {after}: {how}{trace}",
                cure=f"{message.cure} Full runs that were made are in the checkpoint, if one was given.",
            )
        progress.say(f"worker {rank} has died {after} ({how}), and is started again")
        self._start(rank)

    def _result(self) -> Any:
        prints = {done.print for done in self._done.values()}
        if len(prints) > 1:
            raise CalibrationError(
                "the workers came to different results",
                given=", ".join(sorted(prints)),
                cure="Use machines of one kind, with the same number of threads.",
            )
        return self._done[0].result


class CarriedWorkers:
    """Workers that a carrier starts, for jobs that they share and for pools.

    Attributes:
        num_workers: how many.
        threads: of torch in each; None for its default.
    """

    num_workers: int
    threads: int | None

    def carrier(self) -> AbstractContextManager[Carrier]:
        """What starts them and carries their messages."""
        raise NotImplementedError

    def run(self, task: Callable[..., T], load: Any, arguments: Sequence[Any], keywords: dict[str, Any]) -> T:
        """See `ertacache.calibration.shard.Workers`."""
        job = Job(task, load, arguments, keywords, 0, self.num_workers, self.threads)
        with self.carrier() as carrier:
            result: T = Driver(carrier, job, show=bool(keywords.get("progress"))).run()
            return result
