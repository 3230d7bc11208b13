"""Transfer a policy to another guidance scale, with the weights on the contrast rescaled, or to other adapters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from ertacache.errors import ArgumentError, PolicyMismatchError
from ertacache.method.prediction import Prediction
from ertacache.policy import Policy
from ertacache.policy.origin import ANY_ADAPTERS, Origin
from ertacache.runtime.policy_checks import check_policy
from ertacache.value_checks import number

NEAR_SCALES = (0.75, 1.0)
"""By how much a call may multiply the guidance scale: this was measured to lose 1 dB at most, but 1.25 up to 10 dB."""


def scale_of(guidance: Mapping[str, float]) -> str | None:
    """Find the argument that multiplies the contrast of the branches; None without guidance.

    If there is a ``true_cfg_scale``, it is that one: ``guidance_scale`` is then an input of the denoiser.

    Args:
        guidance: see `ertacache.runtime.call_setting.guidance_of`.
    """
    return next((name for name in ("true_cfg_scale", "guidance_scale") if guidance.get(name)), None)


def strength_of(guidance: Mapping[str, float]) -> float:
    """The guidance scale of a call, also where it is an input of a distilled model; 1 for none."""
    scale = scale_of(guidance)
    return max(1.0, guidance[scale]) if scale else 1.0


def transferred(policy: Policy, *, adapters: Literal["any"] | None = None, **guidance: float) -> Policy:
    """Transfer a policy to another guidance scale, or to other adapters (LoRA), than it was calibrated with.

    *Guidance.* The schedule stays. With an output ``v = u + g d``, where d is the contrast of the guidance branches,
    the weights on u and d stay as well; so the factors of the contrasts are multiplied by new over old guidance. The
    trajectory also changes with guidance, which the weights do not follow. So calls do this automatically for near
    scales only; calibrating at the other guidance loses nothing. docs/records/transfer.md has the measured loss.

    In these cases the weights stay as they are, and only the recorded guidance changes, so that calls are accepted:

    - any other argument than the guidance scale, such as ``controlnet_conditioning_scale``;
    - a policy without contrast factors, such as one by `taylor`, or one calibrated without a second guidance branch;
    - different new scales for the two experts of Wan 2.2.

    With a scale of 1 or less, most pipelines make no second branch. If that was a denoiser call of its own, the call is
    refused. If it was a part of the batch, Taylor's weights take the place of fitted ones that have contrast factors;
    the call's report notes that.

    *Adapters.* Schedule and weights stay, and calls with whatever adapters are active are followed. The report of each
    says so. The weights beneath the adapters must still be the calibrated ones, so a fused LoRA is refused.
    docs/how-to/lora.md has the measured loss.

    Args:
        policy: a policy with an origin.
        adapters: ``"any"`` to follow calls with other adapters than those of calibration.
        **guidance: guidance arguments of the later calls, e.g. ``true_cfg_scale=7.0``; those not given stay.

    Returns:
        A policy for calls at that guidance, without an envelope (no guard) and without measured quality.

    Raises:
        ArgumentError: if a value is not a number, or ``adapters`` is something else.
        PolicyFileError: if a factor becomes too large.
        PolicyMismatchError: if the policy's calls had no such argument, its origin is unknown, or it is no policy.

    >>> transferred(policy, true_cfg_scale=7.0).save("flux-7.safetensors")  # doctest: +SKIP
    >>> transferred(policy, adapters="any").save("flux-lora.safetensors")  # doctest: +SKIP
    """
    check_policy(policy)
    calibrated = policy.origin.guidance if policy.origin else {}
    for name in guidance:
        if name not in calibrated:
            raise PolicyMismatchError(
                "the calibration's calls had no such guidance argument",
                given=f"{name}; they had {', '.join(calibrated) or 'none'}",
                cure="Name one that they had, or calibrate a policy for this setting with ertacache.calibrate().",
            )
    if adapters not in (None, "any"):
        raise ArgumentError("adapters takes 'any' alone", given=adapters, cure="Pass adapters='any', or leave it out.")
    if policy.origin is None or not (guidance or adapters):
        return policy
    wanted = _filled_in(calibrated, {name: float(number(name, value)) for name, value in guidance.items()})
    ratio = _ratio(calibrated, wanted)
    notes = [guidance_note(calibrated, wanted)] if guidance else []
    origin = replace(policy.origin, guidance={**calibrated, **wanted})
    if adapters:
        origin = _with_any_adapters(origin)
        notes.append("used with any adapters (LoRA), though it was calibrated with its own or none")
    return replace(
        policy,
        origin=origin,
        predictions={step: _rescaled(prediction, ratio) for step, prediction in policy.predictions.items()},
        envelope=None,  # drifts and outputs depend on guidance and adapters
        gram=None,
        calibration=policy.calibration.unmeasured(*notes),
    )


def _with_any_adapters(origin: Origin) -> Origin:
    return replace(
        origin,
        denoisers={
            name: replace(denoiser, adapters=(ANY_ADAPTERS, *(a for a in denoiser.adapters if a != ANY_ADAPTERS)))
            for name, denoiser in origin.denoisers.items()
        },
    )


def guidance_note(calibrated: Mapping[str, float], wanted: Mapping[str, float]) -> str:
    """Write the note on a transfer to other guidance, for a policy's record or a call's report.

    Args:
        calibrated: the guidance of the calibration, by name.
        wanted: the arguments that changed, by name.
    """
    changes = (f"{name} {calibrated[name]:g} -> {value:g}" for name, value in sorted(wanted.items()))
    return f"used at other guidance than it was calibrated at: {', '.join(changes)}"


def _filled_in(calibrated: Mapping[str, float], wanted: dict[str, float]) -> dict[str, float]:
    """Add the scale of a second expert, which follows the first one's unless it is given."""
    second = calibrated.get("guidance_scale_2")
    if "guidance_scale" in wanted and second is not None and second == calibrated["guidance_scale"]:
        wanted.setdefault("guidance_scale_2", wanted["guidance_scale"])
    return wanted


def _ratio(calibrated: Mapping[str, float], wanted: Mapping[str, float]) -> float:
    """New over old guidance."""
    scale = scale_of(calibrated)
    ratio = wanted[scale] / calibrated[scale] if scale is not None and scale in wanted else 1.0
    second = calibrated.get("guidance_scale_2")
    if second and scale == "guidance_scale" and wanted.get("guidance_scale_2", second) / second != ratio:
        return 1.0  # two experts, and it is not known which one a weight belongs to: the weights stay
    return ratio


def _rescaled(prediction: Prediction, ratio: float) -> Prediction:
    return replace(prediction, contrast_factors=tuple(factor * ratio for factor in prediction.contrast_factors))
