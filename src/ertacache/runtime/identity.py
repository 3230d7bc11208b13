"""What a policy was made for, read off a pipeline, and the check that another pipeline or call agrees with it."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping, Sequence
from math import floor
from typing import Any

import torch
from torch import Tensor, nn

from ertacache.errors import PolicyMismatchError
from ertacache.offloading import at_hand
from ertacache.policy import Denoiser, Origin, Policy
from ertacache.runtime.run import denoisers_of
from ertacache.runtime.seams import model_of, own_class

GUIDANCE_ARGUMENTS = ("guidance_scale", "guidance_scale_2", "true_cfg_scale", "guidance_rescale", "use_dynamic_cfg")
_PROBED_PARAMETERS = 8
_PROBED_ELEMENTS = 4


def identify(module: nn.Module) -> Denoiser:
    """Class, configuration, a few weights and active adapters of a denoiser or text encoder, compiled or not."""
    model = model_of(module)
    config = getattr(model, "config", {})
    config = config.to_dict() if hasattr(config, "to_dict") else dict(config)  # of transformers, or of diffusers
    config = {key: value for key, value in config.items() if not key.startswith("_")}
    text = json.dumps(config, sort_keys=True, default=str)
    active = _active_scales(model)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return Denoiser(type(model).__name__, digest, _probe(model, active), _adapters(active))


def _active_scales(model: nn.Module) -> dict[str, set[float]]:
    """The adapters that take part, and with which scales; ``peft_config`` would list all that are loaded."""
    scales: dict[str, set[float]] = {}
    for layer in model.modules():
        if not hasattr(type(layer), "active_adapters"):  # asking the layer itself takes ten times as long
            continue
        names, scaling = getattr(layer, "active_adapters", None), getattr(layer, "scaling", None)
        if isinstance(scaling, Mapping) and not isinstance(names, (str, type(None))) and not callable(names):
            for name in () if getattr(layer, "disable_adapters", False) else names:
                if name in scaling:
                    scales.setdefault(name, set()).add(float(scaling[name]))
    return {name: found for name, found in scales.items() if found != {0.0}}


def _adapters(scales: Mapping[str, set[float]]) -> tuple[str, ...]:
    return tuple(f"{name} x {', '.join(f'{s:g}' for s in sorted(scales[name]))}" for name in sorted(scales))


def _probe(model: nn.Module, active: Mapping[str, set[float]]) -> tuple[float, ...]:
    """A few elements of a few weight matrices, of active adapters too; empty where they cannot be read or compared."""
    own: list[tuple[str, str]] = []  # what to sort by, and the parameter's name
    adapted: list[tuple[str, str]] = []
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2 or not parameter.is_floating_point():
            continue
        parts = name.split(".")
        if not any(part.startswith("lora_") for part in parts):
            own.append((name.replace(".base_layer", ""), name))
        elif active.keys() & set(parts):
            adapted.append((name, name))
    values: list[torch.Tensor] = []
    for rows in (sorted(own), sorted(adapted)):
        for _, name in rows[:: max(1, len(rows) // _PROBED_PARAMETERS)][:_PROBED_PARAMETERS]:
            matrix = at_hand(model, name)
            shared = hasattr(matrix, "device_mesh")  # a DTensor; ranks would have to talk to read it
            if shared or matrix.is_meta or matrix.dtype.itemsize == 1:  # or away, or rounded too coarsely
                return ()
            flat = matrix.detach().flatten()
            last, gaps = flat.numel() - 1, _PROBED_ELEMENTS - 1  # whole numbers: float32 ends at 2^24
            values.append(torch.stack([flat[k * last // gaps] for k in range(gaps + 1)]).float())
    if len({value.device for value in values}) > 1:
        values = [value.cpu() for value in values]
    return tuple(torch.cat(values).tolist()) if values else ()  # one wait for a device, not one a matrix


def _weights_agree(a: Sequence[float], b: Sequence[float]) -> bool:
    if not a or not b:
        return True  # unknown on one side
    if len(a) != len(b):
        return False
    scale = max(map(abs, a))
    # bfloat16 rounds by up to 0.4 %.
    return all(abs(p - q) <= 0.008 * abs(p) + 1e-3 * scale for p, q in zip(a, b, strict=True))


def guidance_of(pipe: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, float]:
    """The guidance arguments that a call with these arguments has, defaults included.

    Wan 2.2 takes ``guidance_scale`` for its second expert where ``guidance_scale_2`` is not given.
    """
    signature = inspect.signature(own_class(pipe).__call__)
    bound = signature.bind_partial(pipe, *args, **kwargs)
    bound.apply_defaults()
    values = {name: bound.arguments.get(name) for name in GUIDANCE_ARGUMENTS}
    if "guidance_scale_2" in bound.arguments and values["guidance_scale_2"] is None:
        values["guidance_scale_2"] = values["guidance_scale"]
    return {name: float(value) for name, value in values.items() if isinstance(value, (int, float, Tensor))}


def check_policy(policy: Any) -> None:
    """Raise `PolicyMismatchError` if it is no policy."""
    if not isinstance(policy, Policy):
        raise PolicyMismatchError(
            "this is not a policy", given=type(policy).__name__, cure="Pass what calibrate() or Policy.load() returned."
        )


def check_pipeline(policy: Policy, pipe: Any) -> None:
    """Raise `PolicyMismatchError` unless the pipeline is the one that the policy was made for."""
    origin = policy.origin
    if origin is None:
        return
    _agree(policy, "scheduler class", origin.scheduler_class, own_class(pipe.scheduler).__name__)
    modules = denoisers_of(pipe)
    _agree(policy, "denoisers", sorted(origin.denoisers), sorted(modules))
    for name, expected in origin.denoisers.items():
        actual = identify(modules[name])
        _agree(policy, f"class of {name}", expected.model_class, actual.model_class)
        _agree(policy, f"adapters of {name}", list(expected.adapters), list(actual.adapters))
        _agree(policy, f"configuration of {name}", expected.config_hash, actual.config_hash)
        if not _weights_agree(expected.weights, actual.weights):
            raise mismatch(policy, f"weights of {name}", "those of another checkpoint", "this pipeline's")


def check_guidance(policy: Policy, guidance: Mapping[str, float]) -> None:
    """Raise `PolicyMismatchError` where a call's guidance is not the calibrated one, and that matters."""
    if policy.origin is None or not policy.method.depends_on_calibration:
        return
    for name in sorted({*policy.origin.guidance, *guidance}):
        expected, now = policy.origin.guidance.get(name), guidance.get(name)
        if expected != now:
            reason = "calls do that for slightly weaker guidance only; on demand, and at a loss, transferred() does"
            raise mismatch(policy, name, repr(expected), repr(now), reason=reason, guidance={name: now})


def check_calls_per_step(policy: Policy, calls: int) -> None:
    """Raise `PolicyMismatchError` where a step makes more or fewer denoiser calls than in calibration."""
    if policy.origin and policy.method.depends_on_calibration:
        _agree(policy, "denoiser calls per step (guidance on or off)", policy.origin.calls_per_step, calls)


def grid_difference(policy: Policy, levels: Sequence[float]) -> tuple[str, str, str] | None:
    """Where a grid is not the calibrated one: the field, what it was, what it is; its values count if fitted."""
    if policy.num_inference_steps != len(levels) - 1:
        return "num_inference_steps", str(policy.num_inference_steps), str(len(levels) - 1)
    if policy.origin is None or not policy.method.depends_on_calibration:
        return None
    expected = policy.origin.noise_levels
    far = [i for i, (a, b) in enumerate(zip(expected, levels, strict=True)) if abs(a - b) > 1e-4 * max(abs(a), 1e-3)]
    if not far:
        return None
    field = f"noise levels (the scheduler's shift, or sigmas of your own), first at step {far[0]}"
    return field, f"{expected[far[0]]:.5g}", f"{levels[far[0]]:.5g}"


def check_latent_shape(policy: Policy, shape: Sequence[int]) -> None:
    """Raise `PolicyMismatchError` where an error model per element, or per channel, meets another latent shape."""
    model = policy.rectification
    if policy.origin is None or model is None or model.granularity == "step":
        return
    expected, actual = list(policy.origin.latent_shape), list(shape)
    if model.granularity == "channel":
        expected, actual = [expected[model.axis - 1]], [actual[model.axis - 1]]
    _agree(policy, f"latent shape (error model per {model.granularity})", expected, actual)


def _agree(policy: Policy, field: str, expected: object, actual: object) -> None:
    if expected != actual:
        raise mismatch(policy, field, repr(expected), repr(actual))


def mismatch(
    policy: Policy,
    field: str,
    expected: str,
    actual: str,
    *,
    reason: str = "",
    steps: int | None = None,
    guidance: Mapping[str, float | None] | None = None,
) -> PolicyMismatchError:
    """The refusal of a policy, and the commands that make one for the setting at hand.

    Args:
        policy: the policy.
        field: what differs.
        expected: what it was.
        actual: what it is.
        reason: why the policy cannot be transferred, where it sometimes can.
        steps: T of the call, if that differs.
        guidance: those of the call's guidance arguments that differ.
    """
    known = {**(policy.origin.guidance if policy.origin else {}), **(guidance or {})}
    settings = {name: f"{value:g}" for name, value in sorted(known.items()) if value is not None}
    steps = steps or policy.num_inference_steps
    speedup = f"{floor(100 * policy.step_ratio) / 100:g}"  # rounded down: it asks for at least so much
    call = "".join(f", {name}={value}" for name, value in settings.items())
    shell = "".join(f" --set {name}={value}" for name, value in settings.items())
    return PolicyMismatchError(
        f"the policy does not fit: {field} was {expected} when it was calibrated, and is {actual} now"
        + (f"; it cannot be transferred: {reason}" if reason else ""),
        given=actual,
        cure="Use the calibrated setting, or calibrate a policy for this one: "
        f"ertacache.calibrate(pipe, prompts, num_inference_steps={steps}, speedup={speedup}{call}), or "
        f"ertacache calibrate MODEL --prompts FILE --steps {steps} --speedup {speedup}{shell}",
    )


def origin_of(
    pipe: Any,
    *,
    noise_levels: Sequence[float],
    guidance: Mapping[str, float],
    calls_per_step: int,
    latent_shape: Sequence[int],
) -> Origin:
    """The origin of a policy that is calibrated on this pipeline in these settings."""
    return Origin(
        pipeline_class=own_class(pipe).__name__,
        denoisers={name: identify(module) for name, module in denoisers_of(pipe).items()},
        scheduler_class=own_class(pipe.scheduler).__name__,
        noise_levels=tuple(noise_levels),
        guidance=dict(guidance),
        calls_per_step=calls_per_step,
        latent_shape=tuple(latent_shape),
    )
