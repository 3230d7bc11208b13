"""Changes after calibration, one at a time: each must be refused, noted, or leave the picture right.

A policy is calibrated on a pipeline. Then another pipeline of the same build gets one change: another guidance
strength, another setting, an adapter, another cache, a callback that changes something, other weights of one kind of
parameter. Each change has one outcome: *refused*; *noted* in the call's report; or *right*, as close to the changed
pipeline's own picture as the policy is to the unchanged one's. Anything else is silent, and a fault.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import diffusers
import numpy as np
import torch
from torch import Tensor, nn

import ertacache
from contract.case import STEPS, Case, Family, tensor_of
from ertacache.errors import ERTACacheError
from ertacache.policy import Policy
from ertacache.runtime.call_setting import guidance_of, is_strength, sizes_of
from ertacache.runtime.denoisers import loop_modules
from ertacache.runtime.pipeline_settings import is_configured
from ertacache.runtime.unwrap import own_class

TOLERANCE = 1.5
"""How many times farther from the full run a picture may be than without the change, and still count as right."""
EQUAL = ("numpy scalars", "fused projections", "sliced attention", "channels last", "a deep copy")
"""Changes that do not alter the output: refusing one of them is a fault too."""

Arguments = dict[str, Any]


@dataclass(frozen=True)
class Change:
    """One thing that is changed.

    Args:
        name: of it.
        apply: does it to a pipeline, if it is one.
        arguments: makes the changed arguments of a call of the old ones, if it is a change of those.
    """

    name: str
    apply: Callable[[Any], Any] = lambda pipe: None
    arguments: Callable[[Arguments], Arguments] = lambda call: call


def around(case: Case, policy: Policy) -> dict[str, str]:
    """The outcome of each change that the pipeline itself accepts and that alters its output.

    Args:
        case: the pipeline and its calls.
        policy: calibrated on seeds 1 and 2 of it, by aligned prediction on evenly spaced steps.

    Raises:
        AssertionError: if one was silent, or one was refused that changes nothing.
    """
    found: dict[str, str] = {}
    usual = usual_error(case, policy)
    unchanged = Family(case).run(1)
    for change in changes_of(case):
        outcome = _outcome(case, policy, usual, change, unchanged)
        if outcome:
            found[change.name] = outcome
    found |= _other_weights(case, policy)
    return found


def usual_error(case: Case, policy: Policy) -> float:
    """The relative error of the policy against the full run, on the seeds that it was calibrated on."""
    family, errors = Family(case), []
    for seed in (1, 2):
        full = family.run(seed)
        with ertacache.accelerated(family.pipe, policy):
            errors.append(_distance(family.run(seed), full))
    return max(errors)


def _outcome(case: Case, policy: Policy, usual: float, change: Change, unchanged: Tensor) -> str:
    family = Family(case)
    try:
        change.apply(family.pipe)
        plain = _made(family, change)
    except Exception:  # whatever the pipeline itself says to it, or a change that it does not have
        return ""
    none = torch.equal(plain, unchanged)
    if not plain.isfinite().all() or (none and change.name not in EQUAL):
        return ""
    family = Family(case)
    change.apply(family.pipe)
    try:
        with ertacache.accelerated(family.pipe, policy) as run:
            out = _made(family, change)
    except ERTACacheError as error:
        if change.name in EQUAL:
            raise AssertionError(f"{change.name} changes nothing, and was refused") from error
        return "refused"
    distance = _distance(out, plain)
    if distance <= TOLERANCE * usual + 1e-6:
        return "noted" if run.report.notes else "right"
    assert run.report.notes, f"{change.name}: silently {distance:.2g} off, where {usual:.2g} is usual"
    assert change.name not in EQUAL, f"{change.name} changes nothing, and the picture is {distance:.2g} off"
    return "noted"


def _made(family: Family, change: Change) -> Tensor:
    return tensor_of(family.pipe(**change.arguments(family.all_arguments(1))))


def _distance(one: Tensor, other: Tensor) -> float:
    if one.shape != other.shape:
        return float("inf")
    difference = (one.double() - other.double()).norm() / other.double().norm()
    return float(difference) if difference.isfinite() else float("inf")


def changes_of(case: Case) -> Iterator[Change]:
    """All changes that may apply to a pipeline of this case; whether they do shows when they are made."""
    family = Family(case)
    pipe, call = family.pipe, family.arguments(1)
    yield from _strengths(pipe, call)
    yield from _settings(pipe)
    yield from _switches(pipe)
    yield from _adapters(pipe)
    yield from _callbacks(pipe)
    yield from _equals(pipe, call)
    for other in case.others:
        sizes = sizes_of(pipe, (), other())
        if sizes != sizes_of(pipe, (), call):
            named = ", ".join(f"{name} {value}" for name, value in sizes.items())
            yield Change(f"size: {named}", arguments=_replaced(other()))
    for steps in (STEPS - 1, STEPS + 2):
        yield Change(f"{steps} steps", arguments=_replaced({"num_inference_steps": steps}))
    yield Change("bfloat16", lambda pipe: pipe.to(torch.bfloat16), _in_bfloat16)


def _strengths(pipe: Any, call: Arguments) -> Iterator[Change]:
    """Each numeric argument that sets the strength of guidance, conditioning or an adapter."""
    for name, value in guidance_of(pipe, (), call).items():
        argument, *places = name.split(".")
        if not places:
            other = not value if isinstance(_given(pipe, call, name), bool) else value * 1.5 + 0.25
            yield Change(f"argument {name}", arguments=_replaced({argument: other}))
        elif places == ["0"]:
            values = [float(v) * 0.5 for v in _given(pipe, call, argument)]
            yield Change(f"argument {argument}", arguments=_replaced({argument: values}))
    for name in inspect.signature(own_class(pipe).__call__).parameters:
        given = _given(pipe, call, name)
        if is_strength(name) and given is None:
            yield Change(f"argument {name}", arguments=_replaced({name: 2.5}))


def _given(pipe: Any, call: Arguments, name: str) -> Any:
    parameter = inspect.signature(own_class(pipe).__call__).parameters.get(name)
    return call.get(name, parameter.default if parameter else None)


def _replaced(values: Arguments) -> Callable[[Arguments], Arguments]:
    return lambda call: {**call, **values}


def _settings(pipe: Any) -> Iterator[Change]:
    """Each number and flag in the configuration of the pipeline, its guiders and its scheduler."""
    parts = {"": pipe} | {
        n: p for n, p in {**getattr(pipe, "components", {}), **vars(pipe)}.items() if is_configured(p)
    }
    for part, thing in parts.items():
        for key, value in dict(getattr(thing, "config", {})).items():
            if key.startswith("_") or not isinstance(value, (bool, int, float)):
                continue
            other = (not value) if isinstance(value, bool) else type(value)(value * 0.5 + 1)
            yield Change(f"setting {part}{'.' if part else ''}{key}", _reconfigured(part, key, other))


def _reconfigured(part: str, key: str, value: Any) -> Callable[[Any], None]:
    def apply(pipe: Any) -> None:
        if not part:
            pipe.register_to_config(**{key: value})
        else:
            old = getattr(pipe, part)
            setattr(pipe, part, type(old).from_config(old.config, **{key: value}))

    return apply


def _switches(pipe: Any) -> Iterator[Change]:
    """Changes to the models themselves."""
    for name, module in loop_modules(pipe).items():
        yield Change(f"{name}: FreeU", lambda pipe: pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.4, b2=1.6))
        yield Change(f"{name}: token merging", _merge_tokens)
        if hasattr(module, "attn_processors") and module.attn_processors:
            yield Change(f"{name}: attention processors", _louder(name, 1.0))
        if hasattr(module, "enable_cache"):
            yield Change(f"{name}: another cache", _cached(name))
        yield Change(f"{name}: another forward()", _patched(name))


def _merge_tokens(pipe: Any) -> None:
    import tomesd

    tomesd.apply_patch(pipe, ratio=0.5, max_downsample=2)


class Louder:
    """An attention processor around another one, whose output it scales."""

    def __init__(self, inner: Any, scale: float) -> None:
        self.inner, self.scale = inner, 1.0 + scale

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        out = self.inner(*args, **kwargs)
        return tuple(part * self.scale for part in out) if isinstance(out, tuple) else out * self.scale


def _louder(name: str, scale: float) -> Callable[[Any], None]:
    def apply(pipe: Any) -> None:
        model = getattr(pipe, name)
        model.set_attn_processor({key: Louder(own, scale) for key, own in model.attn_processors.items()})

    return apply


def _cached(name: str) -> Callable[[Any], None]:
    def apply(pipe: Any) -> None:
        getattr(pipe, name).enable_cache(diffusers.FirstBlockCacheConfig(threshold=0.2))

    return apply


def _patched(name: str) -> Callable[[Any], None]:
    def apply(pipe: Any) -> None:
        model = getattr(pipe, name)
        own = model.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            out = own(*args, **kwargs)
            return (out[0] * 1.2, *out[1:]) if isinstance(out, tuple) else out

        model.forward = forward

    return apply


def _adapters(pipe: Any) -> Iterator[Change]:
    for name, module in loop_modules(pipe).items():
        if hasattr(module, "add_adapter"):
            yield Change(f"{name}: a LoRA", _with_lora(name))
            yield Change(f"{name}: a LoRA, fused and unloaded", _with_lora(name, fused=True))


def _with_lora(name: str, *, fused: bool = False) -> Callable[[Any], None]:
    def apply(pipe: Any) -> None:
        from peft import LoraConfig

        model = getattr(pipe, name)
        model.add_adapter(LoraConfig(r=2, lora_alpha=4, target_modules=["to_q", "to_k", "to_v", "to_out.0"]), "style")
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                if "lora_" in key:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) / 2)
        if fused:
            model.fuse_lora()
            model.unload_lora()

    return apply


def _callbacks(pipe: Any) -> Iterator[Change]:
    takes = inspect.signature(own_class(pipe).__call__).parameters
    if "callback_on_step_end" not in takes:
        return
    watched = getattr(pipe, "_callback_tensor_inputs", [])
    for name in watched:
        if name != "latents" and "embeds" in name:
            yield Change(f"a callback changes {name}", arguments=_acting(name))
    yield Change("a callback changes the guidance scale", arguments=_acting("_guidance_scale"))


def _acting(name: str) -> Callable[[Arguments], Arguments]:
    def callback(pipe: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        if step != 2:
            return {}
        if name.startswith("_"):
            setattr(pipe, name, getattr(pipe, name) * 1.7)
            return {}
        return {name: values[name].flip(-1) * 1.5}

    names = ["latents"] if name.startswith("_") else ["latents", name]
    return lambda call: {**call, "callback_on_step_end": callback, "callback_on_step_end_tensor_inputs": names}


def _equals(pipe: Any, call: Arguments) -> Iterator[Change]:
    """Changes of form only, which do not alter the output."""
    yield Change("numpy scalars", arguments=_with_numpy)
    if hasattr(pipe, "fuse_qkv_projections"):
        yield Change("fused projections", lambda pipe: pipe.fuse_qkv_projections())
    elif any(hasattr(module, "fuse_qkv_projections") for module in loop_modules(pipe).values()):
        yield Change("fused projections", _fuse)
    if hasattr(pipe, "enable_attention_slicing"):
        yield Change("sliced attention", lambda pipe: pipe.enable_attention_slicing())
    yield Change("channels last", _channels_last)


def _fuse(pipe: Any) -> None:
    for module in loop_modules(pipe).values():
        fuse: Any = getattr(module, "fuse_qkv_projections", None)
        if fuse is not None:
            fuse()


def _with_numpy(call: Arguments) -> Arguments:
    return {n: np.float64(v) if type(v) is float else np.int64(v) if type(v) is int else v for n, v in call.items()}


def _channels_last(pipe: Any) -> None:
    for module in loop_modules(pipe).values():
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _in_bfloat16(call: Arguments) -> Arguments:
    def cast(value: Any) -> Any:
        if isinstance(value, Tensor) and value.is_floating_point():
            return value.to(torch.bfloat16)
        return [cast(part) for part in value] if isinstance(value, list) else value

    return {name: cast(value) for name, value in call.items()}


def _other_weights(case: Case, policy: Policy) -> dict[str, str]:
    """Each kind of parameter changed by itself, in one layer only: all must be refused."""
    pipe = Family(case).pipe
    kinds: dict[str, list[nn.Parameter]] = {}
    for name, module in loop_modules(pipe).items():
        for path, parameter in module.named_parameters():
            kinds.setdefault(re.sub(r"\.\d+(?=\.)", "", f"{name}.{path}"), []).append(parameter)
    for kind, parameters in kinds.items():
        changed = parameters[len(parameters) // 2]
        before = changed.detach().clone()
        with torch.no_grad():
            changed.mul_(1.03).add_(1e-3)
        try:
            ertacache.enable(pipe, policy)
        except ERTACacheError:
            pass
        else:
            raise AssertionError(f"other weights are not noticed: {kind}")
        with torch.no_grad():
            changed.copy_(before)
    ertacache.enable(pipe, policy)
    return {f"weights, each of {len(kinds)} kinds": "refused"}
