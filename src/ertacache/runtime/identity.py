"""What a policy was made for, read off a pipeline, and the check that another pipeline or call agrees with it."""

from __future__ import annotations

import hashlib
import inspect
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import floor
from numbers import Real
from typing import Any
from uuid import uuid4

import diffusers
import numpy as np
import torch
from torch import Tensor, nn

from ertacache._version import __version__
from ertacache.errors import PolicyMismatchError
from ertacache.policy import Denoiser, Origin, Policy
from ertacache.runtime import fingerprint
from ertacache.runtime.run import loop_modules
from ertacache.runtime.samplers import parts_of
from ertacache.runtime.seams import model_of, own_class
from ertacache.runtime.settings import (
    alike,
    configuration_difference,
    configuration_of,
    refuse_other_caches,
    setting_difference,
    settings_of,
)

_STRENGTH = re.compile("guidance|guiding|cfg|scale|(?:^|_)eta$|guess_mode|sag_|stg_|sld_")
"""In the names of a call's arguments: how strongly to guide, condition, adapt, or renoise."""
_DECODER = re.compile("^decode")
_CONTAINERS = re.compile("(?:attention|cross_attention|joint_attention)_kwargs$")
"""Arguments that hold further ones for the denoiser; an adapter's ``scale`` is given there."""
_SIZES = ("height", "width", "num_frames", "frames", "video_length", "audio_length_in_s", "duration")
_ADVISED = ("guidance_scale", "guidance_scale_2", "true_cfg_scale", "guidance_rescale", "use_dynamic_cfg")
"""Guidance that a cure always names; of the rest only what differs."""


def identify(module: nn.Module, *, values: bool = False) -> Denoiser:
    """Class, configuration, sampled weights and active adapters of a model, compiled or not.

    Args:
        module: the model.
        values: also what quantised weights stand for, so that they can be compared with plain ones.
    """
    model = model_of(module)
    active = _active_scales(model)
    weights = fingerprint.weights_of(model)
    return Denoiser(
        type(model).__name__,
        configuration_of(model),
        fingerprint.with_values(weights, model) if values else weights,
        _adapters(active),
        fingerprint.adapters_of(model, active),
    )


@dataclass(frozen=True)
class Circumstances:
    """All that the calls of a pipeline depend on but their prompts, seeds and steps.

    Args:
        denoisers: what identifies each module that runs in the loop, by attribute name.
        settings: see `ertacache.runtime.settings`.
        guidance: see `guidance_of`.
        sizes: see `sizes_of`.
    """

    denoisers: Mapping[str, Denoiser]
    settings: Mapping[str, Any]
    guidance: Mapping[str, float]
    sizes: Mapping[str, int]

    @property
    def doubts(self) -> list[str]:
        """Which weights could not be read, as notes for the policy."""
        return [
            f"the weights of {name} could not all be read, so another checkpoint may not be noticed: {doubt}"
            for name, denoiser in self.denoisers.items()
            if (doubt := fingerprint.unread(denoiser.weights))
        ]


def circumstances_of(pipe: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Circumstances:
    """The circumstances of a call, before it is made.

    Raises:
        PipelineError: if another cache is on, or there is no denoiser.
    """
    modules = loop_modules(pipe)
    refuse_other_caches(pipe, modules)
    return Circumstances(
        {name: identify(module, values=True) for name, module in modules.items()},
        settings_of(pipe, modules),
        guidance_of(pipe, args, kwargs),
        sizes_of(pipe, args, kwargs),
    )


def versions() -> dict[str, str]:
    """Those of what computes and measures."""
    return {"torch": torch.__version__, "diffusers": diffusers.__version__, "ertacache": __version__}


def environment_of(pipe: Any) -> dict[str, Any]:
    """Where and how a pipeline computes: what its numbers and its timings depend on besides itself."""
    casts, devices = set(), [torch.device(getattr(pipe, "_execution_device", None) or "cpu")]
    for part in vars(pipe).values():
        if isinstance(part, nn.Module):
            for child in part.modules():
                hook: Any = vars(child).get("_hf_hook")
                if getattr(hook, "execution_device", None) is not None:  # offloaded: the pipeline may not know it
                    devices.append(torch.device(hook.execution_device))
                cast = getattr(vars(child).get("_diffusers_hook"), "hooks", {}).get("layerwise_casting")
                casts |= {str(cast.compute_dtype)} if cast is not None else set()
    device = next((device for device in devices if device.type != "meta"), torch.device("cpu"))
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    autocast = torch.is_autocast_enabled(device.type) and str(torch.get_autocast_dtype(device.type))
    return {
        **versions(),
        "device": f"{device.type}, {name}",
        "casts to": sorted(casts),
        "autocast": autocast,
        "default dtype": str(torch.get_default_dtype()),
        "threads": torch.get_num_threads(),
        "float32 products": torch.get_float32_matmul_precision(),
    }


def pipeline_key(pipe: Any, circumstances: Circumstances) -> str:
    """A name for all that a pipeline's outputs depend on besides the calls' arguments; new each time if unsure."""
    modules = {name: part for name, part in getattr(pipe, "components", {}).items() if isinstance(part, nn.Module)}
    others = {name: identify(module) for name, module in modules.items() if name not in circumstances.denoisers}
    parts: list[Any] = [own_class(pipe).__name__, own_class(pipe.scheduler).__name__, environment_of(pipe)]
    parts += [[configuration_of(part) for part in parts_of(pipe.scheduler)], sorted(others.items()), circumstances]
    unsure = [d for d in (*others.values(), *circumstances.denoisers.values()) if fingerprint.unread(d.weights)]
    return digest_of([*parts, uuid4().hex if unsure else ""])


def digest_of(parts: Sequence[Any]) -> str:
    """16 hexadecimal digits of what the parts look like."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(repr(part).encode())
    return digest.hexdigest()[:16]


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


def guidance_of(pipe: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a call that say how strongly to guide, by name, defaults included.

    They are told by their names: all that speak of guidance, cfg or scales, in the signature of the pipeline's call or
    among the arguments for its attention. Lists are numbered: ``controlnet_conditioning_scale.0``. Wan 2.2 takes
    ``guidance_scale`` for its second expert where ``guidance_scale_2`` is not given.
    """
    signature = inspect.signature(own_class(pipe).__call__)
    bound = signature.bind_partial(pipe, *args, **kwargs)
    bound.apply_defaults()
    given = dict(bound.arguments)
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            given |= given.pop(name, {})
    if "guidance_scale_2" in given and given["guidance_scale_2"] is None:
        given["guidance_scale_2"] = given.get("guidance_scale")
    found: dict[str, float] = {}
    for name, value in given.items():
        if is_strength(name):
            found |= _numbers(name, value)
        elif _CONTAINERS.search(name) and isinstance(value, Mapping):
            for inner, part in value.items():
                numbers = _numbers(f"{name}.{inner}", part)
                found |= numbers if numbers != {f"{name}.scale": 1.0} else {}  # an adapter's, as if not given
    return found


def is_strength(name: str) -> bool:
    """Whether an argument of a call says how strongly to guide, by its name."""
    return bool(_STRENGTH.search(name)) and not _DECODER.search(name)


def _numbers(name: str, value: Any) -> dict[str, float]:
    """The numbers in an argument's value; a few, since a large tensor or array is no scale."""
    if isinstance(value, (Tensor, np.ndarray, np.generic)):
        value = value.tolist() if np.prod(value.shape) <= _FEW else None
    if isinstance(value, Real):
        return {name: float(value)}
    if isinstance(value, (list, tuple)) and len(value) <= _FEW:
        return {key: v for k, part in enumerate(value) for key, v in _numbers(f"{name}.{k}", part).items()}
    return {}


_FEW = 64


def sizes_of(pipe: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, int]:
    """The arguments of a call that say how large its outputs are, where they are given or have a default."""
    bound = inspect.signature(own_class(pipe).__call__).bind_partial(pipe, *args, **kwargs)
    bound.apply_defaults()
    values = {name: bound.arguments.get(name) for name in _SIZES}
    return {n: int(v) for n, v in values.items() if isinstance(v, (int, float, np.number)) and v == int(v)}


@dataclass(frozen=True)
class Given:
    """What a call was given, for refusals: they name a size that differs, and advise no argument that it does not take.

    Args:
        takes: the names of the arguments that calls of the pipeline take; None if they take any.
        sizes: see `sizes_of`; None where no call is made yet.
    """

    takes: frozenset[str] | None
    sizes: Mapping[str, int] | None = None

    @classmethod
    def nothing(cls, pipe: Any) -> Given:
        """Before a call of the pipeline."""
        parameters = inspect.signature(own_class(pipe).__call__).parameters
        takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        return cls(None if takes_any else frozenset(parameters))

    @classmethod
    def to(cls, pipe: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Given:
        """What this call of the pipeline is given."""
        return replace(cls.nothing(pipe), sizes=sizes_of(pipe, args, kwargs))

    def resized(self, policy: Policy) -> tuple[str, str] | None:
        """The arguments about size that calibration's calls had and this one has, where they are not alike."""
        if policy.origin is None or self.sizes is None:
            return None
        both = policy.origin.sizes, self.sizes
        names = [name for name in _SIZES if both[0].get(name) != both[1].get(name)]
        told = (", ".join(f"{name}={sizes[name]}" for name in names if name in sizes) for sizes in both)
        before, now = (text or f"the pipeline's own {' and '.join(names)}" for text in told)
        return (before, now) if names else None


def cause_of_levels(policy: Policy, scheduler: Any, given: Given | None) -> str:
    """What noise levels may differ by, the likeliest first."""
    resized = given and given.resized(policy)
    size = f"the size, which was {resized[0]} and is {resized[1]}" if resized else ""
    by_size = any(scheduler.config.get(name) for name in ("use_dynamic_shifting", "use_timestep_transform"))
    if size and by_size:
        return f"{size}, or else the scheduler's shift or sigmas of your own"
    if size:
        return f"the scheduler's shift, sigmas of your own, or {size}"
    return f"the scheduler's shift{', which follows the size,' if by_size else ','} or sigmas of your own"


def check_policy(policy: Any) -> None:
    """Raise `PolicyMismatchError` if it is no policy."""
    if not isinstance(policy, Policy):
        raise PolicyMismatchError(
            "this is not a policy", given=type(policy).__name__, cure="Pass what calibrate() or Policy.load() returned."
        )


def check_pipeline(policy: Policy, pipe: Any) -> list[str]:
    """Compare the pipeline with the one that the policy was made for.

    Returns:
        What could not be compared, and what was compared roughly, as notes for the call's report.

    Raises:
        PipelineError: if another cache is on.
        PolicyMismatchError: unless the pipeline is the one that the policy was made for.
    """
    modules = loop_modules(pipe)
    refuse_other_caches(pipe, modules)
    origin = policy.origin
    if origin is None:
        return []
    _check_kind(policy, origin, pipe, modules)
    given = Given.nothing(pipe)
    _agree(policy, "scheduler class", origin.scheduler_class, own_class(pipe.scheduler).__name__, given)
    doubts = []
    for name, expected in origin.denoisers.items():
        doubts += _check_denoiser(policy, name, expected, identify(modules[name]), model_of(modules[name]), given)
    if policy.method.depends_on_calibration:
        differs = setting_difference(origin.settings, settings_of(pipe, modules), pipe)
        if differs:
            raise mismatch(policy, differs[0], repr(differs[1]), repr(differs[2]), given=given)
    return doubts


def _check_kind(policy: Policy, origin: Origin, pipe: Any, modules: Mapping[str, nn.Module]) -> None:
    """Raise `PolicyMismatchError` if this is another kind of pipeline: its denoisers have other names or classes."""
    expected = {name: denoiser.model_class for name, denoiser in origin.denoisers.items()}
    actual = {name: type(model_of(module)).__name__ for name, module in modules.items()}
    if expected != actual:
        was, now = (", ".join(f"{name} {kinds[name]}" for name in sorted(kinds)) for kinds in (expected, actual))
        raise PolicyMismatchError(
            f"the policy is for another pipeline: it was calibrated on {origin.pipeline_class} ({was}), and this is "
            f"{own_class(pipe).__name__} ({now})",
            given=own_class(pipe).__name__,
            cure="Use it there, or calibrate a policy for this pipeline: "
            f"{_commands(policy.num_inference_steps, policy.step_ratio, {})}",
        )


def _check_denoiser(
    policy: Policy, name: str, expected: Denoiser, actual: Denoiser, model: nn.Module, given: Given
) -> list[str]:
    differs = configuration_difference(expected.config, actual.config, type(model))
    if differs:
        entry, was, now = differs
        raise mismatch(policy, f"configuration of {name}, {entry}", repr(was), repr(now), given=given)
    _agree(policy, f"adapters of {name}", list(expected.adapters), list(actual.adapters), given)
    other, doubt = fingerprint.difference(expected.weights, actual.weights, model)
    if other:
        raise mismatch(
            policy,
            f"weights of {name}",
            "those of another checkpoint, or of one before a LoRA was fused",
            "this pipeline's",
            given=given,
        )
    if expected.adapters:
        others, _ = fingerprint.difference(expected.adapter_weights, actual.adapter_weights)
        if others:
            field = f"weights of the adapters of {name}"
            raise mismatch(policy, field, "those of others of these names", "these", given=given)
    return [f"the weights of {name} are not known to be the same: {doubt}"] if doubt else []


def check_guidance(policy: Policy, guidance: Mapping[str, float], given: Given | None = None) -> None:
    """Raise `PolicyMismatchError` where a call's guidance is not the calibrated one, and that matters."""
    if policy.origin is None or not policy.method.depends_on_calibration:
        return
    for name in sorted({*policy.origin.guidance, *guidance}):
        expected, now = policy.origin.guidance.get(name), guidance.get(name)
        if not alike(expected, now):
            reason = "calls do that for slightly weaker guidance only; on demand, and at a loss, transferred() does"
            raise mismatch(policy, name, repr(expected), repr(now), reason=reason, guidance={name: now}, given=given)


def check_calls_per_step(policy: Policy, calls: int, given: Given | None = None) -> None:
    """Raise `PolicyMismatchError` where a step makes more or fewer denoiser calls than in calibration."""
    if policy.origin and policy.method.depends_on_calibration:
        _agree(policy, "denoiser calls per step (guidance on or off)", policy.origin.calls_per_step, calls, given)


def grid_difference(
    policy: Policy, levels: Sequence[float], cause: str = "the scheduler's shift, or sigmas of your own"
) -> tuple[str, str, str] | None:
    """Where a grid is not the calibrated one: the field, what it was, what it is; its values count if fitted.

    Args:
        policy: the policy.
        levels: the T + 1 noise levels of the grid.
        cause: what levels may differ by.
    """
    if policy.num_inference_steps != len(levels) - 1:
        return "num_inference_steps", str(policy.num_inference_steps), str(len(levels) - 1)
    if policy.origin is None or not policy.method.depends_on_calibration:
        return None
    expected = policy.origin.noise_levels
    far = [i for i, (a, b) in enumerate(zip(expected, levels, strict=True)) if abs(a - b) > 1e-4 * max(abs(a), 1e-3)]
    if not far:
        return None
    field = f"noise levels ({cause}), first at step {far[0]}"
    return field, f"{expected[far[0]]:.5g}", f"{levels[far[0]]:.5g}"


def check_latent_shape(policy: Policy, shape: Sequence[int], given: Given | None = None) -> None:
    """Raise `PolicyMismatchError` where an error model per element, or per channel, meets another latent shape."""
    model = policy.rectification
    if model is not None:
        expected, actual = list(model.k.shape[1:]), list(model.part_of(shape))
        _agree(policy, f"latent shape (error model per {model.granularity})", expected, actual, given)


def _agree(policy: Policy, field: str, expected: object, actual: object, given: Given | None) -> None:
    if expected != actual:
        raise mismatch(policy, field, repr(expected), repr(actual), given=given)


def mismatch(
    policy: Policy,
    field: str,
    expected: str,
    actual: str,
    *,
    reason: str = "",
    steps: int | None = None,
    guidance: Mapping[str, float | None] | None = None,
    given: Given | None = None,
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
        given: what the call was given, if it is known.
    """
    calibrated = policy.origin.guidance if policy.origin else {}
    known = {name: value for name, value in calibrated.items() if name in _ADVISED} | dict(guidance or {})
    settings = {name: f"{value:g}" for name, value in sorted(known.items()) if value is not None}
    if given and given.takes is not None:
        settings = {name: value for name, value in settings.items() if name in given.takes}
    resized = given and given.resized(policy)
    if given and resized:
        settings |= {name: str(value) for name, value in (given.sizes or {}).items()}
    setting = f"the calibrated setting ({resized[0]})" if resized else "the calibrated setting"
    return PolicyMismatchError(
        f"the policy does not fit: {field} was {expected} when it was calibrated, and is {actual} now"
        + (f"; it cannot be transferred: {reason}" if reason else ""),
        given=actual,
        cure=f"Use {setting}, or calibrate a policy for this one: "
        + _commands(steps or policy.num_inference_steps, policy.step_ratio, settings),
    )


def _commands(steps: int, step_ratio: float, settings: Mapping[str, str]) -> str:
    """How to calibrate a policy, as a Python call and as a line for the shell."""
    speedup = f"{floor(100 * step_ratio) / 100:g}"  # rounded down: it asks for at least so much
    call = "".join(f", {name}={value}" for name, value in settings.items())
    shell = "".join(f" --set {name}={value}" for name, value in settings.items())
    return (
        f"ertacache.calibrate(pipe, prompts, num_inference_steps={steps}, speedup={speedup}{call}), or "
        f"ertacache calibrate MODEL --prompts FILE --steps {steps} --speedup {speedup}{shell}"
    )


def origin_of(
    pipe: Any,
    circumstances: Circumstances,
    *,
    noise_levels: Sequence[float],
    calls_per_step: int,
    latent_shape: Sequence[int],
    changes: Sequence[int] = (),
) -> Origin:
    """The origin of a policy that is calibrated on this pipeline in these circumstances; see `Origin`."""
    return Origin(
        pipeline_class=own_class(pipe).__name__,
        denoisers=dict(circumstances.denoisers),
        scheduler_class=own_class(pipe.scheduler).__name__,
        noise_levels=tuple(noise_levels),
        guidance=dict(circumstances.guidance),
        calls_per_step=calls_per_step,
        latent_shape=tuple(latent_shape),
        settings=dict(circumstances.settings),
        sizes=dict(circumstances.sizes),
        versions=versions(),
        changes=tuple(changes),
    )
