"""Items that are handed out one by one to whichever worker is free, as pictures in bulk are."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from ertacache.distributed.driver import LIVES, Carrier
from ertacache.distributed.messages import Died, Done, Failed, HandedIn, Job
from ertacache.errors import CalibrationError


@dataclass(frozen=True)
class Lost:
    """What became of an item at which a worker died as often as it may.

    Args:
        how: what is known of the end.
    """

    how: str


class Pool:
    """Hands items to workers, and takes their results.

    A worker's task is ``task(pipe, ..., next_item=...)``: it calls ``next_item(result)`` with the result of the item
    before, None at first, and gets the next one, or None if there is none left.

    Args:
        carrier: has the workers.
        job: what each is to do; its keywords get ``next_item``.
        on_result: called with an item and its result, or `Lost`.
    """

    def __init__(self, carrier: Carrier, job: Job, on_result: Callable[[Any, Any], None]) -> None:
        self._carrier, self._job, self._on_result = carrier, job, on_result
        self._holds: dict[int, Any] = {}
        self._deaths: Counter[Any] = Counter()
        self._idle_deaths: Counter[int] = Counter()

    def run(self, items: Iterable[Any]) -> None:
        """Have all items done.

        Args:
            items: which can be pickled and hashed.

        Raises:
            CalibrationError: if a worker dies twice before its first item.
        """
        left, busy = deque(items), set(range(self._carrier.num_workers))
        try:
            for rank in busy:
                self._start(rank)
            while busy:
                rank, message = self._carrier.wait()
                if isinstance(message, HandedIn):
                    self._hand_out(rank, message, left)
                elif isinstance(message, Done):
                    busy.discard(rank)
                elif rank in busy and isinstance(message, (Failed, Died)):
                    self._died(rank, message, left)
        finally:
            self._carrier.close()

    def _start(self, rank: int) -> None:
        self._carrier.start(replace(self._job, rank=rank, num_workers=self._carrier.num_workers))

    def _hand_out(self, rank: int, message: HandedIn, left: deque[Any]) -> None:
        if rank in self._holds:
            self._on_result(self._holds.pop(rank), message.own[0])
        self._idle_deaths[rank] = 0
        if left:
            self._holds[rank] = left.popleft()
        self._carrier.send(rank, [self._holds.get(rank)])

    def _died(self, rank: int, message: Failed | Died, left: deque[Any]) -> None:
        """Put its item back, and start it again."""
        if isinstance(message, Failed) and message.is_final:
            raise message.error
        how = message.how
        if rank in self._holds:
            item = self._holds.pop(rank)
            self._deaths[item] += 1
            if self._deaths[item] < LIVES:
                left.appendleft(item)
            else:
                self._on_result(item, Lost(how))
        else:
            self._idle_deaths[rank] += 1
            if self._idle_deaths[rank] >= LIVES:
                raise CalibrationError(
                    f"a worker has died {LIVES} times before its first picture",
                    given=f"worker {rank}, on {self._carrier.node(rank)}: {how}",
                    cure=f"{message.cure} See whether the model can be loaded there.",
                )
        self._start(rank)
