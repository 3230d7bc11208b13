"""A policy at work on a pipeline: the object's class changes, to a subclass whose calls follow the policy."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ertacache.arguments import call_arguments
from ertacache.errors import ERTACacheError, PipelineError
from ertacache.policy import Policy
from ertacache.runtime.denoisers import denoisers_of
from ertacache.runtime.observer import Observer
from ertacache.runtime.policy_checks import check_pipeline
from ertacache.runtime.policy_driver import PolicyDriver
from ertacache.runtime.preserving import preserved
from ertacache.runtime.report import Report
from ertacache.runtime.resolve import Resolved, resolve
from ertacache.runtime.run import Run
from ertacache.runtime.schedulers import sampler_of
from ertacache.runtime.unwrap import own_class


class CallWatch:
    """What goes along with one call; this one only has its report.

    Attributes:
        report: what the call's run did.
        observers: see its steps.
    """

    def __init__(self) -> None:
        self.report = Report()
        self.observers: tuple[Observer, ...] = ()

    def ended(self) -> None:
        """The call has returned, and nothing of the run is left on the pipeline."""


class Acceleration:
    """A policy at work on a pipeline.

    Args:
        policy: the policy.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._last = Report()
        self._of_thread = threading.local()

    @property
    def report(self) -> Report:
        """What the last call did that this thread made; where it made none, the last call of any thread.

        So threads that share an enabled pipeline, each with a copy of it, read the reports of their own calls. Empty
        before the first call.
        """
        report: Report = getattr(self._of_thread, "report", self._last)
        return report

    @property
    def computed_steps(self) -> tuple[int, ...]:
        """The steps of the last call at which the denoiser ran."""
        return tuple(self.report.computed_steps)

    @property
    def cached_steps(self) -> tuple[int, ...]:
        """The steps of the last call at which it did not."""
        return tuple(self.report.cached_steps)

    def watch(self, pipe: Any, args: Sequence[Any], kwargs: Mapping[str, Any], resolved: Resolved) -> CallWatch:
        """What goes along with a call that is about to be made."""
        return CallWatch()

    def call(self, pipe: Any, args: Any, kwargs: Any) -> Any:
        """One call of the pipeline under the policy."""
        call_arguments(own_class(pipe), kwargs)
        resolved = resolve(self.policy, pipe, args, kwargs)
        watch = self.watch(pipe, args, kwargs, resolved)
        self._last = self._of_thread.report = watch.report
        run = Run(pipe, PolicyDriver(resolved, watch.report, watch.observers), watch.report)
        with run, preserved(pipe, after=ERTACacheError):  # a call that is refused midway does not clean up after itself
            result = run.call(*args, **kwargs)
        watch.ended()
        return result


def switch_on(pipe: Any, acceleration: Acceleration) -> None:
    """Make every later call of ``pipe`` one of the acceleration's, until `disable`.

    Raises:
        PipelineError: if it is accelerated already, has no denoiser, or its scheduler is not supported.
        PolicyMismatchError: if the policy was made for another model or scheduler.
    """
    _check_plain(pipe)
    denoisers_of(pipe)
    sampler_of(getattr(pipe, "scheduler", None))
    check_pipeline(acceleration.policy, pipe)
    with _switching:
        _check_plain(pipe)  # another thread may have been faster
        pipe.__class__ = _accelerated_class(type(pipe), acceleration)


def _accelerated_class(own: Any, acceleration: Acceleration) -> type:
    """A subclass of a pipeline's class, of the same name, whose calls the acceleration makes."""

    @functools.wraps(own.__call__)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return acceleration.call(self, args, kwargs)

    def reduced(self: Any, protocol: Any) -> Any:
        make, arguments, *rest = own.__reduce_ex__(self, protocol)
        return _made, (make, _Arguments(arguments)), *rest

    body = {"__call__": call, "_ertacache_class": own, "_ertacache_acceleration": acceleration}
    body |= {"__reduce_ex__": reduced}
    body |= {"__module__": own.__module__, "__qualname__": own.__qualname__, "__doc__": own.__doc__}
    return type(own.__name__, (own,), body)


class _Arguments(tuple[Any, ...]):
    """What a copy of an enabled pipeline is made of: its class, which no other process knows."""

    __slots__ = ()

    def __deepcopy__(self, memo: Any) -> _Arguments:
        return self

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise PipelineError(
            "an accelerated pipeline cannot be pickled, as other processes know nothing of its policy",
            given=", ".join(getattr(part, "__name__", repr(part)) for part in self),
            cure="Call ertacache.disable(pipe) first, send the policy's file too, and enable it there.",
        )


def _made(make: Callable[..., Any], arguments: _Arguments) -> Any:
    return make(*arguments)


def disable(pipe: Any) -> None:
    """Leave the pipeline as it was before `ertacache.enable`; nothing happens if it is not accelerated."""
    switch_off(pipe, _acceleration(pipe))


def switch_off(pipe: Any, acceleration: Acceleration | None) -> None:
    """Leave the pipeline as it was before this acceleration, if that is still at work."""
    with _switching:
        if acceleration is not None and _acceleration(pipe) is acceleration:  # or somebody else's is at work by now
            pipe.__class__ = type(pipe)._ertacache_class


_switching = threading.Lock()  # of pipelines, one at a time


def _check_plain(pipe: Any) -> None:
    if _acceleration(pipe) is not None:
        raise PipelineError(
            "this pipeline is accelerated already",
            given=type(pipe).__name__,
            cure="Call ertacache.disable(pipe) first.",
        )


def _acceleration(pipe: Any) -> Acceleration | None:
    return getattr(type(pipe), "_ertacache_acceleration", None)
