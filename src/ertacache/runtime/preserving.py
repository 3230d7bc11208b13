"""A pipeline as it was found: what calls change on it and do not undo is put back.

A call that runs to its end mostly undoes what it changed. One that ends in its middle does not, and of calls that
overlap each takes for given what the others had changed: attention processors, hooks, scales and flags stay behind.
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
    """Put back on exit whatever differs from how the pipeline was on entry; what does not differ is not touched.

    Looked at are all attributes of the pipeline and of its components (schedulers, guiders, tokenizers, pipelines
    within it), of every module and what is within it, of attention processors, and of the hooks that diffusers
    registers on modules; where an attribute is a list, a dict or a set, also what is in it. They are compared as the
    objects they are. A cache that a call made for itself goes with it, and is made anew by the next one.

    Left as it is: what a tensor holds, and where. A tensor that another one has replaced is put back only if both are
    on one device, since offloading replaces weights and buffers, and knows where its own are. Of accelerate's hooks the
    objects are put back, not what they have noted; of other packages' objects on modules, likewise. Weights that were
    cast to a wider type and still are (a decoder, for its time; a layer, for its forward) are cast back. A run's gate
    is the run's own.

    Args:
        pipe: the pipeline.
        after: put back only where such an error is on its way; by default always.
    """
    found = _Found(pipe)
    try:
        yield
    except after:
        to_the_end(found.put_back)
        raise
    if after is BaseException:
        to_the_end(found.put_back)


def to_the_end(action: Callable[[], object]) -> None:
    """Do what must not be left half done, anew from its beginning if the user interrupts; the interrupt comes after.

    Args:
        action: what may be begun again.
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


class _Found:
    """What was found: containers, each with a copy; the attributes of a thing are one of them."""

    def __init__(self, pipe: Any) -> None:
        self._attributes: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self._filled: list[tuple[Any, Any]] = []
        self._empty: list[Any] = []  # nearly all that a module has, so that these are looked at in one go
        self._weights: list[tuple[Tensor, torch.dtype]] = []
        self._look_at(pipe)

    def put_back(self) -> None:
        """See `preserved`."""
        for own, before in self._attributes:
            if not _same(own, before):
                _mend(own, before, left=_RUNS_OWN)
        for container in filter(None, self._empty):
            container.clear()
        for container, before in self._filled:
            if not _same(container, before):
                _refill(container, before)
        for weight, dtype in self._weights:
            if weight.dtype != dtype:
                _narrow(weight, dtype)

    def _look_at(self, pipe: Any) -> None:
        seen: set[int] = set()
        left = [pipe]
        while left:
            thing = left.pop()
            own = getattr(thing, "__dict__", {})
            if id(own) in seen:
                continue
            seen.add(id(own))
            self._attributes.append((own, own.copy()))
            for value in own.values():
                sort = _SORTS.get(type(value)) or _sort_of(type(value))
                if sort == "thing":
                    left.append(value)
                elif sort == "container":
                    if not value:
                        self._empty.append(value)
                    elif id(value) not in seen:
                        seen.add(id(value))
                        left += self._fill(value)
            if isinstance(thing, nn.Module):
                left += [processor] if _has_attributes(processor := own.get("processor")) else []
            elif thing is pipe or hasattr(type(thing), "components"):
                kind: Any = own_class(thing)
                names = inspect.signature(kind.__init__).parameters
                left += [value for name in names if _has_attributes(value := own.get(name))]

    def _fill(self, container: Any) -> list[Any]:
        """Note what is in a container; the things that are to be looked at in their turn."""
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
    """What is to be done with an attribute of this class: modules and diffusers' own objects are looked at."""
    diffusers = kind.__module__.partition(".")[0] == "diffusers" and not issubclass(kind, (dict, Enum, Tensor, type))
    thing = bool(kind.__dictoffset__) and (issubclass(kind, nn.Module) or diffusers)
    return _SORTS.setdefault(kind, "thing" if thing else "plain")


def _has_attributes(component: Any) -> bool:
    other = isinstance(component, (Tensor, type, ModuleType)) or inspect.isroutine(component)
    return hasattr(component, "__dict__") and not other


def _same(container: Any, before: Any) -> bool:
    """Whether the same objects are in it, in the same order."""
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


def _mend(found: dict[Any, Any], before: dict[Any, Any], left: frozenset[str] = frozenset()) -> None:
    """Put back what differs, entry by entry: others may read it meanwhile."""
    for name in [name for name in found if name not in before and name not in left]:
        del found[name]
    for name, value in before.items():
        now = found.get(name, _NOTHING)
        moved = isinstance(now, Tensor) and isinstance(value, Tensor) and now.device != value.device
        if now is not value and not moved and name not in left:
            found[name] = value


def _narrow(weight: Tensor, dtype: torch.dtype) -> None:
    """Cast a weight back that was cast to a wider type, which lost nothing; the other way it would."""
    floating = weight.dtype.is_floating_point and dtype.is_floating_point
    if floating and torch.finfo(weight.dtype).bits > torch.finfo(dtype).bits:
        weight.data = weight.data.to(dtype)


_NOTHING = object()
