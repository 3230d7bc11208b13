"""What a request asks for, and what the server does without being asked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ertacache.errors import ArgumentError
from ertacache.learning import Learner
from ertacache.policy import Policy
from ertacache.runtime.instant import Instant
from ertacache.runtime.memo import Memo
from ertacache.runtime.policy_source import PolicySource
from ertacache.runtime.step_budget import StepBudget
from ertacache.watching.watched import WatchedAcceleration

VARIABLE, POLICIES, LEARN = "ERTACACHE", "ERTACACHE_POLICIES", "ERTACACHE_LEARN"
ARGUMENT = "ertacache"
"""Of a request, among its ``diffusers_kwargs``."""
OFF = "off"


@dataclass(frozen=True)
class Wish:
    """How one request is to be accelerated.

    Args:
        kind: ``"off"``, ``"instant"``, ``"learn"``, or the name of a policy.
        speedup: for ``"instant"`` and ``"learn"``.
    """

    kind: str
    speedup: float = 2.0

    @classmethod
    def of(cls, text: Any) -> Wish:
        """Read ``off``, ``instant``, ``instant:3``, ``learn``, ``learn:3``, or the name of a policy.

        Raises:
            ArgumentError: if it is no text, or what follows the colon is no number from 1 on.
        """
        kind, colon, number = str(text).partition(":")
        try:
            speedup = float(number) if colon else 2.0
        except ValueError:
            speedup = 0.0
        if not isinstance(text, str) or not kind or speedup < 1 or (colon and kind not in ("instant", "learn")):
            raise ArgumentError(
                "this does not say how to accelerate a request",
                given=f"{ARGUMENT}={text!r}",
                cure="Say off, instant, learn, instant:3, learn:3, or the name of a policy.",
            )
        return cls(kind, speedup)


def wish_of(batch: Any) -> Wish:
    """Take what a request asks for out of its arguments; the server's own setting if it does not say.

    Args:
        batch: SGLang's ``Req``; its ``extra["diffusers_kwargs"]`` are copied without ours.
    """
    arguments: Mapping[str, Any] = batch.extra.get("diffusers_kwargs") or {}
    if ARGUMENT in arguments:
        batch.extra["diffusers_kwargs"] = {name: value for name, value in arguments.items() if name != ARGUMENT}
        return Wish.of(arguments[ARGUMENT])
    return Wish.of(os.environ.get(VARIABLE) or OFF)


KEPT = 32
"""So many accelerations of a stage are kept: those used last. Requests may ask for any number of speedups."""


class Accelerations:
    """The accelerations of one stage, made once for each wish; the last `KEPT` used.

    A request holds the one that it runs with, so that it ends as it began if that one is dropped meanwhile.
    """

    def __init__(self) -> None:
        self._made: Memo[WatchedAcceleration] = Memo(KEPT)

    def __len__(self) -> int:
        return len(self._made)

    def of(self, wish: Wish) -> WatchedAcceleration:
        """Make or find the acceleration of a wish.

        Raises:
            ArgumentError: if there is no such policy, or no folder to learn into.
        """
        return self._made.get(wish, lambda: WatchedAcceleration.reporting(source_of(wish)))


def source_of(wish: Wish) -> Policy | PolicySource:
    """What gives requests of a wish their policies."""
    if wish.kind == "instant":
        return Instant(StepBudget(wish.speedup))
    if wish.kind == "learn":
        folder = os.environ.get(LEARN)
        if not folder:
            raise ArgumentError(
                "there is no folder to learn into", given="learn", cure=f"Start the server with {LEARN}=FOLDER."
            )
        return Learner(StepBudget(wish.speedup), folder)
    return Policy.load(_file_of(wish.kind))


def _file_of(name: str) -> Path:
    folder = Path(os.environ.get(POLICIES) or ".")
    files = (folder / f"{name}{suffix}" for suffix in ("", ".json", ".safetensors"))
    found = [file for file in files if file.is_file()]
    if not found or not found[0].resolve().is_relative_to(folder.resolve()):
        known = sorted(path.stem for path in folder.iterdir() if path.suffix in (".json", ".safetensors"))
        raise ArgumentError(
            "there is no policy of this name",
            given=repr(name),
            cure=f"Known ones in {POLICIES}: {', '.join(known) or 'none'}. Or say off, instant or learn.",
        )
    return found[0]
