"""An acceleration whose calls may be watched by a guard and a draft; `ertacache.enable` returns one."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from ertacache.acceleration import Acceleration, CallWatch
from ertacache.errors import GuardError
from ertacache.policy import Policy
from ertacache.runtime.policy_for_call import Resolved
from ertacache.runtime.policy_source import PolicySource
from ertacache.runtime.report import Report
from ertacache.watching.draft import Draft, check_draft
from ertacache.watching.draft_report import DraftReport
from ertacache.watching.finished_run import LatentObserver, drift_watch
from ertacache.watching.guard import Guard, check_guard
from ertacache.watching.guard_report import GuardReport, Mode
from ertacache.watching.replay import ReplayableCall, compare_with_draft

_log = logging.getLogger(__name__)


@dataclass
class WatchedReport(Report):
    """The report of a run, with those of guard and draft.

    Args:
        guard: the guard's report; None without a guard.
        draft: the draft's report, or None if no draft was made.
    """

    guard: GuardReport | None = None
    draft: DraftReport | None = None

    def __str__(self) -> str:
        return "\n".join([super().__str__(), *(str(part) for part in (self.guard, self.draft) if part)])


class WatchedAcceleration(Acceleration):
    """A policy that is switched on for a pipeline, with guard and draft; `ertacache.accelerated` returns one.

    Args:
        source: gives each call its policy; a policy gives itself.
        guard: the mode of the guard; None for no guard.
        draft: the draft to compare each call with; None for no draft.

    Attributes:
        guard: the mode of the guard.
        draft: the draft; can be set to None, and back, between calls.

    Raises:
        GuardError: if there is no such guard, the policy has no envelope to compare with, or the draft is for another
            policy.
    """

    def __init__(self, source: Policy | PolicySource, guard: Mode | None = None, draft: Draft | None = None) -> None:
        super().__init__(source)
        policy = self.policy
        if policy is None and (guard is not None or draft is not None):
            raise GuardError(
                "a guard or a draft compares with calibration's prompts, and there was no calibration",
                given="guard" if guard is not None else "draft",
                cure="Leave it out, or calibrate a policy with ertacache.calibrate() and pass that.",
            )
        self.guard, self.draft = guard, draft
        self.envelope = check_guard(policy, guard) if policy is not None else None
        if draft is not None and policy is not None:
            check_draft(draft, policy)

    @classmethod
    def reporting(cls, source: Policy | PolicySource) -> WatchedAcceleration:
        """Make one whose guard reports, if the source is a policy that a guard can compare with."""
        return cls(source, "report" if isinstance(source, Policy) and source.envelope is not None else None)

    @property
    def report(self) -> WatchedReport:
        """The report of this thread's last call; see `ertacache.acceleration.Acceleration.report`."""
        return cast(WatchedReport, super().report)

    def watch(self, pipe: Any, args: Sequence[Any], kwargs: Mapping[str, Any], resolved: Resolved) -> CallWatch:
        """Make the guard and the draft of a call that is about to begin."""
        return _WatchedCall(self, pipe, args, kwargs, resolved)


class _WatchedCall(CallWatch):
    """Guard and draft of one call. With a transferred policy neither applies, since calibration did not see it."""

    report: WatchedReport

    def __init__(
        self,
        acceleration: WatchedAcceleration,
        pipe: Any,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        resolved: Resolved,
    ) -> None:
        policy, self._draft, self._pipe = acceleration.policy, acceleration.draft, pipe
        envelope, mode = acceleration.envelope, acceleration.guard
        guard = Guard(policy, envelope, mode) if policy and envelope and mode else None
        self.report = WatchedReport(guard=guard.report if guard else None)
        self._drifts = guard or (drift_watch(policy) if policy and self._draft else None)
        self._latents = LatentObserver()
        self.observers = (self._latents, *([self._drifts] if self._drifts else []))
        drafts = self._draft is not None and resolved.as_calibrated
        self._call = ReplayableCall(pipe, args, kwargs) if drafts else None

    def ended(self) -> None:
        """Make the draft."""
        run = self._latents.finished(self._drifts, self.report)
        if not (self._call and self._draft and run):
            return
        try:
            self.report.draft = compare_with_draft(self._draft, self._call, self._pipe, run)
        except Exception as error:  # such as out of memory, or a setting that the draft's policy is not for
            # The call itself succeeded, so its result is returned; the log has the traceback.
            self.report.note(f"no draft was made: {type(error).__name__}: {error}")
            _log.warning("no draft was made", exc_info=True)
