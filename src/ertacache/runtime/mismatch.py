"""Write the error for a policy that does not fit, with the commands that calibrate one that does."""

from __future__ import annotations

from collections.abc import Mapping
from math import floor
from typing import Any

from ertacache.errors import Difference, PolicyMismatchError
from ertacache.policy import Policy
from ertacache.runtime.call_setting import CallSetting

_ADVISED = ("guidance_scale", "guidance_scale_2", "true_cfg_scale", "guidance_rescale", "use_dynamic_cfg")
"""Guidance arguments that the advised commands always contain; others only if they differ."""


def mismatch(
    policy: Policy,
    field: str,
    expected: str,
    actual: str,
    *,
    reason: str = "",
    steps: int | None = None,
    guidance: Mapping[str, float | None] | None = None,
    call: CallSetting | None = None,
) -> PolicyMismatchError:
    """Make the error for a policy that does not fit, with the commands that calibrate one for the call at hand.

    Args:
        policy: the policy.
        field: the name of what differs.
        expected: its value in calibration.
        actual: its value now.
        reason: why the policy cannot be transferred, for differences where a transfer is possible at all.
        steps: T of the call, if it differs.
        guidance: the guidance arguments of the call that differ; None for one that is missing.
        call: the setting of the call, if known.
    """
    guidance = guidance or {}
    is_argument = (field in guidance or field == "num_inference_steps") and "." not in field
    is_argument = is_argument and not (call and call.takes is not None and field not in call.takes)
    resized = call and call.resized(policy)
    error = PolicyMismatchError(
        f"the policy does not fit: {field} was {expected} when it was calibrated, and is {actual} now"
        + (f"; it cannot be transferred: {reason}" if reason else ""),
        given=f"{field}={actual}" if is_argument else actual,
        cure=f"{_as_calibrated(f'{field}={expected}' if is_argument else '', resized[0] if resized else '')}, or "
        f"calibrate a policy for this one: {_commands_for(policy, steps, guidance, call)}",
    )
    error.difference = Difference(field, expected, actual)
    return error


def other_model(policy: Policy, what: str, *, given: str, difference: Difference) -> PolicyMismatchError:
    """Make the error for a pipeline whose denoiser is another model; its calls may take other arguments.

    Args:
        policy: the policy.
        what: how the models differ.
        given: the pipeline, or the model that is another one.
        difference: the same for programs.
    """
    commands = calibrate_commands(policy.asked_steps, policy.step_ratio, {})
    error = PolicyMismatchError(
        f"this policy was made for another model: {what}",
        given=given,
        cure=f"Use the policy with that model, or calibrate one for this model: {commands}",
    )
    error.difference = difference
    return error


def other_weights(policy: Policy, what: str, *, given: str, cure: str, call: CallSetting) -> PolicyMismatchError:
    """Make the error for a pipeline with other weights.

    Args:
        policy: the policy.
        what: how the weights differ.
        given: the model that has them.
        cure: how to get the calibrated ones back.
        call: the setting of the call.
    """
    commands = _commands_for(policy, None, {}, call)
    error = PolicyMismatchError(
        f"the policy does not fit: {what}", given=given, cure=f"{cure}, or calibrate a policy for these: {commands}"
    )
    error.difference = Difference("weights", "the calibrated ones", "others")
    return error


def _as_calibrated(argument: str, sizes: str) -> str:
    """Write how to make the call as in calibration.

    Args:
        argument: the argument that differs with its calibrated value, or an empty string.
        sizes: what `CallSetting.resized` returns first, or an empty string.
    """
    own = sizes.removeprefix("the pipeline's own ")
    absent = argument.removesuffix("=None")
    passed = [argument] * (absent == argument) + [sizes] * (own == sizes)
    left_out = [absent] * (absent != argument) + [own] * (own != sizes)
    ways = [f"pass {', '.join(filter(None, passed))} to the call"] * any(passed)
    ways += [f"leave {' and '.join(left_out)} out of the call"] * bool(left_out)
    text = " and ".join(ways) or "use the calibrated setting"
    return text[0].upper() + text[1:]


def _commands_for(
    policy: Policy, steps: int | None, guidance: Mapping[str, float | None], call: CallSetting | None
) -> str:
    """Write how to calibrate a policy for the call at hand; for the arguments, see `mismatch`."""
    calibrated = policy.origin.guidance if policy.origin else {}
    known = {name: value for name, value in calibrated.items() if name in _ADVISED} | dict(guidance)
    second = guidance.get("guidance_scale_2", known.get("guidance_scale"))
    if calibrated.get("guidance_scale_2") == calibrated.get("guidance_scale") and second == known.get("guidance_scale"):
        known.pop("guidance_scale_2", None)  # it defaults to the first, and pipelines with one denoiser refuse it
    settings = {name: f"{value:g}" for name, value in sorted(known.items()) if value is not None}
    if call and call.takes is not None:
        settings = {name: value for name, value in settings.items() if name in call.takes}
    if call and call.resized(policy):
        settings |= {name: str(value) for name, value in (call.sizes or {}).items()}
    return calibrate_commands(steps or policy.asked_steps, policy.step_ratio, settings)


def calibrate_commands(steps: int, step_ratio: float, settings: Mapping[str, str]) -> str:
    """Write how to calibrate a policy, as a Python call and as a shell command.

    Args:
        steps: T.
        step_ratio: the speedup to ask for.
        settings: further arguments of the calls, as text.
    """
    speedup = f"{floor(100 * step_ratio) / 100:g}"  # rounded down: calibration takes it as a minimum
    call = "".join(f", {name}={value}" for name, value in settings.items())
    shell = "".join(f" --set {name}={value}" for name, value in settings.items())
    return (
        f"ertacache.calibrate(pipe, prompts, num_inference_steps={steps}, speedup={speedup}{call}), or "
        f"ertacache calibrate MODEL --prompts FILE --steps {steps} --speedup {speedup}{shell}"
    )


def cause_of_levels(policy: Policy, scheduler: Any, call: CallSetting | None) -> str:
    """Name the possible causes of different noise levels, the likeliest first.

    Args:
        policy: the policy.
        scheduler: the pipeline's scheduler.
        call: the setting of the call, if known.
    """
    resized = call and call.resized(policy)
    size = f"the size, which was {resized[0]} and is {resized[1]}" if resized else ""
    by_size = any(scheduler.config.get(name) for name in ("use_dynamic_shifting", "use_timestep_transform"))
    if size and by_size:
        return f"{size}, or else the scheduler's shift or sigmas of your own"
    if size:
        return f"the scheduler's shift, sigmas of your own, or {size}"
    return f"the scheduler's shift{', which follows the size,' if by_size else ','} or sigmas of your own"
