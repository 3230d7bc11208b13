"""The arguments that a call of a pipeline takes, with their defaults: of its ``__call__``, or of its modular blocks."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ertacache.errors import PipelineError
from ertacache.runtime.unwrap import is_modular, own_class


@dataclass(frozen=True)
class CallSignature:
    """The arguments of a pipeline's calls.

    Args:
        defaults: by name; ``inspect.Parameter.empty`` for an argument that must be given.
        takes_any: whether calls take arguments of other names as well.
    """

    defaults: Mapping[str, Any]
    takes_any: bool

    @classmethod
    def of(cls, pipe: Any) -> CallSignature:
        """Read it off a pipeline; a modular one takes what its blocks take."""
        if is_modular(pipe):
            inputs = pipe.blocks.inputs  # of a copy: asking some blocks changes them
            groups = {param.kwargs_type: None for param in inputs if param.kwargs_type is not None}
            named = {param.name: param.default for param in inputs if param.name is not None}  # blocks check the rest
            return cls({**groups, **named, "output": None, "state": None}, False)
        parameters = list(inspect.signature(own_class(pipe).__call__).parameters.values())[1:]
        kinds = {parameter.kind for parameter in parameters}
        named = {p.name: p.default for p in parameters if "VAR" not in p.kind.name}
        return cls(named, inspect.Parameter.VAR_KEYWORD in kinds)

    def __contains__(self, name: str) -> bool:
        """Whether calls have an argument of this name."""
        return name in self.defaults

    def takes(self, name: str) -> bool:
        """Whether calls take an argument of this name, be it unnamed in the signature."""
        return self.takes_any or name in self.defaults

    def check(self, names: Iterable[str], pipeline: str) -> None:
        """Raise `PipelineError` if calls take no argument of one of these names.

        Args:
            names: the names.
            pipeline: the name of the pipeline's class, for the message.
        """
        for name in names:
            if not self.takes(name):
                near = difflib.get_close_matches(name, self.defaults, n=3)
                raise PipelineError(
                    f"a call of this pipeline takes no {name!r}",
                    given=pipeline,
                    cure=f"Did you mean {' or '.join(near)}?" if near else f"It takes {', '.join(self.defaults)}.",
                )


def check_call_arguments(pipe: Any, names: Iterable[str]) -> None:
    """Raise `PipelineError` if calls of a pipeline take no argument of one of these names."""
    CallSignature.of(pipe).check(names, own_class(pipe).__name__)


def given_arguments(pipe: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Name the arguments of a call.

    Args:
        pipe: the pipeline.
        args: the positional arguments of the call.
        kwargs: the keyword arguments of the call.

    Raises:
        TypeError: if the pipeline's call cannot be called so.
    """
    signature = inspect.signature(own_class(pipe).__call__)
    bound = dict(signature.bind_partial(pipe, *args, **kwargs).arguments)
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            bound |= bound.pop(name, {})
    del bound[next(iter(signature.parameters))]  # self
    return bound


def all_arguments(pipe: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Name the arguments of a call, defaults included; see `given_arguments`."""
    defaults = CallSignature.of(pipe).defaults
    known = {name: value for name, value in defaults.items() if value is not inspect.Parameter.empty}
    return known | given_arguments(pipe, args, kwargs)
