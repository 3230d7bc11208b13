"""What travels between the driver and its workers, whatever carries it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ertacache.errors import ERTACacheError
from ertacache.memory_errors import full_memory


class Interrupted:
    """In place of what all handed in: the user has pressed Ctrl-C, and all workers are told so at the same place."""


Reply = list[Any] | Interrupted
"""What all handed in, in the order of the prompts."""
Outcome = tuple[Any, int]
"""What came of a loop over the prompts, and how many exchanges there had been at its end."""


@dataclass(frozen=True)
class Job:
    """What a worker is to do.

    Args:
        task: called with the pipeline, ``arguments`` and ``keywords``.
        load: returns the pipeline; or its id, or its folder.
        arguments, keywords: of the task.
        rank: the number of the worker.
        num_workers: how many there are.
        threads: of torch; None for its default.
        replies: all exchanges so far, for a worker that was started again.
        outcomes: of all finished loops, by the number of exchanges before them.
        pooled: whether workers take items from a pool (`ertacache.distributed.pool`), and share nothing.
    """

    task: Callable[..., Any]
    load: Any
    arguments: Sequence[Any]
    keywords: Mapping[str, Any]
    rank: int
    num_workers: int
    threads: int | None = None
    replies: Sequence[Reply] = ()
    outcomes: Mapping[int, Outcome] = field(default_factory=dict)
    pooled: bool = False


@dataclass(frozen=True)
class HandedIn:
    """A worker hands in what it knows of its own prompts, and waits for a `Reply`.

    Args:
        number: of the exchange.
        own: one for each own prompt.
        what: what it is doing.
        prompts: the numbers of its own prompts, for errors.
    """

    number: int
    own: list[Any]
    what: str
    prompts: range = range(0)


@dataclass(frozen=True)
class Settled:
    """A loop has ended.

    Args:
        begin: how many exchanges there were before it.
        outcome: what came of it.
    """

    begin: int
    outcome: Outcome


@dataclass(frozen=True)
class Shown:
    """Something for the progress bar.

    Args:
        how: the method of `ertacache.calibration.progress.CalibrationProgress`.
        value: its argument.
    """

    how: str
    value: Any


@dataclass(frozen=True)
class Done:
    """The task has returned.

    Args:
        result: what it returned, from the first worker.
        print: a digest of it, which is the same for all workers.
    """

    result: Any
    print: str


@dataclass(frozen=True)
class Failed:
    """The task has raised an error.

    Args:
        error: the error.
        trace: its traceback, as text.
    """

    error: BaseException
    trace: str

    @property
    def how(self) -> str:
        """What is known of the end, as `Died` has it."""
        return repr(self.error)

    @property
    def cure(self) -> str:
        """What to do about it."""
        full = full_memory(self.error)
        return full.cure if full else Died.cure

    @property
    def is_final(self) -> bool:
        """Whether another worker would meet it too: an error of this library, or the user's interrupt."""
        return isinstance(self.error, (ERTACacheError, KeyboardInterrupt))


@dataclass(frozen=True)
class Died:
    """The worker is gone.

    Args:
        how: what is known of its end.
    """

    how: str
    cure = "Look at its memory."


Message = HandedIn | Settled | Shown | Done | Failed | Died
