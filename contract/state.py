"""All parts and attributes of a pipeline by path, to name what a call left on it."""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ertacache.runtime.unwrap import own_class

VALUES = 1 << 12
"""Tensors other than weights are compared up to this many elements; larger ones would show in the pictures."""


def state_of(pipe: Any) -> dict[str, object]:
    """Every attribute of the pipeline and of all that it holds: modules, processors, hooks, schedulers, guiders.

    Things are told by their class and attributes, functions by their names, tensors by shape, dtype and device, and by
    what they hold where that is little and no weight. The class of the pipeline and of its scheduler are their own and
    what stands on top of it.
    """
    found: dict[str, object] = {}
    seen: dict[int, str] = {}
    left: list[tuple[str, Any]] = [("pipe", pipe)]
    while left:
        path, thing = left.pop()
        parts = _parts_of(thing)
        if parts is None:
            found[path] = _told(thing)
            continue
        if id(thing) in seen:
            found[path] = f"is {seen[id(thing)]}"
            continue
        seen[id(thing)] = path
        named = list(parts)
        found[path] = _class_of(thing), *(name for name, _ in named)
        left += [(f"{path}{name}", part) for name, part in reversed(named)]
    return found


def differences(after: Mapping[str, object], before: Mapping[str, object]) -> list[str]:
    """Where two states differ, in words."""
    paths = dict.fromkeys([*before, *after])
    return [f"{p}: {before.get(p)!r:.150} became {after.get(p)!r:.150}" for p in paths if after.get(p) != before.get(p)]


def _class_of(thing: Any) -> tuple[str, ...]:
    kinds = (type(thing),) if type(thing) is own_class(thing) else (type(thing), own_class(thing))
    return tuple(f"{kind.__module__}.{kind.__qualname__}" for kind in kinds)


def _parts_of(thing: Any) -> Iterable[tuple[str, Any]] | None:
    """The named parts of an object; None if it is compared as a whole."""
    if isinstance(thing, dict) and not hasattr(thing, "__dict__"):
        return ((f"[{_name_of(key, k)}]", value) for k, (key, value) in enumerate(thing.items()))
    if isinstance(thing, (list, tuple, deque)):
        return ((f"[{k}]", value) for k, value in enumerate(thing))
    if isinstance(thing, functools.partial):
        return (("()", thing.func),)
    package = type(thing).__module__.partition(".")[0]
    if not hasattr(thing, "__dict__") or isinstance(thing, (type, Enum, Tensor)) or inspect.isroutine(thing):
        return None
    if not isinstance(thing, nn.Module) and package in ("builtins", "logging", "torch", "numpy", "functools"):
        return None
    return _attributes_of(thing)


def _attributes_of(thing: Any) -> Iterator[tuple[str, Any]]:
    yield from ((f".{name}", value) for name, value in sorted(vars(thing).items()))
    if isinstance(thing, dict):
        yield from ((f"[{_name_of(key, k)}]", value) for k, (key, value) in enumerate(thing.items()))


def _name_of(key: object, number: int) -> object:
    return key if isinstance(key, (str, int, float, tuple, torch.dtype)) else number


def _told(thing: Any) -> object:
    if isinstance(thing, (str, bytes, int, float, complex, bool, type(None), torch.dtype, torch.device, Enum)):
        return thing if thing == thing else "nan"
    if isinstance(thing, Tensor):
        about = tuple(thing.shape), thing.dtype, thing.device, thing.requires_grad, type(thing).__name__
        small = not isinstance(thing, nn.Parameter) and not thing.is_meta and thing.numel() <= VALUES
        return *about, _digest(thing.detach().cpu().double().numpy().tobytes()) if small else ""
    if isinstance(thing, torch.Generator):
        return _digest(thing.get_state().numpy().tobytes())
    if isinstance(thing, np.ndarray):
        return thing.shape, str(thing.dtype), _digest(repr(thing.tolist()).encode())
    if isinstance(thing, (set, frozenset)):
        return sorted(map(repr, thing))
    return getattr(thing, "__qualname__", None) or type(thing).__qualname__


def _digest(held: bytes) -> str:
    return hashlib.sha256(held).hexdigest()[:16]
