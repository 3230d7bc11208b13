"""Whether and how a policy applies to a call: the one place where that is decided.

Before the call, `resolve` compares pipeline, models, settings and guidance with what the policy was made for, and may
transfer it to slightly weaker guidance. Once the scheduler has laid its grid, `Resolved.on_grid` compares the noise
levels, and may transfer it to those. Transfers are solved once for a setting, and kept for as long as the policy lives.
What was measured to cost little is done, and said in the call's report; anything else is refused with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ertacache.policy import Policy
from ertacache.runtime.call_setting import CallSetting
from ertacache.runtime.guidance_transfer import NEAR_SCALES, guidance_note, scale_of, transferred
from ertacache.runtime.mismatch import cause_of_levels, mismatch
from ertacache.runtime.policy_checks import check_guidance, check_pipeline, grid_difference
from ertacache.runtime.policy_memo import PolicyMemo
from ertacache.runtime.transfer import carries, of_measured_kind, on_grid, refusal
from ertacache.runtime.unwrap import own_class, patched_on


@dataclass(frozen=True)
class Resolved:
    """A policy as a call follows it.

    Args:
        policy: the policy to follow, transferred if need be.
        as_calibrated: whether it is followed at the guidance and on the noise levels that it was calibrated on.
        notes: what the call's report says of it.
        setting: the call's, if it is known.
    """

    policy: Policy
    as_calibrated: bool = True
    notes: tuple[str, ...] = ()
    setting: CallSetting | None = None

    def on_grid(self, scheduler: Any, levels: Sequence[float]) -> Resolved:
        """The same on the noise levels that the call's scheduler has laid.

        Args:
            scheduler: that of the call; left as it is.
            levels: the T' + 1 noise levels of the call.

        Raises:
            PolicyMismatchError: if these are other noise levels, and the policy cannot be transferred to them.
        """
        policy = self.policy
        cause = cause_of_levels(policy, scheduler, self.setting)
        difference = grid_difference(policy, levels, cause)
        if difference is None:
            return self
        moved = _transferred_to(policy, scheduler, levels, cause)
        if isinstance(moved, str):
            raise mismatch(policy, *difference, reason=moved, steps=len(levels) - 1, call=self.setting)
        note = (
            f"the policy was calibrated on other noise levels, of {policy.num_inference_steps} steps; its computed "
            f"steps were placed and its weights solved anew for these {moved.num_inference_steps}, "
            f"{len(moved.computed_steps)} of them computed; one that is calibrated on them may be nearer to the full "
            "run"
        )
        return replace(self, policy=moved, as_calibrated=False, notes=(*self.notes, note))


def resolve(policy: Policy, pipe: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> Resolved:
    """What a call of a pipeline follows, as far as can be told before its noise levels are laid.

    Args:
        policy: the policy that was given.
        pipe: the pipeline.
        args: the call's.
        kwargs: the call's.

    Raises:
        PipelineError: if another cache is on.
        PolicyMismatchError: if the policy was made for another model or setting.
    """
    return at_guidance(policy, check_pipeline(policy, pipe), CallSetting.of(pipe, args, kwargs or {}))


def at_guidance(policy: Policy, notes: Sequence[str], setting: CallSetting) -> Resolved:
    """What a call in this setting follows, of a pipeline that was checked.

    Args:
        policy: the policy that was given.
        notes: what the check could not compare.
        setting: the call's.

    Raises:
        PolicyMismatchError: if its guidance is another one, and the policy cannot be transferred to it.
    """
    moved = at_near_guidance(policy, setting.guidance)
    if moved is None:
        least, most = NEAR_SCALES
        reason = (
            f"guidance changes automatically only between {least:g}x and {most:g}x; to force it, at lower quality, "
            "call ertacache.transferred()"
        )
        check_guidance(policy, setting, reason)
        return Resolved(policy, True, tuple(notes), setting)
    assert policy.origin is not None  # or nothing could be moved
    known = policy.origin.guidance
    changed = {name: value for name, value in setting.guidance.items() if known[name] != value}
    return Resolved(moved, False, (*notes, guidance_note(known, changed)), setting)


def at_near_guidance(policy: Policy, guidance: Mapping[str, float]) -> Policy | None:
    """The policy `transferred` to a call's guidance; None where that is the calibrated one, or not measured."""
    if policy.origin is None or policy.gram is None or not carries(policy) or not of_measured_kind(policy.origin):
        return None
    known = policy.origin.guidance
    scale = scale_of(known)
    if scale is None or known.keys() != guidance.keys() or guidance == known:
        return None
    if known.get("guidance_rescale") or known.get("use_dynamic_cfg"):
        return None  # of which no output is proportional to the scale
    if known.get("guidance_scale_2", known[scale]) != known[scale]:
        return None  # one ratio would be that of one expert
    near = NEAR_SCALES[0] <= guidance[scale] / known[scale] <= NEAR_SCALES[1]
    if not near or guidance[scale] <= 1 or not all(p.contrast_factors for p in policy.predictions.values()):
        return None  # a scale of 1 switches the second branch off
    moved = MEMO.get(policy, (scale, guidance[scale]), lambda: transferred(policy, **{scale: guidance[scale]}))
    return moved if moved.origin and moved.origin.guidance == guidance else None  # another argument may differ too


def _transferred_to(policy: Policy, scheduler: Any, levels: Sequence[float], cause: str) -> Policy | str:
    """The policy on other noise levels, or why it is not transferred to them."""
    if patched_on(scheduler, "step") is not None:
        return "the scheduler's step() is patched on the object, and how that answers to an output is not known"
    reason = refusal(policy, levels, cause)
    if reason:
        return reason
    key = own_class(scheduler), repr(sorted(scheduler.config.items())), tuple(levels)
    transfer = MEMO.get(policy, key, lambda: on_grid(policy, scheduler, levels))
    return transfer.refusal or transfer.policy


MEMO = PolicyMemo()
"""Transfers, by policy and setting."""
