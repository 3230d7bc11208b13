"""What is given, checked: each check returns the value in Python's own types, or says what was wanted.

All checks take a name and a value, so that one can be made of others: ``each(whole)``. Numbers may be numpy's, or
tensors without an axis; True and False are no numbers.
"""

from __future__ import annotations

import difflib
import inspect
import math
import os
import reprlib
from collections.abc import Callable, Collection, Iterable, Mapping
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ertacache.errors import ArgumentError, ERTACacheError, PipelineError, PolicyFileError

Check = Callable[[str, Any], Any]
"""A name and a value; what to take for it."""

DEEPEST = 50
"""How many levels JSON may have."""


def whole(name: str, value: Any, *, at_least: int | None = None, at_most: int | None = None) -> int:
    """A whole number within these bounds.

    Raises:
        ArgumentError: if it is none.
    """
    plain = _number_of(value)
    if not isinstance(plain, int) or not _within(plain, at_least, at_most):
        raise refused(name, value, "a whole number" + _bounds(at_least, at_most))
    return plain


def number(
    name: str,
    value: Any,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    above: float | None = None,
    infinite: bool = False,
) -> float:
    """A number within these bounds; finite, unless it may be infinite.

    Raises:
        ArgumentError: if it is none.
    """
    plain = _number_of(value)
    known = plain is not None and not math.isnan(plain) and (infinite or not math.isinf(plain))
    if plain is None or not known or not _within(plain, at_least, at_most) or not (above is None or plain > above):
        raise refused(name, value, ("a number" if infinite else "a finite number") + _bounds(at_least, at_most, above))
    return plain


def flag(name: str, value: Any) -> bool:
    """True or False, which 1 and 0 are too.

    Raises:
        ArgumentError: if it is neither.
    """
    plain = _plain(value)
    if type(plain) not in (bool, int) or plain not in (0, 1):
        raise refused(name, value, "True or False")
    return bool(plain)


def text(name: str, value: Any) -> str:
    """A text.

    Raises:
        ArgumentError: if it is none.
    """
    if not isinstance(value, str):
        raise refused(name, value, "a text")
    return str(value)


def path(name: str, value: Any) -> Path:
    """A path, as text or as an object that stands for one.

    Raises:
        ArgumentError: if it is none, or one that no system takes.
    """
    plain = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(plain, str) or not _is_name(plain):
        raise refused(name, value, "the path of a file or folder, as text or pathlib.Path")
    return Path(plain)


def anything(name: str, value: Any) -> Any:
    """Whatever it is; for what is checked elsewhere."""
    return value


def instance(kind: type, how: str) -> Check:
    """A check for objects of this class; ``how`` says how to come by one."""

    def check(name: str, value: Any) -> Any:
        if not isinstance(value, kind):
            raise refused(name, value, f"a {kind.__name__}, {how}")
        return value

    return check


def one_of(*values: Any) -> Check:
    """A check for one of these, of the same type."""

    def check(name: str, value: Any) -> Any:
        plain = _plain(value)
        if not any(type(plain) is type(known) and plain == known for known in values):
            raise refused(name, value, f"one of {', '.join(map(repr, values))}")
        return plain

    return check


def optional(check: Check) -> Check:
    """A check that takes None as well."""
    return lambda name, value: None if value is None else check(name, value)


def each(check: Check) -> Check:
    """A check for a list, or anything like one that has a length, of such values; it returns a tuple."""

    def check_all(name: str, value: Any) -> tuple[Any, ...]:
        if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Collection):
            raise refused(name, value, "a list")
        try:
            items = tuple(value)
        except TypeError:  # an array without an axis
            raise refused(name, value, "a list") from None
        return tuple(check(f"{name}[{k}]", item) for k, item in enumerate(items))

    return check_all


def mapping(check: Check) -> Check:
    """A check for a mapping from texts to such values; it returns a dict."""

    def check_all(name: str, value: Any) -> dict[str, Any]:
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            raise refused(name, value, "a mapping from texts")
        return {str(key): check(f"{name}[{key!r}]", item) for key, item in value.items()}

    return check_all


def plain_json(name: str, value: Any, depth: int = DEEPEST) -> Any:
    """What JSON can say, not too deep; numbers may be infinite or none, since nothing is calculated with them.

    Raises:
        ArgumentError: if it is something else.
    """
    if depth and isinstance(value, (list, tuple)):
        return [plain_json(name, item, depth - 1) for item in value]
    if depth and isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: plain_json(name, item, depth - 1) for key, item in value.items()}
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise refused(name, value, f"what JSON can say, {DEEPEST} levels deep at most")


def as_error(check: Check, error: Callable[..., ERTACacheError]) -> Check:
    """The same check with an error of another class."""

    def checked_otherwise(name: str, value: Any) -> Any:
        try:
            return check(name, value)
        except ArgumentError as wrong:
            raise error(wrong.what, given=wrong.given, cure=wrong.cure) from None

    return checked_otherwise


def normalized(thing: Any, error: Callable[[str], ERTACacheError], /, **checks: Check) -> None:
    """Check the fields of a frozen dataclass, and have each hold what its check returns.

    Args:
        thing: the dataclass, in its ``__post_init__``.
        error: makes the error of what is wrong.
        **checks: by name of the field.
    """
    for name, check in checks.items():
        try:
            value = check(name, getattr(thing, name))
        except ArgumentError as wrong:
            raise error(f"{wrong.what}, and is {wrong.given}") from None
        object.__setattr__(thing, name, value)


def invalid(kind: str) -> Callable[[str], PolicyFileError]:
    """What `normalized` raises for a policy and its parts: it names the problem, and how to make a valid one."""

    def error(problem: str) -> PolicyFileError:
        what = f"this is not a valid {kind}"
        return PolicyFileError(what, given=problem, cure="Make it with ertacache.calibrate().")

    return error


def pipeline(pipe: Any) -> None:
    """Raise `PipelineError` where this is none: nothing to call, or without a scheduler."""
    if isinstance(pipe, type) or not callable(pipe) or not hasattr(pipe, "scheduler"):
        raise PipelineError(
            "this is not a pipeline",
            given=pipe.__name__ if isinstance(pipe, type) else type(pipe).__name__,
            cure="Pass a diffusers pipeline, or a class of your own that samples like one and has a scheduler.",
        )


def call_arguments(kind: type, names: Iterable[str]) -> None:
    """Raise `PipelineError` where the call of this class of pipelines takes no argument of such a name."""
    takes = dict(list(inspect.signature(kind.__call__).parameters.items())[1:])
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes.values()):
        return
    for name in names:
        if name not in takes:
            near = difflib.get_close_matches(name, takes, n=3)
            raise PipelineError(
                f"the call of this pipeline takes no {name!r}",
                given=kind.__name__,
                cure=f"Did you mean {' or '.join(near)}?" if near else f"It takes {', '.join(takes)}.",
            )


def refused(name: str, value: Any, wanted: str) -> ArgumentError:
    """The error of a value that is not what was wanted."""
    return ArgumentError(f"{name} must be {wanted}", given=abbreviated(value), cure=f"Pass {wanted}.")


def abbreviated(value: Any) -> str:
    """A value as errors show it: short, and with its type unless it is a text."""
    shown = _shown.repr(value)
    return shown if isinstance(value, str) else f"{shown}, of type {type(value).__name__}"


def _is_name(plain: str) -> bool:
    try:
        return b"\0" not in os.fsencode(plain)
    except UnicodeEncodeError:
        return False


def _plain(value: Any) -> Any:
    """A number of numpy's or torch's as Python's own; anything else as it is."""
    if isinstance(value, (np.generic, np.ndarray, Tensor)) and value.ndim == 0:
        try:
            return value.item()
        except RuntimeError:  # a tensor that is nowhere
            return value
    return value


def _number_of(value: Any) -> int | float | None:
    """A number as Python's own, or None; one beyond what a float holds is none."""
    plain = _plain(value)
    if isinstance(plain, bool) or not isinstance(plain, (int, Real)):
        return None
    try:
        as_float = float(plain)
    except OverflowError:
        return None
    return int(plain) if isinstance(plain, int) else as_float


def _within(value: float, at_least: float | None, at_most: float | None) -> bool:
    return (at_least is None or value >= at_least) and (at_most is None or value <= at_most)


def _bounds(at_least: float | None, at_most: float | None, above: float | None = None) -> str:
    low = f" of {at_least:g} or more" if at_least is not None else f" over {above:g}" if above is not None else ""
    return low if at_most is None else f"{low}{' and' if low else ''} up to {at_most:g}"


_shown = reprlib.Repr()
_shown.maxstring = _shown.maxother = 80
