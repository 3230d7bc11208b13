"""Restore a pipeline to its state before a call.

A call that runs to its end mostly undoes its changes of the pipeline. A call that is stopped midway does not, and calls
that overlap take each other's changes for the original state. So attention processors, hooks, scales and flags would
stay behind.
"""

from __future__ import annotations

import inspect
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from operator import is_
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ertacache.runtime.unwrap import own_class


@contextmanager
def preserved(pipe: Any, after: type[BaseException] = BaseException) -> Iterator[None]:
    """Restore on exit whatever differs from the pipeline's state on entry; what does not differ is not touched.

    Restored are all attributes of the pipeline, of its components (schedulers, guiders, tokenizers, pipelines within
    it), of every module and submodule, of attention processors, and of the hooks that diffusers registers on modules.
    If an attribute is a list, dict or set, its items are restored as well. Objects are compared by identity. A cache
    that the call has made for itself is dropped, and the next call makes it again.

    Not restored:

    - The contents and the device of tensors. A tensor that was replaced is put back only if both are on one device,
      since offloading replaces weights and buffers, and keeps track of them itself.
    - The attributes of accelerate's hooks, and of other packages' objects on modules; only the objects are put back.
    - The gates of a run, which the run itself removes.

    Weights that were cast to a wider dtype and still have it (as for a decoder, or during a layer's forward) are cast
    back.

    Args:
        pipe: the pipeline.
        after: restore only if an error of this class leaves the ``with`` block; by default always.
    """
    state = _State(pipe)
    try:
        yield
    except after:
        to_the_end(state.restore)
        raise
    if after is BaseException:
        to_the_end(state.restore)


def to_the_end(action: Callable[[], object]) -> None:
    """Do what must not be left half done: on Ctrl-C it is done again from its beginning, and the interrupt comes after.

    Args:
        action: what to do; it must be safe to repeat.

    Raises:
        KeyboardInterrupt: at the end, if the user interrupted.
    """
    interrupt: KeyboardInterrupt | None = None
    while True:
        try:
            action()
            break
        except KeyboardInterrupt as error:
            interrupt = error
    if interrupt is not None:
        raise interrupt


_Sort = Literal["plain", "container", "weight", "thing"]


class _State:
    """The recorded state of a pipeline: containers, and attribute dicts of objects, each with a copy."""

    def __init__(self, pipe: Any) -> None:
        self._attributes: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self._filled: list[tuple[Any, Any]] = []
        self._empty: list[Any] = []  # most containers of modules are empty, so these are checked all at once
        self._weights: list[tuple[Tensor, torch.dtype]] = []
        self._record(pipe)

    def restore(self) -> None:
        """Restore the pipeline; see `preserved`."""
        for attributes, before in self._attributes:
            if not _same(attributes, before):
                _mend(attributes, before, left=_RUNS_OWN)
        for container in filter(None, self._empty):
            container.clear()
        for container, before in self._filled:
            if not _same(container, before):
                _refill(container, before)
        for weight, dtype in self._weights:
            if weight.dtype != dtype:
                _narrow(weight, dtype)

    def _record(self, pipe: Any) -> None:
        """Record the pipeline, and all objects that can be reached from it and are to be restored."""
        seen: set[int] = set()
        left = [pipe]
        while left:
            thing = left.pop()
            attributes = getattr(thing, "__dict__", {})
            if id(attributes) in seen:
                continue
            seen.add(id(attributes))
            self._attributes.append((attributes, attributes.copy()))
            for value in attributes.values():
                sort = _SORTS.get(type(value)) or _sort_of(type(value))
                if sort == "thing":
                    left.append(value)
                elif sort == "container":
                    if not value:
                        self._empty.append(value)
                    elif id(value) not in seen:
                        seen.add(id(value))
                        left += self._record_items(value)
            if isinstance(thing, nn.Module):
                left += [processor] if _has_attributes(processor := attributes.get("processor")) else []
            elif thing is pipe or hasattr(type(thing), "components"):
                kind: Any = own_class(thing)
                names = inspect.signature(kind.__init__).parameters
                left += [value for name in names if _has_attributes(value := attributes.get(name))]

    def _record_items(self, container: Any) -> list[Any]:
        """Record the items of a container; return those whose attributes are to be recorded as well."""
        self._filled.append((container, container.copy()))
        things = []
        for part in container.values() if isinstance(container, dict) else container:
            sort = _SORTS.get(type(part)) or _sort_of(type(part))
            if sort == "thing":
                things.append(part)
            elif sort == "weight":
                self._weights.append((part, part.dtype))
        return things


_RUNS_OWN = frozenset({"_compiled_call_impl"})
_SORTS: dict[type, _Sort] = {nn.Parameter: "weight"}
_SORTS |= dict.fromkeys((dict, OrderedDict, defaultdict, list, set, deque), "container")


def _sort_of(kind: type) -> _Sort:
    """How to treat an attribute of this class: the attributes of modules and diffusers' own objects are recorded."""
    diffusers = kind.__module__.partition(".")[0] == "diffusers" and not issubclass(kind, (dict, Enum, Tensor, type))
    thing = bool(kind.__dictoffset__) and (issubclass(kind, nn.Module) or diffusers)
    return _SORTS.setdefault(kind, "thing" if thing else "plain")


def _has_attributes(component: Any) -> bool:
    other = isinstance(component, (Tensor, type, ModuleType)) or inspect.isroutine(component)
    return hasattr(component, "__dict__") and not other


def _same(container: Any, before: Any) -> bool:
    """Whether a container has the same items as its copy, by identity and in the same order."""
    if len(container) != len(before):
        return False
    if isinstance(container, set):
        return bool(container == before)
    if isinstance(container, dict) and not all(map(is_, container.values(), before.values())):
        return False
    return all(map(is_, container, before))


def _refill(container: Any, before: Any) -> None:
    if not isinstance(container, dict):
        container.clear()
        container.extend(before) if hasattr(container, "extend") else container.update(before)
        return
    _mend(container, before)
    if not all(map(is_, container, before)):  # hooks run in their order
        items = [(name, container[name]) for name in before]
        container.clear()
        container.update(items)


def _mend(entries: dict[Any, Any], before: dict[Any, Any], left: frozenset[str] = frozenset()) -> None:
    """Restore a dict entry by entry, since other threads may read it meanwhile; leave the names in ``left`` alone."""
    for name in [name for name in entries if name not in before and name not in left]:
        del entries[name]
    for name, value in before.items():
        now = entries.get(name, _NOTHING)
        moved = isinstance(now, Tensor) and isinstance(value, Tensor) and now.device != value.device
        if now is not value and not moved and name not in left:
            entries[name] = value


def _narrow(weight: Tensor, dtype: torch.dtype) -> None:
    """Cast a weight back to a narrower dtype. (Never to a wider one: then the first cast has lost digits.)"""
    floating = weight.dtype.is_floating_point and dtype.is_floating_point
    if floating and torch.finfo(weight.dtype).bits > torch.finfo(dtype).bits:
        weight.data = weight.data.to(dtype)


_NOTHING = object()
