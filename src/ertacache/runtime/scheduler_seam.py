"""The second seam: the scheduler's ``step`` and ``set_timesteps``, seen for the length of a run.

The class of the scheduler, not the object, has it, so that a copy which a pipeline makes in its loop has it too. What
somebody has patched on the object would hide it, and gets a seam as well.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ertacache.errors import RunError
from ertacache.runtime.unwrap import PatchedSeam, Through, own_class, patched_on, seamed_subclass, set_class


class SchedulerSeam:
    """A seam at one pipeline's scheduler.

    Args:
        pipe: the pipeline.
        through: by name of the method, what sees its calls and calls it through.

    Attributes:
        scheduler: the pipeline's when the run began.
        patched: by name, what somebody has patched on the scheduler object.
    """

    def __init__(self, pipe: Any, through: Mapping[str, Through]) -> None:
        self.pipe, self.scheduler = pipe, pipe.scheduler
        self.patched: dict[str, PatchedSeam] = {}
        self._through = {name: self._seen_by(seen) for name, seen in through.items()}
        self._thread = 0
        self._within = False  # whether a call of the scheduler is under way that was seen

    def install(self) -> None:
        """Put it there, for calls from this thread.

        Raises:
            RunError: if the scheduler is in the middle of another run.
        """
        with _entering:
            before = getattr(type(self.scheduler), "_ertacache_seam", None)
            if before is not None and before._thread:  # or it is a copy made in an earlier run
                raise self._busy()
            set_class(self.scheduler, seamed_subclass(self.scheduler, self._through, _ertacache_seam=self))
            self._thread = threading.get_ident()

    def watch_patches(self) -> None:
        """Put a seam at what is patched on the scheduler object too, which would hide that of the class."""
        for name, through in self._through.items():
            patched = patched_on(self.scheduler, name)
            if patched is not None:
                self.patched[name] = vars(self.scheduler)[name] = PatchedSeam(self.scheduler, patched, through)

    def remove(self) -> None:
        """Take it away."""
        for name, seam in self.patched.items():
            if vars(self.scheduler).get(name) is seam:  # or it was patched anew
                vars(self.scheduler)[name] = seam.patched
        with _entering:
            set_class(self.scheduler, own_class(self.scheduler))
            self._thread = 0  # a copy of the scheduler that outlives the run is inert

    @contextmanager
    def within(self) -> Iterator[None]:
        """While the scheduler works: what it calls of itself meanwhile is its own affair."""
        self._within = True
        try:
            yield
        finally:
            self._within = False

    def check_not_replaced(self) -> None:
        """Raise `RunError` where the pipeline goes on with another scheduler than its call began with."""
        now = self.pipe.scheduler
        if getattr(type(now), "_ertacache_seam", None) is not self:
            raise RunError(
                "pipe.scheduler was replaced in the middle of the call, and the steps of the new one are not seen",
                given=f"{own_class(now).__name__} in place of {own_class(self.scheduler).__name__}",
                cure="Replace it between two calls.",
            )

    def _seen_by(self, seen: Through) -> Through:
        def through(scheduler: Any, method: Callable[..., Any], args: Any, kwargs: Any) -> Any:
            if not self._sees(scheduler):
                return method(*args, **kwargs)
            return seen(scheduler, method, args, kwargs)

        return through

    def _sees(self, scheduler: Any) -> bool:
        """Whether a call of the scheduler is the run's: of its thread, and not made by a call that it has seen."""
        if self._thread == threading.get_ident():
            return not self._within
        if self._thread and (scheduler is self.scheduler or scheduler is self.pipe.scheduler):  # that may be a copy
            raise self._busy()
        return False

    def _busy(self) -> RunError:
        return RunError(
            "this pipeline's scheduler is in the middle of another call",
            given=own_class(self.scheduler).__name__,
            cure="Give each thread a copy of the pipeline with its own scheduler.",
        )


_entering = threading.Lock()  # of runs into schedulers
