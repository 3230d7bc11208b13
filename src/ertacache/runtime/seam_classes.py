"""What a run puts on a scheduler: a subclass whose methods go through a seam, and a wrapper around a patched method."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ertacache.runtime.unwrap import inherited, own_class

Through = Callable[[Any, Callable[..., Any], Sequence[Any], Mapping[str, Any]], Any]
"""Gets an intercepted call as ``(object, method, args, kwargs)``, the method bound; usually calls it and returns."""


class SchedulerMeta(type):
    """The metaclass of a scheduler's subclass, which makes it equal to its base: some pipelines compare types."""

    def __eq__(cls, other: object) -> bool:
        return other is cls or other is getattr(cls, "_ertacache_class", cls)

    def __hash__(cls) -> int:
        return hash(getattr(cls, "_ertacache_class", type(cls)))


def seamed_subclass(thing: Any, through: Mapping[str, Through], **attributes: Any) -> type:
    """Make a subclass of an object's class that looks like it, and in which some methods are intercepted.

    Args:
        thing: the object, such as a scheduler.
        through: what gets the calls of each method, by the method's name.
        **attributes: further class attributes.
    """
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
    """Give ``method``, which also takes ``self``, the name and signature of a bound method."""
    functools.update_wrapper(method, bound)
    try:
        signature = inspect.signature(bound)
    except (TypeError, ValueError):  # written in C
        return method
    itself = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    looking: Any = method
    looking.__signature__ = signature.replace(parameters=[itself, *signature.parameters.values()])
    return method


class PatchedSeam:
    """Intercepts a method that is patched on an object: stands in the object's ``__dict__`` in its place.

    A deep copy of the object gets its own `PatchedSeam`, around a copy of the patched method.

    Args:
        thing: the object, such as a scheduler.
        patched: the patched method.
        through: gets its calls.
    """

    def __init__(self, thing: Any, patched: Callable[..., Any], through: Through) -> None:
        functools.update_wrapper(self, patched)
        self.thing, self.patched, self.through = thing, patched, through
        self._ertacache_beneath = patched  # for `ertacache.runtime.unwrap.patched_on`

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Pass the call on."""
        return self.through(self.thing, self.patched, args, kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> PatchedSeam:
        return PatchedSeam(copy.deepcopy(self.thing, memo), copy.deepcopy(self.patched, memo), self.through)
