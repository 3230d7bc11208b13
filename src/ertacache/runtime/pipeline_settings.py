"""Read and compare a pipeline's settings: what changes its results besides weights and the arguments of a call.

Some settings are configuration: of the pipeline (Wan's ``boundary_ratio``), its guiders and its scheduler. Others are
switched on in the models: attention processors and their scales (IP-adapters), FreeU, token merging, a replaced
``forward``. Another cache is not a setting: two caches on one denoiser are refused.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import re
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

from diffusers import ConfigMixin
from torch import nn

from ertacache.errors import PipelineError
from ertacache.runtime.unwrap import model_of, own_class

_GRID = re.compile("shift|image_seq_len|invert_sigmas|timestep_spacing|steps_offset")
"""Entries of a scheduler's configuration that only shape its grid; calls compare the noise levels instead."""
_SAME_ATTENTION = re.compile("Fused|XFormers|XLA|NPU|Flash|SDPA|Sliced|2_0")
"""Parts of an attention processor's name that say how it computes its result, but do not change the result."""
_LIBRARIES = ("torch", "diffusers", "transformers", "accelerate", "peft")
"""Packages whose ``forward`` functions do not count as replaced."""
_CACHES = {
    "fbc_": "FirstBlockCache",
    "faster_cache": "FasterCache",
    "mag_cache": "MagCache",
    "pyramid_attention_broadcast": "PyramidAttentionBroadcast",
    "sea_cache": "SeaCache",
    "taylorseer": "TaylorSeerCache",
}
"""diffusers' caches, by the beginning of their hooks' names; without its cache of text keys and values, which is exact.
"""
_MISSING = object()


def settings_of(pipe: Any, modules: Mapping[str, nn.Module]) -> dict[str, Any]:
    """Read all settings of a pipeline.

    Args:
        pipe: the pipeline.
        modules: the modules that run in its sampling loop, by attribute name.

    Returns:
        JSON data by name.
    """
    settings: dict[str, Any] = {}
    parts = getattr(pipe, "components", {})
    for name, value in dict(getattr(pipe, "config", {})).items():
        if not name.startswith("_") and name not in parts:
            settings[name] = value
    attributes = vars(pipe) if hasattr(pipe, "__dict__") else {}
    settings |= {name: value for name, value in attributes.items() if _is_plain(value) and not _of_a_call(name)}
    for name, part in {**parts, **attributes}.items():
        if is_configured(part):
            settings |= _configured(name, part)
    for name, module in modules.items():
        for what, value in _switches(model_of(module), sets_own="pag_applied_layers" in attributes).items():
            settings[f"{name}: {what}"] = value
    return as_json(settings)


def setting_difference(
    expected: Mapping[str, Any], actual: Mapping[str, Any], pipe: Any
) -> tuple[str, Any, Any] | None:
    """Find the first setting that differs.

    Args:
        expected: the calibrated settings, from `settings_of`.
        actual: the settings now.
        pipe: the pipeline, for the defaults of settings that only one side has.

    Returns:
        The setting's name, its calibrated value and its value now, or None if all agree.
    """
    return _difference(expected, actual, lambda name: _default_setting(pipe, name))


def configuration_of(part: Any) -> dict[str, Any]:
    """Read the configuration of a diffusers model or scheduler, or of a transformers model, as JSON data."""
    config = getattr(part, "config", None) or {}
    config = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    storage = ("quantization_config", "dtype", "torch_dtype")  # the samples of weights show how these are stored
    return as_json({k: v for k, v in config.items() if not str(k).startswith("_") and k not in storage})


def configuration_difference(
    expected: Mapping[str, Any], actual: Mapping[str, Any], kind: type
) -> tuple[str, Any, Any] | None:
    """Find the first entry that differs between two configurations.

    Args:
        expected: the calibrated configuration, from `configuration_of`.
        actual: the configuration now.
        kind: the class that both configure, for the defaults of entries that only one side has.

    Returns:
        The entry's name, its calibrated value and its value now, or None if all agree.
    """
    defaults = _defaults_of(kind)
    return _difference(expected, actual, lambda name: defaults.get(name, _MISSING))


def as_json(value: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a value to JSON data; what JSON cannot express becomes the name of its type."""
    plain: dict[str, Any] = json.loads(json.dumps(value, default=_plain, sort_keys=True, skipkeys=True))
    return plain


def equal_json(one: Any, other: Any) -> bool:
    """Whether two values of JSON data are equal, numbers up to rounding."""
    if isinstance(one, Real) and isinstance(other, Real):
        return one == other or abs(float(one) - float(other)) <= 1e-6 * max(abs(float(one)), abs(float(other)))
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(equal_json, one, other))
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(equal_json(one[key], other[key]) for key in one)
    return bool(one == other)


def refuse_other_caches(pipe: Any, modules: Mapping[str, nn.Module]) -> None:
    """Raise `PipelineError` if another cache is on: its errors would be taken for the denoiser's output, and add up.

    Args:
        pipe: the pipeline.
        modules: the modules that run in its sampling loop, by attribute name.
    """
    for name, part in {"": pipe, **modules}.items():
        cache = _cache_of(part)
        if cache:
            cure = "cache_dit.disable_cache(pipe)" if cache == "cache-dit" else f"pipe.{name}.disable_cache()"
            raise PipelineError(
                f"another cache is on: {cache}",
                given=f"{name}, a {type(model_of(part)).__name__}" if name else own_class(pipe).__name__,
                cure=f"Turn it off first, with {cure}: its approximations would be taken for the model's own outputs.",
            )


def _cache_of(part: Any) -> str | None:
    model = model_of(part) if isinstance(part, nn.Module) else part
    if getattr(model, "_is_cached", False):  # cache-dit sets it on the pipeline's class and on the model
        return "cache-dit"
    if not isinstance(model, nn.Module):
        return None
    config = getattr(model, "_cache_config", None)
    if config is not None and "TextKV" not in type(config).__name__:
        return type(config).__name__.removesuffix("Config")
    for child in model.modules():
        for hook in getattr(vars(child).get("_diffusers_hook"), "hooks", ()):
            for beginning, cache in _CACHES.items():
                if hook.startswith(beginning):
                    return cache
    return None


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))


def _of_a_call(name: str) -> bool:
    """Whether a pipeline's attribute only holds the state of a call, by its name; AnimateDiff's free noise does not."""
    return name.startswith("_") and not name.startswith("_free_noise")


def is_configured(part: Any) -> bool:
    """Whether a component is a scheduler or a guider; not a model, a pipeline or an image processor."""
    if not isinstance(part, ConfigMixin) or isinstance(part, nn.Module) or hasattr(type(part), "components"):
        return False
    return not own_class(part).__name__.endswith("Processor")


def _configured(name: str, part: Any) -> dict[str, Any]:
    main = name == "scheduler"  # calls compare this scheduler's grid, but not that of another one, such as for sound
    entries = {f"{name}.{key}": v for key, v in configuration_of(part).items() if not (main and _GRID.search(key))}
    if not hasattr(part, "set_timesteps"):
        entries = {key: _unresolved(value) for key, value in entries.items()}
        entries[name] = own_class(part).__name__
        entries[f"{name}.enabled"] = bool(getattr(part, "_enabled", True))
    return entries


def _unresolved(value: Any) -> Any:
    """A guider's entry without where layers to skip are found in the model, which its first call fills in."""
    if isinstance(value, Mapping):
        return {key: _unresolved(part) for key, part in value.items() if key != "fqn"}
    return [_unresolved(part) for part in value] if isinstance(value, list) else value


def _switches(model: nn.Module, *, sets_own: bool = False) -> dict[str, Any]:
    """Read what is switched on in a model: attention processors, FreeU, token merging, a replaced ``forward``.

    Args:
        model: the model.
        sets_own: whether the pipeline's calls set attention processors of their own (PAG), which then do not count.
    """
    switches: dict[str, Any] = {}
    processors: list[tuple[str, str]] = []
    freeu: list[Any] = []
    for path, child in model.named_modules():
        attributes = vars(child)
        processor = attributes.get("processor") or child._modules.get("processor")
        if processor is not None and not (sets_own and type(processor).__name__.startswith("PAG")):
            processors.append((path, _described(processor)))
        if attributes.get("s1") is not None and attributes.get("b1") is not None:
            freeu.append([attributes.get(name) for name in ("s1", "s2", "b1", "b2")])
    if processors:
        kinds = {kind for _, kind in processors}
        switches["attention processors"] = sorted(kinds)
        if len(kinds) > 1:
            switches["order of attention processors"] = hashlib.sha256(repr(processors).encode()).hexdigest()[:8]
    if freeu:
        switches["FreeU"] = freeu
    merging = getattr(model, "_tome_info", None)
    if merging:
        switches["token merging"] = merging.get("args") if isinstance(merging, Mapping) else True
    forward = _foreign_forward(model)
    if forward:
        switches["forward()"] = forward
    return switches


def scales_of(model: nn.Module) -> list[Any]:
    """Read the scales that are set on a model's layers, of adapters and of attention processors, to compare them."""
    scales: list[Any] = []
    for child in model.modules():
        processor = vars(child).get("processor") or child._modules.get("processor")
        if processor is not None:
            scales.append(_described(processor))
        layer: Any = child
        if hasattr(type(child), "active_adapters") and isinstance(getattr(child, "scaling", None), Mapping):
            scales.append((list(layer.active_adapters), dict(layer.scaling), getattr(layer, "disable_adapters", False)))
    return scales


def _described(processor: Any) -> str:
    """Describe an attention processor by its class and scales."""
    scales = {
        name: value.tolist() if hasattr(value, "tolist") else value
        for name, value in vars(processor).items()
        if "scale" in name and isinstance(value, (int, float, list, tuple)) and value is not True and value is not False
    }
    name = _SAME_ATTENTION.sub("", type(processor).__name__)
    return f"{name}({', '.join(f'{key}={value}' for key, value in sorted(scales.items()))})" if scales else name


def _foreign_forward(model: nn.Module) -> str | None:
    """The name of a ``forward`` that comes neither from the model's class nor from `_LIBRARIES`; None without one."""
    attributes = vars(model)
    function = attributes.get("forward")
    if function is None or "_hf_hook" in attributes or "_diffusers_hook" in attributes:
        function = type(model).forward
    module = getattr(inspect.unwrap(getattr(function, "__func__", function)), "__module__", None) or ""
    known = {kind.__module__ for kind in type(model).__mro__}
    if module in known or module.partition(".")[0] in _LIBRARIES:
        return None
    return f"{module}.{getattr(function, '__qualname__', type(function).__name__)}"


def _difference(
    expected: Mapping[str, Any], actual: Mapping[str, Any], default: Callable[[str], Any]
) -> tuple[str, Any, Any] | None:
    """Find the first entry that differs. An entry of one side only, as another version of diffusers may have, is
    compared with its default.
    """
    for name in sorted(expected.keys() | actual.keys()):
        was, now = (side[name] if name in side else default(name) for side in (expected, actual))
        if was is not _MISSING and now is not _MISSING and not equal_json(was, now):
            return name, was, now
    return None


def _default_setting(pipe: Any, name: str) -> Any:
    if ": " in name:
        return None  # a switch that is off
    part, _, key = name.partition(".")
    if key:
        return _defaults_of(own_class(getattr(pipe, part, None))).get(key, _MISSING)
    unset = None if name.startswith("_free_noise") else _MISSING
    return _defaults_of(own_class(pipe)).get(name, unset)


def _defaults_of(kind: Any) -> dict[str, Any]:
    parameters = inspect.signature(kind.__init__).parameters.values()
    return as_json({p.name: p.default for p in parameters if p.default is not p.empty})


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if hasattr(value, "tolist"):  # numpy's and torch's numbers and arrays
        return value.tolist()
    if isinstance(value, (set, frozenset)):
        return sorted(map(str, value))
    kind = value if isinstance(value, type) else type(value)
    named = str(value) if type(value).__module__ == "torch" else f"{kind.__module__}.{kind.__qualname__}"
    return named
