"""One case: something is tried within a time limit, and its outcome is counted."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ertacache import ERTACacheError

SECONDS = 10
"""The time limit; a case that takes longer counts as endless."""
ACCEPTED = "accepted"


class _NoEndError(BaseException):
    """Not an `Exception`, so that no ``except Exception`` on the way catches it."""


@dataclass
class Tally:
    """The outcomes of the cases in one row of the table.

    Args:
        outcomes: number of cases by outcome: accepted, or the name of the error.
        faults: the cases with an outcome that must not happen, and that outcome.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def take(self, name: str, attempt: Callable[[], str | None], documented: tuple[type[Exception], ...] = ()) -> None:
        """Try something.

        Args:
            name: the case's name in the list of faults.
            attempt: returns the outcome, or None if the input was accepted; may raise.
            documented: errors that may be raised though they are not the library's own.
        """
        try:
            with _within(SECONDS):
                outcome = attempt() or ACCEPTED
        except ERTACacheError as error:
            outcome = type(error).__name__
        except documented as error:
            outcome = type(error).__name__
        except BaseException as error:
            if type(error) is KeyboardInterrupt:
                raise
            outcome = f"{type(error).__module__}.{type(error).__name__}"
            self.faults.append(f"{name}: {outcome}: {str(error)[:200]}")
        self.outcomes[outcome] += 1

    def __str__(self) -> str:
        refused = [f"{name} {count}" for name, count in sorted(self.outcomes.items()) if name != ACCEPTED]
        return ", ".join(refused) or "-"


@contextmanager
def _within(seconds: float) -> Iterator[None]:
    def ring(*_: Any) -> None:
        raise _NoEndError(f"no end in {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
