"""Decide whether and how a policy applies to a call; no other module decides that.

Before the call, `resolve` compares the pipeline, models, settings and guidance with the calibrated ones, and may
transfer the policy to slightly weaker guidance. Once the scheduler has set its timesteps, `Resolved.on_grid` compares
the noise levels, and may transfer the policy to them. `Resolved.at_first_step` compares what only a step shows.

Transfers that were measured to cost little are made, and noted in the call's report; all others are refused with the
reason. A transfer is solved once for each setting, and kept for as long as the policy lives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ertacache.errors import RunError
from ertacache.method.named_methods import check_streams_method
from ertacache.method.prediction import Prediction
from ertacache.policy import Policy
from ertacache.runtime.call_setting import CallSetting
from ertacache.runtime.grid_transfer import carries, of_measured_kind, on_grid, refusal
from ertacache.runtime.guidance_transfer import NEAR_SCALES, guidance_note, scale_of, transferred
from ertacache.runtime.mismatch import cause_of_levels, mismatch
from ertacache.runtime.observer import Observer
from ertacache.runtime.policy_checks import (
    check_calls_per_step,
    check_guidance,
    check_latent_shape,
    check_output_shape,
    check_pipeline,
    check_stream,
    check_streams,
    grid_difference,
)
from ertacache.runtime.report import Report
from ertacache.runtime.transfer_memo import PolicyMemo
from ertacache.runtime.unwrap import own_class, patched_on


@dataclass(frozen=True)
class Resolved:
    """A policy as a call follows it.

    Args:
        policy: the policy to follow, transferred if need be.
        as_calibrated: whether guidance and noise levels are the calibrated ones; False if the policy was transferred.
        notes: notes for the call's report.
        setting: the setting of the call, if known.
        observers: watch the run, beside those of the caller.
        succeeded: called with the report when the call has returned without an error.
        solve_stream: makes the predictions of a further latent that the loop steps, from its scheduler, noise levels
            and first step; None if the policy has them.
    """

    policy: Policy
    as_calibrated: bool = True
    notes: tuple[str, ...] = ()
    setting: CallSetting | None = None
    observers: tuple[Observer, ...] = ()
    succeeded: Callable[[Report], None] = lambda report: None
    solve_stream: SolveStream | None = None

    def on_grid(self, scheduler: Any, levels: Sequence[float]) -> Resolved:
        """Compare the policy with the grid of the call, and transfer it if needed.

        Args:
            scheduler: the scheduler of the call; left unchanged.
            levels: the T' + 1 noise levels of the call.

        Raises:
            PolicyMismatchError: if the noise levels differ and the policy cannot be transferred to them.
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
            f"the policy was calibrated on other noise levels ({policy.num_inference_steps} steps) and was transferred "
            f"to these {moved.num_inference_steps}: {len(moved.computed_steps)} of them are computed, with weights "
            "solved anew; a policy calibrated on them may be closer to the full run"
        )
        return replace(self, policy=moved, as_calibrated=False, notes=(*self.notes, note))

    def at_first_step(self, index: int, denoiser_calls: int, latent: Sequence[int], output: Sequence[int]) -> Resolved:
        """Compare the policy with what the first step of the call shows.

        Args:
            index: of the step, in the scheduler's grid.
            denoiser_calls: how many of them make up a step.
            latent: the shape of the latent, with the batch axis.
            output: the shape of the model output that the scheduler is given.

        Raises:
            PipelineError: if the policy's level does not suit these shapes.
            PolicyMismatchError: if the policy was made for other guidance branches or latents.
        """
        policy, shape = self.policy, tuple(latent[1:])
        if policy.method.level == "output":
            check_output_shape(latent, output)
        check_calls_per_step(policy, denoiser_calls, self.setting)
        check_latent_shape(policy, shape, self.setting)
        if not policy.origin or policy.method.predictor != "aligned" or shape == policy.origin.latent_shape:
            return self
        note = (
            f"the policy was calibrated on latents of shape {policy.origin.latent_shape}, and these have shape "
            f"{shape}; it is followed unchanged; a policy calibrated on this shape may be closer to the full run"
        )
        return replace(self, notes=(*self.notes, note))

    def at_stream(
        self, number: int, scheduler: Any, levels: Sequence[float], first: int, latent: Sequence[int]
    ) -> Mapping[int, Prediction]:
        """Compare the policy with the first step of a further latent that the loop steps, such as sound.

        Args:
            number: which of the latents it is, 1 or more.
            scheduler: what steps it.
            levels: the noise levels of its grid.
            first: the index of the step.
            latent: its shape, with the batch axis.

        Returns:
            Its predictions.

        Raises:
            PipelineError: if the policy's method is not for several latents.
            PolicyMismatchError: if the policy was made without it, or for other noise levels.
        """
        policy = self.policy
        check_streams_method(policy.method, number + 1)
        if self.solve_stream is not None:
            return self.solve_stream(number, scheduler, levels, first)
        if policy.origin is not None:
            check_stream(policy, policy.origin, number, levels, tuple(latent[1:]), self.setting)
        return policy.streams[number - 1] if number <= len(policy.streams) else {}

    def check_streams(self, seen: int) -> None:
        """Raise `PolicyMismatchError` if the loop steps fewer latents than the policy was calibrated with."""
        if self.policy.origin is not None and self.solve_stream is None:
            check_streams(self.policy, self.policy.origin, seen)


SolveStream = Callable[[int, Any, Sequence[float], int], Mapping[int, Prediction]]
"""``solve(number, scheduler, levels, first)``; see `Resolved`."""


def resolve(policy: Policy, pipe: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> Resolved:
    """Decide how a call follows a policy, as far as this is known before the scheduler sets its timesteps.

    Args:
        policy: the policy that the user gave.
        pipe: the pipeline.
        args: the positional arguments of the call.
        kwargs: the keyword arguments of the call.

    Raises:
        PipelineError: if another cache is on, or there is no denoiser.
        PolicyMismatchError: if the policy was made for another model or setting, and cannot be transferred.
    """
    return at_guidance(policy, check_pipeline(policy, pipe), CallSetting.of(pipe, args, kwargs or {}))


def at_guidance(policy: Policy, notes: Sequence[str], setting: CallSetting) -> Resolved:
    """Decide how a call in this setting follows a policy, for a pipeline that was checked.

    Args:
        policy: the policy that the user gave.
        notes: the notes of `ertacache.runtime.policy_checks.check_pipeline`.
        setting: the setting of the call.

    Raises:
        PolicyMismatchError: if the guidance differs and the policy cannot be transferred to it.
    """
    moved = at_near_guidance(policy, setting.guidance)
    if moved is None:
        return replace(unchanged(policy, setting), notes=tuple(notes))
    assert policy.origin is not None  # only policies with an origin are transferred
    calibrated = policy.origin.guidance
    changed = {name: value for name, value in setting.guidance.items() if calibrated[name] != value}
    return Resolved(moved, False, (*notes, guidance_note(calibrated, changed)), setting)


def unchanged(policy: Policy, setting: CallSetting) -> Resolved:
    """A policy as it is, for a call in the setting that it was calibrated in.

    Raises:
        PolicyMismatchError: if the call's guidance is not the calibrated one, and the policy depends on it.
    """
    scale = scale_of(policy.origin.guidance) if policy.origin else None
    cure = f"To force it, at lower quality, call ertacache.transferred(policy, {scale}=...)"
    check_guidance(policy, setting, {scale: f"{_only_near(policy)}. {cure}"} if scale else {})
    return Resolved(policy, setting=setting)


def _only_near(policy: Policy) -> str:
    """Why a policy is not transferred to another guidance scale."""
    if policy.origin and carries(policy) and not of_measured_kind(policy.origin):
        return f"transfers with {policy.origin.scheduler_class} on such noise levels were not tested"
    if policy.origin and carries(policy) and not all(p.contrast_factors for p in policy.predictions.values()):
        return "it has no weights on the contrast of the guidance branches, which alone could be rescaled"
    least, most = NEAR_SCALES
    return f"calls do that between {least:g} and {most:g} times the calibrated scale, for policies of 'aligned'"


def at_near_guidance(policy: Policy, guidance: Mapping[str, float]) -> Policy | None:
    """Transfer a policy to a slightly weaker guidance scale.

    Args:
        policy: the policy that the user gave.
        guidance: the guidance arguments of the call, by name.

    Returns:
        The transferred policy, or None if the guidance is the calibrated one, or such a transfer was not measured.
    """
    if policy.origin is None or policy.gram is None or not carries(policy) or not of_measured_kind(policy.origin):
        return None
    calibrated = policy.origin.guidance
    scale = scale_of(calibrated)
    if scale is None or calibrated.keys() != guidance.keys() or guidance == calibrated:
        return None
    if calibrated.get("guidance_rescale") or calibrated.get("use_dynamic_cfg"):
        return None  # the contrast's part of the output is then not proportional to the scale
    if calibrated.get("guidance_scale_2", calibrated[scale]) != calibrated[scale]:
        return None  # the two experts would need two ratios
    near = NEAR_SCALES[0] <= guidance[scale] / calibrated[scale] <= NEAR_SCALES[1]
    if not near or guidance[scale] <= 1 or not all(p.contrast_factors for p in policy.predictions.values()):
        return None  # a scale of 1 or less switches the second branch off
    changed: dict[str, Any] = {scale: guidance[scale]}
    moved = MEMO.get(policy, (scale, guidance[scale]), lambda: transferred(policy, **changed))
    return moved if moved.origin and moved.origin.guidance == guidance else None  # another argument may differ too


def _transferred_to(policy: Policy, scheduler: Any, levels: Sequence[float], cause: str) -> Policy | str:
    """Transfer the policy to other noise levels, or return the reason why not."""
    if patched_on(scheduler, "step") is not None:
        return "the scheduler's step() is patched on the object, so its response to model outputs is not known"
    reason = refusal(policy, levels, cause)
    if reason:
        return reason
    key = own_class(scheduler), repr(sorted(scheduler.config.items())), tuple(levels)
    transfer = MEMO.get(policy, key, lambda: on_grid(policy, scheduler, levels))
    return transfer.refusal or transfer.policy


MEMO = PolicyMemo()
"""The transfers made so far, by policy and setting."""


@dataclass(frozen=True)
class Undecided(Resolved):
    """A call whose policy is made when its first step is known.

    Args:
        decide: ``decide(scheduler, levels, first)`` makes it, from the call's scheduler before it steps, the T + 1
            noise levels of its grid, and the index of the step that the call begins with.
        scheduler: that of the call, once it has set its timesteps.
        levels: the noise levels that it has set.
    """

    decide: Callable[[Any, tuple[float, ...], int], Resolved] | None = None
    scheduler: Any = None
    levels: tuple[float, ...] = ()

    def on_grid(self, scheduler: Any, levels: Sequence[float]) -> Resolved:
        """Take in the grid."""
        return replace(self, scheduler=scheduler, levels=tuple(levels))

    def at_first_step(self, index: int, denoiser_calls: int, latent: Sequence[int], output: Sequence[int]) -> Resolved:
        """Decide."""
        assert self.decide is not None
        if not self.levels:
            raise RunError(
                "the call steps on noise levels that were set before it began",
                given=own_class(self.scheduler).__name__,
                cure="Have the pipeline call its scheduler's set_timesteps(), or calibrate a policy.",
            )
        return self.decide(self.scheduler, self.levels, index)
