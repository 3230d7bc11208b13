"""Remember what takes a while to make, for as long as it is among the results that were used last."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from threading import Lock
from typing import Generic, TypeVar

Made = TypeVar("Made")


class Memo(Generic[Made]):
    """Results by key: the last ones used.

    Threads may share it; if two ask for the same at once, both may make it.

    Args:
        kept: how many results are kept.
    """

    def __init__(self, kept: int) -> None:
        self._kept, self._lock = kept, Lock()
        self._made: dict[Hashable, Made] = {}

    def get(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """Get the result for a key; make it if it is not there.

        Args:
            key: what the result depends on.
            make: makes the result.
        """
        with self._lock:
            if key in self._made:
                self._made[key] = self._made.pop(key)  # move it behind the others, which are dropped first
                return self._made[key]
        result = make()  # without the lock: it takes a while
        with self._lock:
            self._made[key] = result
            while len(self._made) > self._kept:
                del self._made[next(iter(self._made))]
        return result

    def __len__(self) -> int:
        with self._lock:
            return len(self._made)
