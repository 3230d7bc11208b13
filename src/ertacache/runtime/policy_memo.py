"""What was made of policies, kept for as long as they live."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from threading import Lock
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary

from ertacache.policy import Policy

Made = TypeVar("Made")

KEPT = 8
"""How many things are kept of one policy."""


class PolicyMemo:
    """What was made of policies, by what it was made for: the newest `KEPT` of each policy, for as long as that lives.

    Threads may share it; of two that ask for the same at once, both may make it.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._made: WeakKeyDictionary[Policy, dict[Hashable, Any]] = WeakKeyDictionary()

    def get(self, policy: Policy, key: Hashable, make: Callable[[], Made]) -> Made:
        """What was made for this key, or what is made now."""
        with self._lock:
            made = self._made.setdefault(policy, {})
            if key in made:
                made[key] = made.pop(key)  # the newest
                return cast(Made, made[key])
        found = make()  # without the lock: it takes a while
        with self._lock:
            made[key] = found
            while len(made) > KEPT:
                del made[next(iter(made))]
        return found

    def __len__(self) -> int:
        with self._lock:
            return sum(map(len, self._made.values()))
