"""Switch a policy on and off: `accelerated`, `enable`, `disable`."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ertacache.arguments import call_arguments
from ertacache.drafting import Again, Draft, check_draft, drafted, made_by, watch_of
from ertacache.errors import ERTACacheError, PipelineError
from ertacache.policy import Policy
from ertacache.runtime import identity
from ertacache.runtime.following import PolicyDriver
from ertacache.runtime.guard import Guard, Mode, check_guard
from ertacache.runtime.preserving import preserved
from ertacache.runtime.run import Report, Run, denoisers_of
from ertacache.runtime.samplers import sampler_of
from ertacache.runtime.seams import own_class
from ertacache.runtime.transferring import at_guidance

_log = logging.getLogger(__name__)


class Acceleration:
    """A policy at work on a pipeline: what `accelerated` gives.

    Attributes:
        policy: the policy.
        guard: what its guard does, if it has one.
        draft: what each call is compared with, if anything; can be set to None, and back, between calls.
    """

    def __init__(self, policy: Policy, guard: Mode | None = None, draft: Draft | None = None) -> None:
        self.policy, self.guard, self.draft = policy, guard, draft
        self._envelope = check_guard(policy, guard)
        if draft is not None:
            check_draft(draft, policy)
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

    def call(self, pipe: Any, args: Any, kwargs: Any) -> Any:
        """One call of the pipeline under the policy."""
        call_arguments(own_class(pipe), kwargs)
        doubts = identity.check_pipeline(self.policy, pipe)
        guidance, given = identity.guidance_of(pipe, args, kwargs), identity.Given.to(pipe, args, kwargs)
        policy = at_guidance(self.policy, guidance)
        identity.check_guidance(policy, guidance, given)
        guard = Guard(self.policy, self._envelope, self.guard) if self._envelope and self.guard else None
        watched = guard or (watch_of(self.policy) if self.draft else None)  # it knows one guidance's drifts
        driver = PolicyDriver(policy, guard=watched if policy is self.policy else None, call=given)
        run = Run(pipe, driver)
        run.report.guard = guard.report if guard else None
        self._last = self._of_thread.report = driver.report = run.report
        for doubt in doubts:
            run.report.note(doubt)
        if policy is not self.policy:
            run.report.note(policy.calibration.notes[-1])
        again = Again(pipe, args, kwargs) if self.draft and policy is self.policy else None
        with run, preserved(pipe, after=ERTACacheError):  # a call that is refused midway does not clean up after itself
            result = run.call(*args, **kwargs)
        made = made_by(driver, run)
        if again and self.draft and made:
            try:
                run.report.draft = drafted(self.draft, again, pipe, made)
            except Exception as error:  # out of memory, or a call that the draft's policy does not take
                run.report.note(f"no draft was made: {type(error).__name__}: {error}")  # the picture is not lost
                _log.warning("no draft was made", exc_info=True)  # nor is the place of a programming error
        return result


def enable(pipe: Any, policy: Policy, *, guard: Mode | None = None, draft: Draft | None = None) -> Acceleration:
    """Make every later call of ``pipe`` follow ``policy``, until `disable`.

    Only the pipeline object's class changes, to a subclass of the same name; other pipelines that share its
    modules, and bare calls of the modules, are not touched.

    Args:
        pipe: a diffusers pipeline.
        policy: a policy that was calibrated on this pipeline.
        guard: ``"report"`` has each call's ``report.guard`` say which samples drifted more than calibration's
            prompts; ``"compute"`` also computes the steps that are left once one did.
        draft: has each call be followed by another one, of the computed steps of the draft's policy and without
            pictures, and ``report.draft`` say which samples are, by that, farther off than calibration's were. Where
            that fails, ``report.draft`` is None and a note says why.

    Returns:
        The acceleration, whose ``report`` tells what the last call did.

    Raises:
        GuardError: if there is no such guard, the policy has no envelope to compare with, or the draft is of another
            policy.
        PipelineError: if it is enabled already, has no denoiser, or its scheduler is not supported.
        PolicyMismatchError: if the policy was made for another model or scheduler.
    """
    identity.check_policy(policy)
    _check_plain(pipe)
    denoisers_of(pipe)
    sampler_of(getattr(pipe, "scheduler", None))
    identity.check_pipeline(policy, pipe)
    acceleration = Acceleration(policy, guard, draft)
    with _enabling:
        _check_plain(pipe)  # another thread may have been faster
        pipe.__class__ = _accelerated_class(type(pipe), acceleration)
    return acceleration


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
    """Leave the pipeline as it was before `enable`; nothing happens if it is not accelerated."""
    _disable(pipe, _acceleration(pipe))


_enabling = threading.Lock()  # of pipelines, one at a time


def _disable(pipe: Any, acceleration: Acceleration | None) -> None:
    with _enabling:
        if acceleration is not None and _acceleration(pipe) is acceleration:  # or somebody else's is at work by now
            pipe.__class__ = type(pipe)._ertacache_class


def _check_plain(pipe: Any) -> None:
    if _acceleration(pipe) is not None:
        raise PipelineError(
            "this pipeline is accelerated already",
            given=type(pipe).__name__,
            cure="Call ertacache.disable(pipe) first.",
        )


def _acceleration(pipe: Any) -> Acceleration | None:
    return getattr(type(pipe), "_ertacache_acceleration", None)


@contextmanager
def accelerated(
    pipe: Any, policy: Policy, *, guard: Mode | None = None, draft: Draft | None = None
) -> Iterator[Acceleration]:
    """`enable` on entry, `disable` on exit, whatever happens in between.

    >>> with accelerated(pipe, policy) as run:  # doctest: +SKIP
    ...     image = pipe("a red star", num_inference_steps=30).images[0]
    >>> run.computed_steps  # doctest: +SKIP
    (0, 3, 6, 11, 14, 17, 20, 23, 27, 29)
    """
    acceleration = enable(pipe, policy, guard=guard, draft=draft)
    try:
        yield acceleration
    finally:
        _disable(pipe, acceleration)
