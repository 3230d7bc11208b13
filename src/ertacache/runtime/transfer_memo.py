"""Remember what was derived from policies, such as transfers, for as long as the policies live."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from threading import Lock
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary

from ertacache.policy import Policy
from ertacache.runtime.memo import Memo

Made = TypeVar("Made")

KEPT = 8
"""How many results are kept for one policy."""


class PolicyMemo:
    """Results derived from policies, by key: the last `KEPT` used for each policy, for as long as the policy lives.

    Threads may share it, as `ertacache.runtime.memo.Memo`.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._made: WeakKeyDictionary[Policy, Memo[Any]] = WeakKeyDictionary()

    def get(self, policy: Policy, key: Hashable, make: Callable[[], Made]) -> Made:
        """Get the result for a key; make it if it is not there.

        Args:
            policy: the policy that the result is derived from.
            key: what else the result depends on.
            make: makes the result.
        """
        with self._lock:
            made = self._made.setdefault(policy, Memo(KEPT))
        return cast(Made, made.get(key, make))

    def __len__(self) -> int:
        with self._lock:
            return sum(map(len, self._made.values()))
