"""Check that a policy fits a pipeline and its calls; if not, the error says what differs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from ertacache.errors import Difference, PipelineError, PolicyMismatchError
from ertacache.policy import Denoiser, Origin, Policy
from ertacache.policy.origin import ANY_ADAPTERS
from ertacache.runtime import parameter_samples
from ertacache.runtime.call_setting import CallSetting
from ertacache.runtime.denoisers import loop_modules
from ertacache.runtime.identity import identify
from ertacache.runtime.mismatch import mismatch, other_model, other_weights
from ertacache.runtime.pipeline_settings import (
    configuration_difference,
    equal_json,
    refuse_other_caches,
    setting_difference,
    settings_of,
)
from ertacache.runtime.unwrap import model_of, own_class


def check_policy(policy: Any) -> None:
    """Raise `PolicyMismatchError` if this is not a `Policy`."""
    if isinstance(policy, Policy):
        return
    given, cure = type(policy).__name__, "Pass what calibrate() or Policy.load() returned."
    if isinstance(policy, (str, os.PathLike)):
        given, cure = repr(policy), f"A file has to be loaded first: pass Policy.load({str(os.fspath(policy))!r})."
    elif type(policy) in (int, float):
        given, cure = repr(policy), f"A speedup without a policy is passed by its name: speedup={policy}."
    raise PolicyMismatchError("this is not a policy", given=given, cure=cure)


def check_pipeline(policy: Policy, pipe: Any) -> list[str]:
    """Compare a pipeline with the one that the policy was calibrated on.

    Args:
        policy: the policy.
        pipe: the pipeline.

    Returns:
        Notes for the call's report, on what could not be compared, or only roughly.

    Raises:
        PipelineError: if another cache is on, or there is no denoiser.
        PolicyMismatchError: if the pipelines differ.
    """
    modules = loop_modules(pipe)
    refuse_other_caches(pipe, modules)
    origin = policy.origin
    if origin is None:
        return []
    _check_kind(policy, origin, pipe, modules)
    call = CallSetting.before_any(pipe)
    doubts = []
    for name, expected in origin.denoisers.items():
        doubts += _check_denoiser(policy, name, expected, identify(modules[name]), model_of(modules[name]), call)
    _agree(policy, "scheduler class", origin.scheduler_class, own_class(pipe.scheduler).__name__, call)
    if policy.method.depends_on_calibration:
        differs = setting_difference(origin.settings, settings_of(pipe, modules), pipe)
        if differs:
            raise mismatch(policy, differs[0], repr(differs[1]), repr(differs[2]), call=call)
    return doubts


def _check_kind(policy: Policy, origin: Origin, pipe: Any, modules: Mapping[str, nn.Module]) -> None:
    """Raise `PolicyMismatchError` if this is another kind of pipeline, with denoisers of other names or classes."""
    expected = {name: denoiser.model_class for name, denoiser in origin.denoisers.items()}
    actual = {name: type(model_of(module)).__name__ for name, module in modules.items()}
    if expected != actual:
        was, now = (", ".join(f"{name} {kinds[name]}" for name in sorted(kinds)) for kinds in (expected, actual))
        here = own_class(pipe).__name__
        raise other_model(
            policy,
            f"it was calibrated on {origin.pipeline_class} ({was}), and this is {here} ({now})",
            given=here,
            difference=Difference("pipeline", f"{origin.pipeline_class} ({was})", f"{here} ({now})"),
        )


def _check_denoiser(
    policy: Policy, name: str, expected: Denoiser, actual: Denoiser, model: nn.Module, call: CallSetting
) -> list[str]:
    """Raise `PolicyMismatchError` if a denoiser is another one; return notes on what could not be compared."""
    differs = configuration_difference(expected.config, actual.config, type(model))
    if differs:
        entry, was, now = differs
        what = f"in the configuration of {name}, {entry} was {was!r} when it was calibrated, and is {now!r} now"
        difference = Difference(f"configuration of {name}, {entry}", repr(was), repr(now))
        raise other_model(policy, what, given=f"pipe.{name}", difference=difference)
    adapted = _check_adapters(policy, name, expected, actual, call)
    other, doubt = parameter_samples.difference(expected.weights, actual.weights, model)
    if other:
        raise other_weights(
            policy,
            f"the weights of {name} are not those that it was calibrated on; this is another checkpoint, or a LoRA was "
            "fused or unfused since",
            given=f"pipe.{name}",
            cure="Load those weights (pipe.unfuse_lora() undoes pipe.fuse_lora())",
            call=call,
        )
    if expected.adapters and not adapted:
        others, _ = parameter_samples.difference(expected.adapter_weights, actual.adapter_weights)
        if others:
            raise other_weights(
                policy,
                f"the adapters (LoRA) of {name} have the same names as in calibration, but other weights",
                given=", ".join(actual.adapters),
                cure="Load the original ones",
                call=call,
            )
    if not doubt:
        return adapted
    return [
        *adapted,
        f"the weights of {name} could not be fully compared: {doubt}. Make sure that this is the same checkpoint",
    ]


def _check_adapters(policy: Policy, name: str, expected: Denoiser, actual: Denoiser, call: CallSetting) -> list[str]:
    """Raise `PolicyMismatchError` on other adapters, or return a note if the policy follows any."""
    calibrated = [adapter for adapter in expected.adapters if adapter != ANY_ADAPTERS]
    if len(calibrated) < len(expected.adapters):
        return [
            f"the adapters (LoRA) of {name} were {calibrated} when the policy was calibrated, and are "
            f"{list(actual.adapters)} now; they are not compared, since the policy was transferred to any. "
            f"{ADAPTERS_COST}"
        ]
    if list(expected.adapters) != list(actual.adapters):
        found = policy, f"adapters of {name}", repr(calibrated), repr(list(actual.adapters))
        reason = "nobody knows how large they are. To force it, call ertacache.transferred(policy, adapters='any')"
        raise mismatch(*found, reason=reason, call=call)
    return []


ADAPTERS_COST = (
    "On small pipelines with a trained LoRA that lost 0.8 dB at most in the mean (docs/how-to/lora.md); what it loses "
    "with yours was not measured."
)
"""What to know of calls with other adapters."""


def check_guidance(policy: Policy, call: CallSetting, reasons: Mapping[str, str]) -> None:
    """Raise `PolicyMismatchError` if a call's guidance is not the calibrated one and the policy depends on it.

    Args:
        policy: the policy.
        call: the setting of the call.
        reasons: why the policy is not transferred to other values of an argument, by its name, for the message.
    """
    if policy.origin is None or not policy.method.depends_on_calibration:
        return
    for name in sorted({*policy.origin.guidance, *call.guidance}):
        expected, now = policy.origin.guidance.get(name), call.guidance.get(name)
        if not equal_json(expected, now):
            found = policy, name, repr(expected), repr(now)
            raise mismatch(*found, reason=reasons.get(name, ""), guidance={name: now}, call=call)


def check_calls_per_step(policy: Policy, calls: int, call: CallSetting | None = None) -> None:
    """Raise `PolicyMismatchError` if a step makes more or fewer denoiser calls than in calibration.

    Args:
        policy: the policy.
        calls: the number of denoiser calls of a step.
        call: the setting of the call, if known.
    """
    if policy.origin and policy.method.depends_on_calibration:
        _agree(policy, "denoiser calls per step (guidance on or off)", policy.origin.calls_per_step, calls, call)


def grid_difference(
    policy: Policy, levels: Sequence[float], cause: str = "the scheduler's shift, or sigmas of your own"
) -> tuple[str, str, str] | None:
    """Compare a grid with the calibrated one: the number of steps, and the noise levels if the policy depends on them.

    Args:
        policy: the policy.
        levels: the T + 1 noise levels of the grid.
        cause: the possible causes of different levels, for the message.

    Returns:
        The name of what differs, its calibrated value and its value now, or None if nothing differs.
    """
    if policy.num_inference_steps != len(levels) - 1:
        asked = policy.asked_steps == policy.num_inference_steps
        field = "num_inference_steps" if asked else "the number of steps that the scheduler makes"
        return field, str(policy.num_inference_steps), str(len(levels) - 1)
    if policy.origin is None or not policy.method.depends_on_calibration:
        return None
    expected = policy.origin.noise_levels
    far = [i for i, (a, b) in enumerate(zip(expected, levels, strict=True)) if abs(a - b) > 1e-4 * max(abs(a), 1e-3)]
    if not far:
        return None
    field = f"noise levels ({cause}), first at step {far[0]}"
    return field, f"{expected[far[0]]:.5g}", f"{levels[far[0]]:.5g}"


def check_latent_shape(policy: Policy, shape: Sequence[int], call: CallSetting | None = None) -> None:
    """Raise `PolicyMismatchError` if the policy has an error model per element or channel for another latent shape.

    Args:
        policy: the policy.
        shape: of one sample, without the batch axis.
        call: the setting of the call, if known.
    """
    model = policy.rectification
    if model is not None:
        expected, actual = list(model.k.shape[1:]), list(model.part_of(shape))
        _agree(policy, f"latent shape (error model per {model.granularity})", expected, actual, call)


def check_output_shape(latent: Sequence[int], output: Sequence[int]) -> None:
    """Raise `PipelineError` if level ``output`` cannot be used, since latent and model output differ in shape.

    Args:
        latent: the shape of the latent, with the batch axis.
        output: the shape of the model output that the scheduler is given.
    """
    if tuple(latent) != tuple(output):
        raise PipelineError(
            "level 'output' caches model output minus latent, but here the two differ in shape",
            given=f"latents {tuple(latent)}, model output {tuple(output)}",
            cure="Calibrate with a method of level 'velocity', such as 'aligned' or 'taylor'.",
        )


def check_stream(
    policy: Policy,
    origin: Origin,
    number: int,
    levels: Sequence[float],
    shape: Sequence[int],
    call: CallSetting | None = None,
) -> None:
    """Raise `PolicyMismatchError` if the policy was made without a further latent of the loop, or for other levels.

    Args:
        policy: the policy.
        origin: what it was calibrated on.
        number: which of the latents it is, 1 or more.
        levels: the noise levels of its grid.
        shape: of one sample, without the batch axis.
        call: the setting of the call, if known.
    """
    check_streams(policy, origin, max(number + 1, len(origin.streams) + 1), call)
    if not policy.method.depends_on_calibration:
        return
    expected = origin.streams[number - 1].noise_levels
    far = len(expected) != len(levels) or any(
        abs(a - b) > 1e-4 * max(abs(a), 1e-3) for a, b in zip(expected, levels, strict=True)
    )
    if far:
        shown = [", ".join(f"{level:.4g}" for level in values[:3]) + " ..." for values in (expected, levels)]
        raise mismatch(policy, f"noise levels of latent {number}, of shape {tuple(shape)},", *shown, call=call)


def check_streams(policy: Policy, origin: Origin, seen: int, call: CallSetting | None = None) -> None:
    """Raise `PolicyMismatchError` if the loop steps more or fewer latents than in calibration (with and without sound).

    Args:
        policy: the policy.
        origin: what it was calibrated on.
        seen: how many latents the loop steps.
        call: the setting of the call, if known.
    """
    _agree(policy, "number of latents that the loop steps (with or without sound)", len(origin.streams) + 1, seen, call)


def _agree(policy: Policy, field: str, expected: object, actual: object, call: CallSetting | None) -> None:
    if expected != actual:
        raise mismatch(policy, field, repr(expected), repr(actual), call=call)
