"""Switch a policy on for a pipeline: the public functions `enable` and `accelerated`."""

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

    >>> run = enable(pipe, policy, guard="report")  # doctest: +SKIP
    >>> image = pipe("a red star", num_inference_steps=30).images[0]  # doctest: +SKIP
    >>> run.report.denoiser_calls, run.report.notes, run.report.guard.left  # doctest: +SKIP

    Args:
        pipe: a diffusers pipeline.
        policy: a policy that was calibrated on this pipeline, or one written by hand.
        guard: ``"report"``: each call's ``report.guard`` says which samples drifted more than calibration's prompts
            did. ``"compute"``: also, once a sample did, the remaining steps are computed.
        draft: each call is followed by a second one with the draft's policy, without decoding. From the difference,
            ``report.draft`` estimates which samples are farther from the full run than calibration's were. If the
            second call fails, ``report.draft`` is None and a note says why.

    Returns:
        The acceleration. Its ``report`` is that of the last call, with:

        - ``computed_steps``, ``cached_steps``, ``denoiser_calls``, and ``notes``: where the call departed from the
          policy, and why. A call in a nearby setting transfers the policy and notes it;
        - ``guard.left``: for each sample of the batch, whether its ``guard.scores`` is above ``guard.limit``;
        - ``draft.left``: the same for ``draft.scores``; ``draft.errors`` are the estimated distances to the full run.

    Raises:
        GuardError: if there is no such guard, the policy has no envelope to compare with, or the draft is for another
            policy.
        PipelineError: if the pipeline is enabled already, has no denoiser, has another cache on, or its scheduler is
            not supported.
        PolicyMismatchError: if the policy was made for another model or scheduler, or is not a policy.

    Notes:
        *Later calls* raise PolicyMismatchError if their guidance, noise levels or number of steps are not the
        calibrated ones and the policy cannot be transferred to them; PipelineError if the pipeline takes no such
        argument; and RunError if the pipeline does something that no cache can follow. For a policy written by hand,
        only the number of steps is compared.

        *Side effects.* Only the pipeline object's class changes, to a subclass of the same name. Other pipelines that
        share its modules are not affected, nor are direct calls of the modules.

        *Cost.* The guard makes no denoiser call, apart from the steps that ``"compute"`` adds. A draft costs the
        computed steps of its policy in every call. To check only some calls, set the acceleration's ``draft`` to None
        in between.

        *Threads.* A pipeline serves one call at a time. Give each thread a copy: ``copy.copy(pipe)``, with
        ``copy.deepcopy(pipe.scheduler)``. Copies of an enabled pipeline are enabled.
    """
    check_policy(policy)
    acceleration = WatchedAcceleration(policy, guard, draft)
    switch_on(pipe, acceleration)
    return acceleration


@contextmanager
def accelerated(
    pipe: Any, policy: Policy, *, guard: Mode | None = None, draft: Draft | None = None
) -> Iterator[WatchedAcceleration]:
    """Make the calls of ``pipe`` within a ``with`` block follow ``policy``; arguments and errors as for `enable`.

    The pipeline is as before afterwards, also if the block raises. The report can still be read then.

    >>> with accelerated(pipe, policy) as run:  # doctest: +SKIP
    ...     image = pipe("a red star", num_inference_steps=30).images[0]
    >>> run.computed_steps  # doctest: +SKIP
    (0, 3, 6, 11, 14, 17, 20, 23, 27, 29)
    >>> print(run.report)  # doctest: +SKIP
    """
    acceleration = enable(pipe, policy, guard=guard, draft=draft)
    try:
        yield acceleration
    finally:
        switch_off(pipe, acceleration)
