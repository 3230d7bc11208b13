"""Switch a policy on and off on a pipeline object: its class becomes a subclass whose calls follow the policy.

`ertacache.accelerate` has the public functions `enable` and `accelerated`; `disable` is here.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ertacache.errors import ERTACacheError, PipelineError
from ertacache.policy import Policy
from ertacache.runtime.call_signature import check_call_arguments
from ertacache.runtime.denoisers import denoisers_of
from ertacache.runtime.observer import Observer
from ertacache.runtime.policy_driver import PolicyDriver
from ertacache.runtime.policy_for_call import Resolved
from ertacache.runtime.policy_source import GivenPolicy, PolicySource
from ertacache.runtime.preserving import preserved
from ertacache.runtime.report import Report
from ertacache.runtime.run import Run
from ertacache.runtime.schedulers import sampler_of


class CallWatch:
    """Accompanies one call. This class only provides the report; `ertacache.watching.watched` adds guard and draft.

    Attributes:
        report: filled with what the call's run does.
        observers: notified of the run's steps.
    """

    def __init__(self) -> None:
        self.report = Report()
        self.observers: tuple[Observer, ...] = ()

    def ended(self) -> None:
        """Called when the call has returned and nothing of the run is left on the pipeline."""


class Acceleration:
    """A policy that is switched on for a pipeline.

    `ertacache.enable` and `ertacache.accelerated` make it, with the guard and the draft of
    `ertacache.watching.watched.WatchedAcceleration`. Users read its `report`; `watch` and `call` are internal.

    Args:
        source: gives each call its policy; a policy gives itself.
    """

    def __init__(self, source: Policy | PolicySource) -> None:
        self.source: PolicySource = GivenPolicy(source) if isinstance(source, Policy) else source
        self._last = Report()
        self._of_thread = threading.local()

    @property
    def report(self) -> Report:
        """The report of this thread's last call; if it made none, of the last call of any thread.

        It has ``computed_steps``, ``cached_steps``, ``denoiser_calls`` and ``notes``, and prints as a summary. Before
        the first call it is empty. Threads that use copies of one enabled pipeline read the reports of their own calls.
        """
        report: Report = getattr(self._of_thread, "report", self._last)
        return report

    @property
    def policy(self) -> Policy | None:
        """The policy that was given; None if each call makes its own."""
        return self.source.policy if isinstance(self.source, GivenPolicy) else None

    @property
    def computed_steps(self) -> tuple[int, ...]:
        """The steps of the last call at which the denoiser ran."""
        return tuple(self.report.computed_steps)

    @property
    def cached_steps(self) -> tuple[int, ...]:
        """The steps of the last call at which the denoiser was skipped."""
        return tuple(self.report.cached_steps)

    def watch(self, pipe: Any, args: Sequence[Any], kwargs: Mapping[str, Any], resolved: Resolved) -> CallWatch:
        """Make what accompanies a call that is about to begin.

        Args:
            pipe: the pipeline.
            args: the positional arguments of the call.
            kwargs: the keyword arguments of the call.
            resolved: the policy as this call follows it.
        """
        return CallWatch()

    def call(self, pipe: Any, args: Any, kwargs: Any) -> Any:
        """Make one call of the pipeline that follows the policy.

        Args:
            pipe: the pipeline.
            args: the positional arguments of the call.
            kwargs: the keyword arguments of the call.

        Returns:
            What the pipeline returns.

        Raises:
            PipelineError: if the pipeline takes no such argument, or another cache is on.
            PolicyMismatchError: if the policy is for another model or setting and cannot be transferred.
            RunError: if the pipeline does what no cache can follow.
        """
        check_call_arguments(pipe, kwargs)
        resolved = self.source.resolve(pipe, args, kwargs)
        watch = self.watch(pipe, args, kwargs, resolved)
        self._last = self._of_thread.report = watch.report
        driver = PolicyDriver(resolved, watch.report, watch.observers)
        run = Run(pipe, driver, watch.report)
        with run, preserved(pipe, after=ERTACacheError):  # a pipeline that is stopped midway does not clean up itself
            result = run.call(*args, **kwargs)
        watch.ended()
        driver.resolved.succeeded(watch.report)
        return result


def switch_on(pipe: Any, acceleration: Acceleration) -> None:
    """Make every later call of the pipeline follow the acceleration's policy, until `disable`.

    Args:
        pipe: a diffusers pipeline.
        acceleration: makes the calls.

    Raises:
        PipelineError: if the pipeline is accelerated already, has no denoiser, has another cache on, or its scheduler
            is not supported.
        PolicyMismatchError: if the policy was made for another model or scheduler.
    """
    _check_plain(pipe)
    denoisers_of(pipe)
    sampler_of(getattr(pipe, "scheduler", None))
    acceleration.source.check(pipe)
    with _switching:
        _check_plain(pipe)  # another thread may have enabled it meanwhile
        pipe.__class__ = _accelerated_class(type(pipe), acceleration)


def _accelerated_class(own: Any, acceleration: Acceleration) -> type:
    """Make a subclass of a pipeline's class, of the same name, whose calls go to the acceleration."""

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
    """The arguments that rebuild a copy of an enabled pipeline; they can be copied but not pickled.

    They name the pipeline's subclass, which exists in this process only.
    """

    __slots__ = ()

    def __deepcopy__(self, memo: Any) -> _Arguments:
        return self

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise PipelineError(
            "an accelerated pipeline cannot be pickled: another process would not have its policy",
            given=", ".join(getattr(part, "__name__", repr(part)) for part in self),
            cure="Call ertacache.disable(pipe) first, send the policy file as well, and call ertacache.enable() there.",
        )


def _made(make: Callable[..., Any], arguments: _Arguments) -> Any:
    return make(*arguments)


def disable(pipe: Any) -> None:
    """Make the pipeline as it was before `ertacache.enable`; a no-op if it is not accelerated.

    The acceleration that `enable` returned keeps the report of the last call.

    Args:
        pipe: a diffusers pipeline.
    """
    switch_off(pipe, _acceleration(pipe))


def switch_off(pipe: Any, acceleration: Acceleration | None) -> None:
    """Make the pipeline as it was before this acceleration; a no-op if it is not switched on any more."""
    with _switching:
        if acceleration is not None and _acceleration(pipe) is acceleration:  # another one may be on by now
            pipe.__class__ = type(pipe)._ertacache_class


_switching = threading.Lock()  # held while a pipeline's class changes


def _check_plain(pipe: Any) -> None:
    if _acceleration(pipe) is not None:
        raise PipelineError(
            "this pipeline is accelerated already",
            given=type(pipe).__name__,
            cure="Call ertacache.disable(pipe) first.",
        )


def _acceleration(pipe: Any) -> Acceleration | None:
    return getattr(type(pipe), "_ertacache_acceleration", None)
