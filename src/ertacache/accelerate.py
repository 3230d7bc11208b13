"""Switch a policy on for a pipeline: the public functions `enable` and `accelerated`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ertacache.acceleration import switch_off, switch_on
from ertacache.errors import ArgumentError, BudgetError
from ertacache.learning import Learner
from ertacache.policy import Policy
from ertacache.runtime.instant import Instant
from ertacache.runtime.policy_checks import check_policy
from ertacache.runtime.policy_source import PolicySource
from ertacache.runtime.step_budget import StepBudget
from ertacache.watching.draft import Draft
from ertacache.watching.guard_report import Mode
from ertacache.watching.watched import WatchedAcceleration


def enable(
    pipe: Any,
    policy: Policy | None = None,
    *,
    speedup: float | None = None,
    num_computed_steps: int | None = None,
    learn: str | os.PathLike[str] | None = None,
    audit: float = 0.0,
    guard: Mode | None = None,
    draft: Draft | None = None,
) -> WatchedAcceleration:
    """Make every later call of ``pipe`` follow a policy, until `ertacache.disable`.

    A pipeline that is enabled already follows the new policy in place of the earlier one; if the new one is refused,
    the earlier one stays. `ertacache.disabled` makes single calls in full.

    Either a calibrated ``policy`` is given, or ``speedup`` or ``num_computed_steps`` alone: then each call makes an
    *instant* policy from its own noise levels and from what the outputs of diffusion models have in common. It needs no
    calibration, and loses more than a calibrated one.

    >>> run = enable(pipe, policy, guard="report")  # doctest: +SKIP
    >>> image = pipe("a red star", num_inference_steps=30).images[0]  # doctest: +SKIP
    >>> run.report.denoiser_calls, run.report.notes, run.report.guard.left  # doctest: +SKIP

    Args:
        pipe: a diffusers pipeline.
        policy: a policy that was calibrated on this pipeline, or one written by hand.
        speedup: without a policy: at least so many steps for each computed one, 1 or more.
        num_computed_steps: without a policy, in place of ``speedup``: at most so many computed steps, 2 or more.
        learn: without a policy: a folder. The first generation of each setting (model, weights, adapters, scheduler,
            noise levels, guidance) runs in full, is returned in full, and is learnt from; later ones follow what is
            known by then. Processes may share the folder.
        audit: with ``learn``: the share of later generations, 0 to 1, that run in full as well. They are learnt from,
            and made again by the policy in force to see how far that is from them.
        guard: ``"report"``: each call's ``report.guard`` says which samples drifted more than calibration's prompts
            did. ``"compute"``: also, once a sample did, the remaining steps are computed.
        draft: each call is followed by a second one with the draft's policy, without decoding. From the difference,
            ``report.draft`` estimates which samples are farther from the full run than calibration's were. If the
            second call fails, ``report.draft`` is None and a note says why.

    Returns:
        The acceleration. Its ``report`` is that of the last call, with:

        - ``computed_steps``, ``cached_steps``, ``denoiser_calls``, and ``notes``: where the call departed from the
          policy, and why. A call in a nearby setting transfers the policy and notes it;
        - ``audit``: of an audited call, the policy's distance to it, as a share of the final latent; else None;
        - ``guard.left``: for each sample of the batch, whether its ``guard.scores`` is above ``guard.limit``;
        - ``draft.left``: the same for ``draft.scores``; ``draft.errors`` are the estimated distances to the full run.

    Raises:
        BudgetError: without a policy, on no budget or two, or one out of range; or if one is given beside a policy.
        GuardError: if there is no such guard, the policy has no envelope to compare with, or the draft is for another
            policy.
        PipelineError: in a block of `accelerated`; or if the pipeline has no denoiser, has another cache on, or its
            scheduler is not supported.
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
        ``copy.deepcopy`` of its ``scheduler`` and its ``vae``: that of Wan keeps state while it decodes, so that clips
        are damaged where threads share it, with or without this library. Copies of an enabled pipeline are enabled.
    """
    acceleration = WatchedAcceleration(_Wanted(speedup, num_computed_steps, learn, audit).source(policy), guard, draft)
    switch_on(pipe, acceleration, holds=False)
    return acceleration


@dataclass(frozen=True)
class _Wanted:
    """What is asked for beside a policy, or in place of one."""

    speedup: float | None
    num_computed_steps: int | None
    learn: str | os.PathLike[str] | None
    audit: float

    def source(self, policy: Policy | None) -> Policy | PolicySource:
        """What gives the calls their policies."""
        if policy is None:
            budget = StepBudget(self.speedup, self.num_computed_steps)
            if self.learn is not None:
                return Learner(budget, self.learn, self.audit)
            if self.audit:
                raise ArgumentError(
                    "audit is for learn=FOLDER alone", given=f"audit={self.audit}", cure="Pass learn=FOLDER as well."
                )
            return Instant(budget)
        check_policy(policy)
        beside = {name: value for name, value in vars(self).items() if value not in (None, 0.0)}
        if beside:
            raise BudgetError(
                "a policy has its budget already, and is not learnt",
                given=f"a policy of {len(policy.computed_steps)} computed steps, and {', '.join(beside)}",
                cure="Leave these out, or the policy.",
            )
        return policy


@contextmanager
def accelerated(
    pipe: Any,
    policy: Policy | None = None,
    *,
    speedup: float | None = None,
    num_computed_steps: int | None = None,
    learn: str | os.PathLike[str] | None = None,
    audit: float = 0.0,
    guard: Mode | None = None,
    draft: Draft | None = None,
) -> Iterator[WatchedAcceleration]:
    """Make the calls of ``pipe`` within a ``with`` block follow a policy; arguments and errors as for `enable`.

    The pipeline is as before afterwards, also if the block raises; what `enable` switched on before is then in force
    again. The report can still be read then.

    >>> with accelerated(pipe, policy) as run:  # doctest: +SKIP
    ...     image = pipe("a red star", num_inference_steps=30).images[0]
    >>> run.computed_steps  # doctest: +SKIP
    (0, 3, 6, 11, 14, 17, 20, 23, 27, 29)
    >>> print(run.report)  # doctest: +SKIP
    """
    acceleration = WatchedAcceleration(_Wanted(speedup, num_computed_steps, learn, audit).source(policy), guard, draft)
    switch_on(pipe, acceleration)
    try:
        yield acceleration
    finally:
        switch_off(pipe, acceleration)
