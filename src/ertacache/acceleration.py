"""Switch a policy on and off on a pipeline object: its class becomes a subclass whose calls follow the policy.

`ertacache.accelerate` has the public functions `enable` and `accelerated`; `disable` and `disabled` are here.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
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
from ertacache.runtime.unwrap import own_class


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

        It has ``computed_steps``, ``cached_steps``, ``denoiser_calls``, ``notes`` and ``audit``, and prints as a
        summary. Before the first call it is empty. Threads that use copies of one enabled pipeline read the reports of
        their own calls.
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


def switch_on(pipe: Any, acceleration: Acceleration, *, holds: bool = True) -> None:
    """Make every later call of the pipeline follow the acceleration's policy, until it is switched off.

    Args:
        pipe: a diffusers pipeline.
        acceleration: makes the calls.
        holds: whether it stays until `switch_off`, which brings back what was on before, as `accelerated` does. If not,
            another one may take its place, as after `enable`.

    Raises:
        PipelineError: if an acceleration that holds is on, or the pipeline has no denoiser, has another cache on, or
            its scheduler is not supported.
        PolicyMismatchError: if the policy was made for another model or scheduler.
    """
    _check_free(pipe)
    denoisers_of(pipe)
    sampler_of(getattr(pipe, "scheduler", None))
    acceleration.source.check(pipe)
    with _switching:
        _check_free(pipe)  # another thread may have begun a block meanwhile
        pipe.__class__ = _accelerated_class(pipe, acceleration, holds)


def _accelerated_class(pipe: Any, acceleration: Acceleration, holds: bool) -> type:
    """Make a subclass of a pipeline's class, of the same name, whose calls go to the acceleration."""
    own: Any = own_class(pipe)

    @functools.wraps(own.__call__)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if (id(acceleration), id(self)) in _paused.get():
            return own.__call__(self, *args, **kwargs)
        return acceleration.call(self, args, kwargs)

    def reduced(self: Any, protocol: Any) -> Any:
        make, arguments, *rest = own.__reduce_ex__(self, protocol)
        return _made, (make, _Arguments(arguments)), *rest

    body = {"__call__": call, "_ertacache_class": own, "_ertacache_acceleration": acceleration}
    body |= {"__reduce_ex__": reduced, "_ertacache_holds": holds, "_ertacache_before": type(pipe) if holds else own}
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
    with _switching:
        if _acceleration(pipe) is not None:
            pipe.__class__ = own_class(pipe)


def switch_off(pipe: Any, acceleration: Acceleration) -> None:
    """Make the pipeline as it was before this acceleration; a no-op if it is not switched on any more."""
    with _switching:
        if _acceleration(pipe) is acceleration:  # another one may be on by now
            pipe.__class__ = type(pipe)._ertacache_before


@contextmanager
def disabled(pipe: Any) -> Iterator[None]:
    """Make the calls of ``pipe`` within a ``with`` block run in full, as without any policy.

    >>> enable(pipe, policy)  # doctest: +SKIP
    >>> with disabled(pipe):  # doctest: +SKIP
    ...     full = pipe("a red star", num_inference_steps=30).images[0]

    What was enabled is in force again afterwards, also if the block raises. Its ``report`` stays that of the last
    accelerated call. The block is for the calls of its own thread, and of asyncio tasks that begin within it; other
    threads are not affected. A policy that is enabled within the block is followed. A no-op if nothing is enabled.

    Args:
        pipe: a diffusers pipeline.
    """
    before, on = _paused.get(), _acceleration(pipe)  # kept here, so that no other one gets its id meanwhile
    _paused.set(before | {(id(on), id(pipe))})
    try:
        yield
    finally:
        _paused.set(before)


_switching = threading.Lock()  # held while a pipeline's class changes
_paused: ContextVar[frozenset[tuple[int, int]]] = ContextVar("paused", default=frozenset())
"""The accelerations, each with its pipeline, by their ids, whose calls run in full here."""


def _check_free(pipe: Any) -> None:
    if getattr(type(pipe), "_ertacache_holds", False):
        raise PipelineError(
            "this pipeline is accelerated already",
            given=f"{type(pipe).__name__}, in a block of ertacache.accelerated()",
            cure="Leave the block first, or call ertacache.disable(pipe); what ertacache.enable() switched on can be "
            "replaced.",
        )


def _acceleration(pipe: Any) -> Acceleration | None:
    return getattr(type(pipe), "_ertacache_acceleration", None)
