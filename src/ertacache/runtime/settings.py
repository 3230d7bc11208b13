"""What changes what a pipeline computes besides weights and the arguments of a call: its settings, as JSON has them.

Some of it is configuration: the pipeline's own (Wan's ``boundary_ratio``), its guiders', its scheduler's. Some of it is
switched on the models: attention processors with their scales (IP-adapters), FreeU, token merging, a ``forward`` that
somebody has replaced. Another cache is no setting: two caches on one denoiser are refused.
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
"""Of the scheduler's configuration, what lays its grid and nothing else: calls compare the noise levels it comes to."""
_SAME_ATTENTION = re.compile("Fused|XFormers|XLA|NPU|Flash|SDPA|Sliced|2_0")
"""In the name of an attention processor, what says how it computes, and not what."""
_LIBRARIES = ("torch", "diffusers", "transformers", "accelerate", "peft")
_CACHES = {
    "fbc_": "FirstBlockCache",
    "faster_cache": "FasterCache",
    "mag_cache": "MagCache",
    "pyramid_attention_broadcast": "PyramidAttentionBroadcast",
    "sea_cache": "SeaCache",
    "taylorseer": "TaylorSeerCache",
}
"""How the hooks' names begin by which diffusers' caches work. Its cache of the text's keys and values is exact."""
_MISSING = object()


def settings_of(pipe: Any, modules: Mapping[str, nn.Module]) -> dict[str, Any]:
    """All settings by name, as JSON has them.

    Args:
        pipe: the pipeline.
        modules: those that run in its sampling loop, by attribute name.
    """
    found: dict[str, Any] = {}
    parts = getattr(pipe, "components", {})
    for name, value in dict(getattr(pipe, "config", {})).items():
        if not name.startswith("_") and name not in parts:
            found[name] = value
    own = vars(pipe) if hasattr(pipe, "__dict__") else {}
    found |= {name: value for name, value in own.items() if _is_plain(value) and not _of_a_call(name)}
    for name, part in {**parts, **own}.items():
        if is_configured(part):
            found |= _configured(name, part)
    for name, module in modules.items():
        for what, value in _switches(model_of(module), sets_own="pag_applied_layers" in own).items():
            found[f"{name}: {what}"] = value
    return as_json(found)


def setting_difference(
    expected: Mapping[str, Any], actual: Mapping[str, Any], pipe: Any
) -> tuple[str, Any, Any] | None:
    """The first setting that is another one: its name, what it was, what it is; None if all agree."""
    return _difference(expected, actual, lambda name: _default_setting(pipe, name))


def configuration_of(part: Any) -> dict[str, Any]:
    """The configuration of a model or scheduler of diffusers, or a model of transformers, as JSON has it."""
    config = getattr(part, "config", None) or {}
    config = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    own = ("quantization_config", "dtype", "torch_dtype")  # how weights are stored is for the weights to say
    return as_json({k: v for k, v in config.items() if not str(k).startswith("_") and k not in own})


def configuration_difference(
    expected: Mapping[str, Any], actual: Mapping[str, Any], kind: type
) -> tuple[str, Any, Any] | None:
    """The first entry of two configurations of this class that differs: its name, what it was, what it is."""
    defaults = _defaults_of(kind)
    return _difference(expected, actual, lambda name: defaults.get(name, _MISSING))


def as_json(value: Mapping[str, Any]) -> dict[str, Any]:
    """The same after a way through JSON; what JSON does not have becomes the name of its type."""
    plain: dict[str, Any] = json.loads(json.dumps(value, default=_plain, sort_keys=True, skipkeys=True))
    return plain


def alike(one: Any, other: Any) -> bool:
    """Whether two values of JSON are the same, numbers up to rounding."""
    if isinstance(one, Real) and isinstance(other, Real):
        return one == other or abs(float(one) - float(other)) <= 1e-6 * max(abs(float(one)), abs(float(other)))
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(alike(one[key], other[key]) for key in one)
    return bool(one == other)


def refuse_other_caches(pipe: Any, modules: Mapping[str, nn.Module]) -> None:
    """Raise `PipelineError` where another cache is on: it would be taken for the denoiser, and errors would add up."""
    for name, part in {"": pipe, **modules}.items():
        cache = _cache_of(part)
        if cache:
            cure = "cache_dit.disable_cache(pipe)" if cache == "cache-dit" else f"pipe.{name}.disable_cache()"
            raise PipelineError(
                f"another cache is on: {cache}",
                given=f"{name}, a {type(model_of(part)).__name__}" if name else own_class(pipe).__name__,
                cure=f"Turn it off first, with {cure}: what it leaves out would be taken for what the model does.",
            )


def _cache_of(part: Any) -> str | None:
    model = model_of(part) if isinstance(part, nn.Module) else part
    if getattr(model, "_is_cached", False):  # on a pipeline's class, and on the model
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
    """Whether a pipeline's attribute is what its calls leave behind; AnimateDiff's free noise is not."""
    return name.startswith("_") and not name.startswith("_free_noise")


def is_configured(part: Any) -> bool:
    """Whether it is a scheduler or a guider; not a model, a pipeline, or what prepares pictures."""
    if not isinstance(part, ConfigMixin) or isinstance(part, nn.Module) or hasattr(type(part), "components"):
        return False
    return not own_class(part).__name__.endswith("Processor")


def _configured(name: str, part: Any) -> dict[str, Any]:
    laid = name == "scheduler"  # of another scheduler, for sound, say, no call compares the grid
    found = {f"{name}.{key}": v for key, v in configuration_of(part).items() if not (laid and _GRID.search(key))}
    if not hasattr(part, "set_timesteps"):
        found[name] = own_class(part).__name__
        found[f"{name}.enabled"] = bool(getattr(part, "_enabled", True))
    return found


def _switches(model: nn.Module, *, sets_own: bool = False) -> dict[str, Any]:
    """What is switched on a model.

    With ``sets_own`` the pipeline puts processors of its own in place when a call begins; some leave them there.
    """
    found: dict[str, Any] = {}
    processors: list[tuple[str, str]] = []
    freeu: list[Any] = []
    for path, child in model.named_modules():
        own = vars(child)
        processor = own.get("processor") or child._modules.get("processor")
        if processor is not None and not (sets_own and type(processor).__name__.startswith("PAG")):
            processors.append((path, _described(processor)))
        if own.get("s1") is not None and own.get("b1") is not None:
            freeu.append([own.get(name) for name in ("s1", "s2", "b1", "b2")])
    if processors:
        kinds = {kind for _, kind in processors}
        found["attention processors"] = sorted(kinds)
        if len(kinds) > 1:
            found["order of attention processors"] = hashlib.sha256(repr(processors).encode()).hexdigest()[:8]
    if freeu:
        found["FreeU"] = freeu
    merging = getattr(model, "_tome_info", None)
    if merging:
        found["token merging"] = merging.get("args") if isinstance(merging, Mapping) else True
    forward = _foreign_forward(model)
    if forward:
        found["forward()"] = forward
    return found


def scales_of(model: nn.Module) -> list[Any]:
    """The scales that are set on a model's layers: those of adapters, and of attention processors."""
    found: list[Any] = []
    for child in model.modules():
        processor = vars(child).get("processor") or child._modules.get("processor")
        if processor is not None:
            found.append(_described(processor))
        layer: Any = child
        if hasattr(type(child), "active_adapters") and isinstance(getattr(child, "scaling", None), Mapping):
            found.append((list(layer.active_adapters), dict(layer.scaling), getattr(layer, "disable_adapters", False)))
    return found


def _described(processor: Any) -> str:
    """An attention processor's class and its scales."""
    scales = {
        name: value.tolist() if hasattr(value, "tolist") else value
        for name, value in vars(processor).items()
        if "scale" in name and isinstance(value, (int, float, list, tuple)) and value is not True and value is not False
    }
    name = _SAME_ATTENTION.sub("", type(processor).__name__)
    return f"{name}({', '.join(f'{key}={value}' for key, value in sorted(scales.items()))})" if scales else name


def _foreign_forward(model: nn.Module) -> str | None:
    """The ``forward`` that neither the model's class nor a library it is run by has written."""
    own = vars(model)
    function = own.get("forward")
    if function is None or "_hf_hook" in own or "_diffusers_hook" in own:
        function = type(model).forward
    module = getattr(inspect.unwrap(getattr(function, "__func__", function)), "__module__", None) or ""
    known = {kind.__module__ for kind in type(model).__mro__}
    if module in known or module.partition(".")[0] in _LIBRARIES:
        return None
    return f"{module}.{getattr(function, '__qualname__', type(function).__name__)}"


def _difference(
    expected: Mapping[str, Any], actual: Mapping[str, Any], default: Callable[[str], Any]
) -> tuple[str, Any, Any] | None:
    """What only one side has is compared with its default: a newer version of diffusers may have added it."""
    for name in sorted(expected.keys() | actual.keys()):
        was, now = (side[name] if name in side else default(name) for side in (expected, actual))
        if was is not _MISSING and now is not _MISSING and not alike(was, now):
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
