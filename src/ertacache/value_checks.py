"""Checks of arguments: each returns the value in Python's own types, or raises an error that says what is expected.

All checks take a name and a value, so that they can be combined: ``each(whole)``. Numbers may be NumPy numbers or
tensors without axes; True and False are not numbers.
"""

from __future__ import annotations

import math
import os
import reprlib
from collections.abc import Callable, Collection, Mapping
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn import Module

from ertacache.errors import ArgumentError, ERTACacheError, PipelineError, PolicyFileError

Check = Callable[[str, Any], Any]
"""Takes the name and the value of an argument; returns the value in Python's own types, or raises `ArgumentError`."""

DEEPEST = 50
"""How many levels JSON data may have."""


def whole(name: str, value: Any, *, at_least: int | None = None, at_most: int | None = None) -> int:
    """Check a whole number, within bounds.

    Raises:
        ArgumentError: if it is not one.
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
    """Check a number, within bounds; infinity is allowed only if ``infinite``.

    Raises:
        ArgumentError: if it is not one.
    """
    plain = _number_of(value)
    known = plain is not None and not math.isnan(plain) and (infinite or not math.isinf(plain))
    if plain is None or not known or not _within(plain, at_least, at_most) or not (above is None or plain > above):
        raise refused(name, value, ("a number" if infinite else "a finite number") + _bounds(at_least, at_most, above))
    return plain


def flag(name: str, value: Any) -> bool:
    """Check True or False; 1 and 0 are accepted as well.

    Raises:
        ArgumentError: if it is neither.
    """
    plain = _plain(value)
    if type(plain) not in (bool, int) or plain not in (0, 1):
        raise refused(name, value, "True or False")
    return bool(plain)


def text(name: str, value: Any) -> str:
    """Check a string.

    Raises:
        ArgumentError: if it is not one.
    """
    if not isinstance(value, str):
        raise refused(name, value, "a string")
    return str(value)


def path(name: str, value: Any) -> Path:
    """Check the path of a file or folder, a string or a path object.

    Raises:
        ArgumentError: if it is not one, or has characters that no path can have.
    """
    plain = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(plain, str) or not _is_name(plain):
        raise refused(name, value, "the path of a file or folder, as a string or pathlib.Path")
    return Path(plain)


def anything(name: str, value: Any) -> Any:
    """Accept anything; for values that are checked elsewhere."""
    return value


def instance(kind: type, how: str) -> Check:
    """Make a check for objects of a class; ``how`` describes one, or says how to get one."""

    def check(name: str, value: Any) -> Any:
        if not isinstance(value, kind):
            raise refused(name, value, f"a {kind.__name__}, {how}")
        return value

    return check


def one_of(*values: Any) -> Check:
    """Make a check for one of these values, of the same type."""

    def check(name: str, value: Any) -> Any:
        plain = _plain(value)
        if not any(type(plain) is type(known) and plain == known for known in values):
            raise refused(name, value, f"one of {', '.join(map(repr, values))}")
        return plain

    return check


def optional(check: Check) -> Check:
    """Make a check that also accepts None."""
    return lambda name, value: None if value is None else check(name, value)


def each(check: Check) -> Check:
    """Make a check for a list, or another collection, of values that pass ``check``; it returns a tuple."""

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
    """Make a check for a dict from strings to values that pass ``check``."""

    def check_all(name: str, value: Any) -> dict[str, Any]:
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            raise refused(name, value, "a dict with strings as keys")
        return {str(key): check(f"{name}[{key!r}]", item) for key, item in value.items()}

    return check_all


def plain_json(name: str, value: Any, depth: int = DEEPEST) -> Any:
    """Check JSON data; numbers may be infinite or NaN, since nothing is calculated with them.

    Raises:
        ArgumentError: if it is something else, or deeper than ``depth`` levels.
    """
    if depth and isinstance(value, (list, tuple)):
        return [plain_json(name, item, depth - 1) for item in value]
    if depth and isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: plain_json(name, item, depth - 1) for key, item in value.items()}
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise refused(name, value, f"JSON data of at most {DEEPEST} levels")


def as_error(check: Check, error: Callable[..., ERTACacheError]) -> Check:
    """Make the same check raise an error of another class."""

    def checked_otherwise(name: str, value: Any) -> Any:
        try:
            return check(name, value)
        except ArgumentError as wrong:
            raise error(wrong.what, given=wrong.given, cure=wrong.cure) from None

    return checked_otherwise


def normalized(thing: Any, error: Callable[[str], ERTACacheError], /, **checks: Check) -> None:
    """Check the fields of a frozen dataclass, and set each to what its check returns.

    Args:
        thing: the object; called in its ``__post_init__``.
        error: makes the error to raise from a description of the problem.
        **checks: the check of each field, by name.
    """
    for name, check in checks.items():
        try:
            value = check(name, getattr(thing, name))
        except ArgumentError as wrong:
            raise error(f"{wrong.what}, but is {wrong.given}") from None
        object.__setattr__(thing, name, value)


def invalid(kind: str) -> Callable[[str], PolicyFileError]:
    """Make the ``error`` argument of `normalized` for a policy or one of its parts, named by ``kind``."""

    def error(problem: str) -> PolicyFileError:
        what = f"this is not a valid {kind}"
        return PolicyFileError(what, given=problem, cure="Make it with ertacache.calibrate().")

    return error


def pipeline(pipe: Any) -> None:
    """Raise `PipelineError` unless this is a pipeline: an object that can be called and has a scheduler."""
    if isinstance(pipe, type) or not callable(pipe) or not hasattr(pipe, "scheduler"):
        raise not_a_pipeline(pipe)


def not_a_pipeline(given: Any) -> PipelineError:
    """Make the error for what is not a pipeline; for a model, it says that the pipeline is wanted."""
    cure = "Pass a diffusers pipeline, or an object of your own that samples like one and has a scheduler."
    if isinstance(given, Module):
        cure = "Pass the pipeline, not its denoiser or another of its models: pipe, not pipe.transformer."
    name = given.__name__ if isinstance(given, type) else type(given).__name__
    return PipelineError("this is not a pipeline", given=name, cure=cure)


def refused(name: str, value: Any, wanted: str) -> ArgumentError:
    """Make the error for a value that is not what is expected."""
    return ArgumentError(f"{name} must be {wanted}", given=abbreviated(value), cure=f"Pass {wanted}.")


def abbreviated(value: Any) -> str:
    """Shorten a value for a message; unless it is a string, its type is added."""
    short = _short.repr(value)
    return short if isinstance(value, str) else f"{short}, of type {type(value).__name__}"


def _is_name(plain: str) -> bool:
    try:
        return b"\0" not in os.fsencode(plain)
    except UnicodeEncodeError:
        return False


def _plain(value: Any) -> Any:
    """Convert a NumPy or torch number to Python's own; leave anything else as it is."""
    if isinstance(value, (np.generic, np.ndarray, Tensor)) and value.ndim == 0:
        try:
            return value.item()
        except RuntimeError:  # a tensor on the meta device
            return value
    return value


def _number_of(value: Any) -> int | float | None:
    """Convert a number to Python's own; None if it is not a number, or larger than a float can hold."""
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
    if at_least is not None and at_most is not None:
        return f" from {at_least:g} to {at_most:g}"
    low = f" of {at_least:g} or more" if at_least is not None else f" over {above:g}" if above is not None else ""
    return low if at_most is None else f"{low}{' and' if low else ''} up to {at_most:g}"


_short = reprlib.Repr()
_short.maxstring = _short.maxother = 80
