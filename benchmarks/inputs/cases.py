"""One case: something is tried within a time limit, and came to something."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ertacache import ERTACacheError

SECONDS = 10
"""What takes longer has no end."""
ACCEPTED = "accepted"


class _NoEndError(BaseException):
    """No ``except Exception`` on the way takes it for something else."""


@dataclass
class Tally:
    """What the cases of one row of the table came to.

    Args:
        outcomes: how many by what they came to: accepted, or the name of the error.
        faults: those that came to what they must not, with what it was.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def take(self, name: str, attempt: Callable[[], str | None], documented: tuple[type[Exception], ...] = ()) -> None:
        """Try something.

        Args:
            name: what is tried, for the list of faults.
            attempt: returns what it came to, or None if it was accepted; raises what it raises.
            documented: errors that are not the library's own, and may be raised.
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
