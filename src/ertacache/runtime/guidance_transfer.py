"""A policy at other guidance than it was calibrated at: the same schedule, its weights on the contrast rescaled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ertacache.arguments import number
from ertacache.errors import PolicyMismatchError
from ertacache.method.prediction import Prediction
from ertacache.policy import Policy
from ertacache.runtime.policy_checks import check_policy

NEAR_SCALES = (0.75, 1.0)
"""By what a call may multiply the guidance scale: that was measured to lose 1 dB at most, and 1.25 up to 10 dB."""


def scale_of(guidance: Mapping[str, float]) -> str | None:
    """What multiplies the difference of the branches. Beside ``true_cfg_scale``, ``guidance_scale`` is an input."""
    return next((name for name in ("true_cfg_scale", "guidance_scale") if guidance.get(name)), None)


def transferred(policy: Policy, **guidance: float) -> Policy:
    """Transfer a policy to other guidance than it was calibrated at; docs/transfer.md has what that costs.

    The schedule stays, and so do the weights on u and d of an output ``v = u + g d``, where the guidance branches
    differ by d. In the policy's own variables, v and d, the factors of the contrasts are multiplied by new over old
    guidance. Other guidance also bends the trajectory, which the weights do not follow. So calls do this unasked for
    near scales only, and calibrating at the other guidance loses nothing.

    Args:
        policy: a policy with an origin.
        **guidance: guidance arguments of the calls to come, e.g. ``true_cfg_scale=7.0``; the others stay.

    Returns:
        A policy for calls at that guidance, without an envelope (no guard) and without measured quality.

    Raises:
        ArgumentError: if a value is no number.
        PolicyMismatchError: if the policy's calls had no such argument, its origin is not known, or it is no policy.

    >>> transferred(policy, true_cfg_scale=7.0).save("flux-7.safetensors")  # doctest: +SKIP
    """
    check_policy(policy)
    known = policy.origin.guidance if policy.origin else {}
    for name in guidance:
        if name not in known:
            raise PolicyMismatchError(
                "the policy's calls had no such guidance argument",
                given=f"{name}, where they had {', '.join(known) or 'none'}",
                cure="Name one of those, or calibrate a policy for this setting with ertacache.calibrate().",
            )
    if policy.origin is None or not guidance:
        return policy
    wanted = _filled_in(known, {name: float(number(name, value)) for name, value in guidance.items()})
    ratio = _ratio(known, wanted)
    return replace(
        policy,
        origin=replace(policy.origin, guidance={**known, **wanted}),
        predictions={step: _rescaled(prediction, ratio) for step, prediction in policy.predictions.items()},
        envelope=None,  # other guidance drifts otherwise
        gram=None,  # and has other outputs
        calibration=policy.calibration.unmeasured(guidance_note(known, wanted)),
    )


def guidance_note(known: Mapping[str, float], wanted: Mapping[str, float]) -> str:
    """What a policy's record, and the report of a call, say of a transfer to other guidance."""
    changes = (f"{name} {known[name]:g} -> {value:g}" for name, value in sorted(wanted.items()))
    return f"used at other guidance than it was calibrated at: {', '.join(changes)}"


def _filled_in(known: Mapping[str, float], wanted: dict[str, float]) -> dict[str, float]:
    """With the scale of the second expert, as the pipeline fills it in."""
    second = known.get("guidance_scale_2")
    if "guidance_scale" in wanted and second is not None and second == known["guidance_scale"]:
        wanted.setdefault("guidance_scale_2", wanted["guidance_scale"])
    return wanted


def _ratio(known: Mapping[str, float], wanted: Mapping[str, float]) -> float:
    """New over old guidance."""
    scale = scale_of(known)
    ratio = wanted[scale] / known[scale] if scale is not None and scale in wanted else 1.0
    second = known.get("guidance_scale_2")
    if second and scale == "guidance_scale" and wanted.get("guidance_scale_2", second) / second != ratio:
        return 1.0  # two experts, and the weights of which is not known: they stay
    return ratio


def _rescaled(prediction: Prediction, ratio: float) -> Prediction:
    return replace(prediction, contrast_factors=tuple(factor * ratio for factor in prediction.contrast_factors))
