"""Switch a policy on: `accelerated` and `enable`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ertacache.acceleration import switch_off, switch_on
from ertacache.policy import Policy
from ertacache.runtime.policy_checks import check_policy
from ertacache.watching.draft import Draft
from ertacache.watching.guard_report import Mode
from ertacache.watching.watched import WatchedAcceleration


def enable(pipe: Any, policy: Policy, *, guard: Mode | None = None, draft: Draft | None = None) -> WatchedAcceleration:
    """Make every later call of ``pipe`` follow ``policy``, until `ertacache.disable`.

    Only the pipeline object's class changes, to a subclass of the same name; other pipelines that share its
    modules, and bare calls of the modules, are not touched.

    A call raises PolicyMismatchError where its guidance, noise levels or number of steps are not the calibrated ones
    and the policy cannot be transferred to them, and RunError where the pipeline does what no cache can follow.

    Args:
        pipe: a diffusers pipeline.
        policy: a policy that was calibrated on this pipeline.
        guard: ``"report"`` has each call's ``report.guard`` say which samples drifted more than calibration's
            prompts; ``"compute"`` also computes the steps that are left once one did.
        draft: has each call be followed by another one, of the computed steps of the draft's policy and without
            pictures, and ``report.draft`` say which samples are, by that, farther off than calibration's were. Where
            that fails, ``report.draft`` is None and a note says why.

    Returns:
        The acceleration, whose ``report`` says what the last call did.

    Raises:
        GuardError: if there is no such guard, the policy has no envelope to compare with, or the draft is of another
            policy.
        PipelineError: if it is enabled already, has no denoiser, or its scheduler is not supported.
        PolicyMismatchError: if the policy was made for another model or scheduler.
    """
    check_policy(policy)
    acceleration = WatchedAcceleration(policy, guard, draft)
    switch_on(pipe, acceleration)
    return acceleration


@contextmanager
def accelerated(
    pipe: Any, policy: Policy, *, guard: Mode | None = None, draft: Draft | None = None
) -> Iterator[WatchedAcceleration]:
    """`enable` on entry, `ertacache.disable` on exit, whatever happens in between.

    >>> with accelerated(pipe, policy) as run:  # doctest: +SKIP
    ...     image = pipe("a red star", num_inference_steps=30).images[0]
    >>> run.computed_steps  # doctest: +SKIP
    (0, 3, 6, 11, 14, 17, 20, 23, 27, 29)
    """
    acceleration = enable(pipe, policy, guard=guard, draft=draft)
    try:
        yield acceleration
    finally:
        switch_off(pipe, acceleration)
