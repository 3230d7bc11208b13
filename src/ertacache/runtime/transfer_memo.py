"""Remember what was derived from policies, such as transfers, for as long as the policies live."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from threading import Lock
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary

from ertacache.policy import Policy

Made = TypeVar("Made")

KEPT = 8
"""How many results are kept for one policy."""


class PolicyMemo:
    """Results derived from policies, by key: the last `KEPT` used for each policy, for as long as the policy lives.

    Threads may share it; if two ask for the same at once, both may make it.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._made: WeakKeyDictionary[Policy, dict[Hashable, Any]] = WeakKeyDictionary()

    def get(self, policy: Policy, key: Hashable, make: Callable[[], Made]) -> Made:
        """Get the result for a key; make it if it is not there.

        Args:
            policy: the policy that the result is derived from.
            key: what else the result depends on.
            make: makes the result.
        """
        with self._lock:
            made = self._made.setdefault(policy, {})
            if key in made:
                made[key] = made.pop(key)  # move it behind the others, which are dropped first
                return cast(Made, made[key])
        result = make()  # without the lock: it takes a while
        with self._lock:
            made[key] = result
            while len(made) > KEPT:
                del made[next(iter(made))]
        return result

    def __len__(self) -> int:
        with self._lock:
            return sum(map(len, self._made.values()))
