"""The second seam: intercept the schedulers' ``step`` and ``set_timesteps`` for the length of a run.

A pipeline may have further schedulers beside ``pipe.scheduler``, such as one for sound. The class of each is replaced
by a subclass, so that copies which a pipeline makes in its loop are intercepted as well. A method that is patched on
the object would hide the subclass's, so it is wrapped too.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from diffusers import SchedulerMixin

from ertacache.errors import RunError
from ertacache.runtime.seam_classes import PatchedSeam, Through, seamed_subclass
from ertacache.runtime.unwrap import own_class, patched_on, set_class


class SchedulerSeam:
    """Intercepts the methods of one pipeline's schedulers.

    Args:
        pipe: the pipeline.
        through: by name of a method, what gets its calls instead; see `ertacache.runtime.seam_classes.Through`.

    Attributes:
        scheduler: the pipeline's scheduler when the run began.
        beside: the pipeline's further schedulers.
        patched: the names of the methods that were patched on the scheduler object.
    """

    def __init__(self, pipe: Any, through: Mapping[str, Through]) -> None:
        self.pipe, self.scheduler = pipe, pipe.scheduler
        self.beside = schedulers_beside(pipe)
        self.patched: frozenset[str] = frozenset()
        self._patches: list[tuple[Any, str, PatchedSeam]] = []
        self._through = {name: self._seen_by(seen) for name, seen in through.items()}
        self._thread = 0
        self._within = False  # whether an intercepted call is running

    def install(self) -> None:
        """Intercept calls from this thread.

        Raises:
            RunError: if the scheduler is in the middle of another call.
        """
        with _entering:
            for scheduler in self._all:
                before = getattr(type(scheduler), "_ertacache_seam", None)
                if before is not None and before._thread:  # without a thread it is a copy made in an earlier run
                    raise self._busy()
            for scheduler in self._all:
                set_class(scheduler, seamed_subclass(scheduler, self._through, _ertacache_seam=self))
            self._thread = threading.get_ident()

    def watch_patches(self) -> None:
        """Wrap the methods that are patched on a scheduler object, which would hide those of the class."""
        for scheduler in self._all:
            for name, through in self._through.items():
                patched = patched_on(scheduler, name)
                if patched is not None:
                    seam = vars(scheduler)[name] = PatchedSeam(scheduler, patched, through)
                    self._patches.append((scheduler, name, seam))
        self.patched = frozenset(name for scheduler, name, _ in self._patches if scheduler is self.scheduler)

    def remove(self) -> None:
        """Stop intercepting; classes and patched methods are as before."""
        for scheduler, name, seam in self._patches:
            if vars(scheduler).get(name) is seam:  # unless it was patched again during the run
                vars(scheduler)[name] = seam.patched
        with _entering:
            for scheduler in self._all:
                set_class(scheduler, own_class(scheduler))
            self._thread = 0  # a copy of a scheduler that outlives the run is inert

    @property
    def _all(self) -> list[Any]:
        return [self.scheduler, *self.beside]

    def is_beside(self, scheduler: Any) -> bool:
        """Whether this is one of the further schedulers."""
        return any(scheduler is other for other in self.beside)

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
        ours = scheduler is self.pipe.scheduler or any(scheduler is one for one in self._all)  # maybe a copy by now
        if self._thread and ours:
            raise self._busy()
        return False

    def _busy(self) -> RunError:
        return RunError(
            "this pipeline's scheduler is in the middle of another call",
            given=own_class(self.scheduler).__name__,
            cure="Give each thread a copy of the pipeline with its own scheduler (and its own vae, if it makes clips).",
        )


_entering = threading.Lock()  # held while a scheduler's class changes


def schedulers_beside(pipe: Any) -> list[Any]:
    """The pipeline's schedulers other than ``pipe.scheduler``, such as one for sound, or one that only adds noise."""
    held = [value for value in getattr(pipe, "__dict__", {}).values() if isinstance(value, SchedulerMixin)]
    others = [value for value in held if value is not pipe.scheduler]
    return [value for k, value in enumerate(others) if all(value is not known for known in others[:k])]
