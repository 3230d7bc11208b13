"""The second seam: intercept the scheduler's ``step`` and ``set_timesteps`` for the length of a run.

The scheduler's class is replaced by a subclass, so that copies which a pipeline makes in its loop are intercepted as
well. A method that is patched on the object would hide the subclass's, so it is wrapped too.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ertacache.errors import RunError
from ertacache.runtime.seam_classes import PatchedSeam, Through, seamed_subclass
from ertacache.runtime.unwrap import own_class, patched_on, set_class


class SchedulerSeam:
    """Intercepts the methods of one pipeline's scheduler.

    Args:
        pipe: the pipeline.
        through: by name of a method, what gets its calls instead; see `ertacache.runtime.seam_classes.Through`.

    Attributes:
        scheduler: the pipeline's scheduler when the run began.
        patched: by name, the wrapped methods that were patched on the scheduler object.
    """

    def __init__(self, pipe: Any, through: Mapping[str, Through]) -> None:
        self.pipe, self.scheduler = pipe, pipe.scheduler
        self.patched: dict[str, PatchedSeam] = {}
        self._through = {name: self._seen_by(seen) for name, seen in through.items()}
        self._thread = 0
        self._within = False  # whether an intercepted call is running

    def install(self) -> None:
        """Intercept calls from this thread.

        Raises:
            RunError: if the scheduler is in the middle of another call.
        """
        with _entering:
            before = getattr(type(self.scheduler), "_ertacache_seam", None)
            if before is not None and before._thread:  # without a thread it is a copy made in an earlier run
                raise self._busy()
            set_class(self.scheduler, seamed_subclass(self.scheduler, self._through, _ertacache_seam=self))
            self._thread = threading.get_ident()

    def watch_patches(self) -> None:
        """Wrap the methods that are patched on the scheduler object, which would hide those of the class."""
        for name, through in self._through.items():
            patched = patched_on(self.scheduler, name)
            if patched is not None:
                self.patched[name] = vars(self.scheduler)[name] = PatchedSeam(self.scheduler, patched, through)

    def remove(self) -> None:
        """Stop intercepting; class and patched methods are as before."""
        for name, seam in self.patched.items():
            if vars(self.scheduler).get(name) is seam:  # unless it was patched again during the run
                vars(self.scheduler)[name] = seam.patched
        with _entering:
            set_class(self.scheduler, own_class(self.scheduler))
            self._thread = 0  # a copy of the scheduler that outlives the run is inert

    @contextmanager
    def within(self) -> Iterator[None]:
        """Do not intercept the calls that the scheduler makes of its own methods within this context."""
        self._within = True
        try:
            yield
        finally:
            self._within = False

    def check_not_replaced(self) -> None:
        """Raise `RunError` if the pipeline has another scheduler than when its call began."""
        now = self.pipe.scheduler
        if getattr(type(now), "_ertacache_seam", None) is not self:
            raise RunError(
                "pipe.scheduler was replaced in the middle of the call, and the steps of the new one are not seen",
                given=f"{own_class(now).__name__} in place of {own_class(self.scheduler).__name__}",
                cure="Replace it before or after a call.",
            )

    def _seen_by(self, seen: Through) -> Through:
        def through(scheduler: Any, method: Callable[..., Any], args: Any, kwargs: Any) -> Any:
            if not self._sees(scheduler):
                return method(*args, **kwargs)
            return seen(scheduler, method, args, kwargs)

        return through

    def _sees(self, scheduler: Any) -> bool:
        """Whether to intercept a call of the scheduler: it comes from the run's thread, and not from the scheduler."""
        if self._thread == threading.get_ident():
            return not self._within
        if self._thread and (scheduler is self.scheduler or scheduler is self.pipe.scheduler):  # maybe a copy by now
            raise self._busy()
        return False

    def _busy(self) -> RunError:
        return RunError(
            "this pipeline's scheduler is in the middle of another call",
            given=own_class(self.scheduler).__name__,
            cure="Give each thread a copy of the pipeline with its own scheduler.",
        )


_entering = threading.Lock()  # held while a scheduler's class changes
