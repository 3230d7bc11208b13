"""The guard: reports whether a generation drifts more than calibration's did, and on demand computes the rest of it.

Drifts are computed on the device and read on the host one computed step later, so that nothing waits for the step
that was just queued.
"""

from __future__ import annotations

from typing import get_args

from torch import Tensor

from ertacache.errors import GuardError
from ertacache.policy import Envelope, Policy
from ertacache.runtime.observer import ComputedStep, Observer
from ertacache.value_checks import abbreviated
from ertacache.watching.drift_score import joint_drift, relative_drift
from ertacache.watching.guard_report import GuardReport, Mode


class Guard(Observer):
    """The guard of one call.

    Args:
        policy: the policy that the call follows.
        envelope: the policy's envelope.
        mode: ``"report"`` only reports samples that leave the envelope; ``"compute"`` also computes all later steps.

    Attributes:
        report: what the guard has seen.
    """

    def __init__(self, policy: Policy, envelope: Envelope, mode: Mode) -> None:
        self.report = GuardReport(envelope, mode)
        self.compared = frozenset(envelope.steps)
        computed = policy.computed_steps
        self._before = dict(zip(computed[1:], computed, strict=False))
        self._corrects = not policy.predictions.keys().isdisjoint(computed)
        self._computing = False
        self._watches = True
        self._streams = 1 + len(policy.streams)
        self._parts: dict[int, list[Tensor]] = {}

    def begin(self, as_calibrated: bool) -> None:
        """Begin a trajectory. A transferred policy is not watched: calibration's drifts do not apply to it."""
        self._watches = as_calibrated
        self.report.forget()
        self._parts.clear()
        self._computing = False

    def computed(self, step: ComputedStep) -> None:
        """Record the drift of a computed step.

        It is skipped if this run departs from calibration: the policy's correction was not applied, or, for a policy
        without corrections, the previous computed step is another one.
        """
        if not self._watches or step.index not in self.compared:
            return
        if step.corrected is not None:
            self._add(step.index, relative_drift(step.truth, step.corrected))
        elif not self._corrects and step.before and step.before[0] == self._before[step.index]:
            self._add(step.index, relative_drift(step.entry, step.before[1]))

    def _add(self, step: int, drift: Tensor) -> None:
        """Take in the drift of one stream; that of the step is known with the last one's."""
        self._parts.setdefault(step, []).append(drift)
        if len(self._parts[step]) == self._streams:
            self.report.keep(step, joint_drift(self._parts.pop(step)))

    def asks_to_compute(self, step: int) -> bool:
        """Return whether to compute this step, which the policy caches.

        In mode ``"compute"``, once a sample has left the envelope, all later steps are computed: the weights were
        fitted on other trajectories than its.
        """
        if not self._watches or self.report.mode != "compute":
            return False
        self._computing = self._computing or self.report.left_before_the_last()
        if self._computing and step not in self.report.computed_steps:
            self.report.computed_steps.append(step)
        return self._computing


def check_guard(policy: Policy, mode: str | None) -> Envelope | None:
    """Check that a policy can have a guard of this mode.

    Args:
        policy: the policy.
        mode: ``"report"``, ``"compute"``, or None for no guard.

    Returns:
        The policy's envelope; None for no guard.

    Raises:
        GuardError: if there is no such mode, the policy caches nothing, or it has no envelope.
    """
    if mode is None:
        return None
    if not isinstance(mode, str) or mode not in get_args(Mode):
        raise GuardError("there is no such guard", given=abbreviated(mode), cure="Choose 'report', 'compute' or None.")
    if not policy.cached_steps:
        raise GuardError(
            "there is nothing to guard, since this policy caches nothing",
            given=f"budget {policy.calibration.budget or 'none'}",
            cure="Leave the guard out, or calibrate with a budget that lets some steps be cached.",
        )
    if policy.envelope is None:
        raise GuardError(
            "a guard compares drifts with calibration's, but this policy has no envelope",
            given=f"method {policy.method.name}, {policy.calibration.num_prompts} calibration prompts",
            cure="Calibrate again on four prompts or more, with method 'aligned', 'taylor' or 'reuse', in the setting "
            "of your calls (a transferred policy has no envelope); or leave the guard out.",
        )
    return policy.envelope
