"""What stands beneath, and what is put on top for a run: classes and methods, and the model under ``torch.compile``."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

Through = Callable[[Any, Callable[..., Any], Sequence[Any], Mapping[str, Any]], Any]
"""Who is told of a call at a seam: ``(thing, method, args, kwargs)``, the method bound, to be called through."""


def own_class(thing: object) -> type:
    """The class of a pipeline or scheduler without what this library put on top of it."""
    return getattr(type(thing), "_ertacache_class", type(thing))


def set_class(thing: object, kind: type) -> None:
    """Change the class of an object, also of one that hands on what is assigned to it."""
    object.__setattr__(thing, "__class__", kind)


def model_of(module: nn.Module) -> Any:
    """The module itself where ``torch.compile`` has wrapped it."""
    return getattr(module, "_orig_mod", module)


class SchedulerMeta(type):
    """The metaclass of a scheduler's subclass, which equals the class it stands on: some pipelines compare types."""

    def __eq__(cls, other: object) -> bool:
        return other is cls or other is getattr(cls, "_ertacache_class", cls)

    def __hash__(cls) -> int:
        return hash(getattr(cls, "_ertacache_class", type(cls)))


def seamed_subclass(thing: Any, through: Mapping[str, Through], **attributes: Any) -> type:
    """A subclass of the thing's class that looks like it, and whose methods of these names go through a seam."""
    own: Any = own_class(thing)

    def beneath(self: Any, name: str) -> Any:
        try:
            return getattr(super(subclass, self), name)
        except AttributeError:
            return own.__getattr__(self, name)

    def seam(name: str, seen: Through) -> Callable[..., Any]:
        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            return seen(self, beneath(self, name), args, kwargs)

        return _looking_like(inherited(thing, name)[0], method)

    body: dict[str, Any] = {"_ertacache_class": own, **attributes}
    body |= {"__module__": own.__module__, "__qualname__": own.__qualname__, "__doc__": own.__doc__}
    body |= {name: seam(name, seen) for name, seen in through.items() if inherited(thing, name)}
    kind: type = SchedulerMeta
    if type(own) is not type:  # it has a metaclass of its own
        kind = type("SchedulerMeta", (SchedulerMeta, type(own)), {})
    subclass: type = kind(own.__name__, (own,), body)
    return subclass


def _looking_like(bound: Callable[..., Any], method: Callable[..., Any]) -> Callable[..., Any]:
    """``method``, which takes the object as well, with the name and the signature of a bound one."""
    functools.update_wrapper(method, bound)
    try:
        shown = inspect.signature(bound)
    except (TypeError, ValueError):  # written in C
        return method
    itself = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    looking: Any = method
    looking.__signature__ = shown.replace(parameters=[itself, *shown.parameters.values()])
    return method


class PatchedSeam:
    """Stands in an object's ``__dict__`` in place of a method that was patched there, and calls that through.

    A copy of the object has a seam of its own, around what it would have there without one.
    """

    def __init__(self, thing: Any, patched: Callable[..., Any], through: Through) -> None:
        functools.update_wrapper(self, patched)
        self.thing, self.patched, self.through = thing, patched, through

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the patched method does, seen through the seam."""
        return self.through(self.thing, self.patched, args, kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> PatchedSeam:
        return PatchedSeam(copy.deepcopy(self.thing, memo), copy.deepcopy(self.patched, memo), self.through)


def patched_on(thing: Any, name: str) -> Callable[..., Any] | None:
    """What stands in the place of a method on the object itself, without a seam; None if nothing does."""
    found = getattr(thing, "__dict__", {}).get(name)
    return found.patched if isinstance(found, PatchedSeam) else found


def methods(thing: Any, name: str) -> list[Callable[..., Any]]:
    """All methods of one name, bound, from the one that is called to the last one that it may hand on to."""
    patched = patched_on(thing, name)
    return [*([] if patched is None else [patched]), *inherited(thing, name)]


def inherited(thing: Any, name: str) -> list[Callable[..., Any]]:
    """Those that an object has of its own class, or of whatever that hands on to, bound and without a seam."""
    own: Any = own_class(thing)
    found = [vars(base)[name] for base in own.__mro__ if name in vars(base)]
    if found:
        return [method.__get__(thing, own) if hasattr(method, "__get__") else method for method in found]
    handed_on = getattr(own, "__getattr__", None)  # a wrapper may pass on what it does not have
    try:
        return [] if handed_on is None else [handed_on(thing, name)]
    except AttributeError:
        return []
