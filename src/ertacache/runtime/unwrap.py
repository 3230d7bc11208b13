"""What is beneath: the own class, the own methods and the own model of an object that a run has put something on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn


def own_class(thing: object) -> type:
    """The class of a pipeline or scheduler beneath this library's subclass."""
    return getattr(type(thing), "_ertacache_class", type(thing))


def set_class(thing: object, kind: type) -> None:
    """Change the class of an object, also if it is a wrapper that passes assignments on."""
    object.__setattr__(thing, "__class__", kind)


def model_of(module: nn.Module) -> Any:
    """The module beneath ``torch.compile``; the module itself if it is not compiled."""
    return getattr(module, "_orig_mod", module)


def patched_on(thing: Any, name: str) -> Callable[..., Any] | None:
    """The method that is patched on the object itself, beneath a seam of ours, or None if there is none."""
    patched = getattr(thing, "__dict__", {}).get(name)
    beneath: Callable[..., Any] | None = getattr(patched, "_ertacache_beneath", patched)
    return beneath


def methods(thing: Any, name: str) -> list[Callable[..., Any]]:
    """All methods of one name, bound: the one that is called first, and then those that it may call in turn."""
    patched = patched_on(thing, name)
    return [*([] if patched is None else [patched]), *inherited(thing, name)]


def inherited(thing: Any, name: str) -> list[Callable[..., Any]]:
    """The methods of one name that an object's own class and its bases define, bound.

    If there are none, the one that the class gets by ``__getattr__``, as wrappers of schedulers do.
    """
    own: Any = own_class(thing)
    functions = [vars(base)[name] for base in own.__mro__ if name in vars(base)]
    if functions:
        return [method.__get__(thing, own) if hasattr(method, "__get__") else method for method in functions]
    get_attribute = getattr(own, "__getattr__", None)
    try:
        return [] if get_attribute is None else [get_attribute(thing, name)]
    except AttributeError:
        return []


def is_modular(pipe: Any) -> bool:
    """Whether this is one of diffusers' modular pipelines; told without importing them, which would take seconds."""
    return _descends(pipe, "ModularPipeline")


def is_guider(part: Any) -> bool:
    """Whether this is one of diffusers' guiders; told without importing them."""
    return _descends(part, "BaseGuidance")


def _descends(thing: Any, base: str) -> bool:
    kinds = type(thing).__mro__
    return any(kind.__name__ == base and kind.__module__.partition(".")[0] == "diffusers" for kind in kinds)
