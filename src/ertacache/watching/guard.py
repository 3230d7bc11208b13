"""The guard: watches whether a generation drifts as calibration's did, and computes the rest of it if it does not.

Drifts are found on the device and read on the host one computed step later, so that nothing waits for the step that
was just queued.
"""

from __future__ import annotations

from typing import get_args

from ertacache.arguments import abbreviated
from ertacache.errors import GuardError
from ertacache.policy import Envelope, Policy
from ertacache.runtime.observer import ComputedStep, Observer
from ertacache.watching.envelope import relative_drift
from ertacache.watching.guard_report import GuardReport, Mode


class Guard(Observer):
    """One call's guard.

    Args:
        policy: which the call follows.
        envelope: the policy's.
        mode: what to do about a sample that leaves it.
    """

    def __init__(self, policy: Policy, envelope: Envelope, mode: Mode) -> None:
        self.report = GuardReport(envelope, mode)
        self.compared = frozenset(envelope.steps)
        computed = policy.computed_steps
        self._before = dict(zip(computed[1:], computed, strict=False))
        self._corrects = not policy.predictions.keys().isdisjoint(computed)
        self._computing = False
        self._watches = True

    def begin(self, as_calibrated: bool) -> None:
        """A trajectory begins; calibration saw no drifts at other guidance or on other noise levels."""
        self._watches = as_calibrated
        self.report.forget()
        self._computing = False

    def computed(self, step: ComputedStep) -> None:
        """Compare a computed step.

        One that the policy corrects in other runs and not in this one is not compared, nor, where it corrects none, one
        that follows another step than calibration's did.
        """
        if not self._watches or step.index not in self.compared:
            return
        if step.corrected is not None:
            self.report.keep(step.index, relative_drift(step.truth, step.corrected))
        elif not self._corrects and step.before and step.before[0] == self._before[step.index]:
            self.report.keep(step.index, relative_drift(step.entry, step.before[1]))

    def asks_to_compute(self, step: int) -> bool:
        """Whether this step, which the policy caches, is computed.

        Once a sample has left the envelope all later steps are: what is predicted from there on is not what the
        weights were fitted on.
        """
        if not self._watches or self.report.mode != "compute":
            return False
        self._computing = self._computing or self.report.left_before_the_last()
        if self._computing and step not in self.report.computed_steps:
            self.report.computed_steps.append(step)
        return self._computing


def check_guard(policy: Policy, mode: str | None) -> Envelope | None:
    """The envelope that a guard of this mode needs, or None without one.

    Raises:
        GuardError: if there is no such mode, or the policy has no envelope.
    """
    if mode is None:
        return None
    if not isinstance(mode, str) or mode not in get_args(Mode):
        raise GuardError("there is no such guard", given=abbreviated(mode), cure="Choose 'report', 'compute' or None.")
    if not policy.cached_steps:
        raise GuardError(
            "there is nothing to guard, since this policy caches nothing",
            given=f"budget {policy.calibration.budget or 'none'}",
            cure="Leave the guard out, or calibrate for a budget that leaves steps to cache.",
        )
    if policy.envelope is None:
        raise GuardError(
            "a guard compares with what calibration saw, and this policy has no envelope",
            given=f"method {policy.method.name}, {policy.calibration.num_prompts} calibration prompts",
            cure="Calibrate it again on four prompts or more, in the setting of the calls to come (a transferred one "
            "has none), by a method that predicts its cached steps in a closed loop, such as 'aligned', 'taylor' or "
            "'reuse'; or leave the guard out.",
        )
    return policy.envelope
