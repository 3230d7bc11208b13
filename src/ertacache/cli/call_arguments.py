"""Arguments of the pipeline call from ``--set NAME=VALUE``: parsed, and checked against the call's signature."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from typing import Any

from ertacache.errors import ArgumentError, PipelineError
from ertacache.untrusted_text import typed

_GIVEN_BY_COMMANDS = ("prompt", "num_inference_steps", "generator", "output_type")
"""The arguments that every command gives to the call."""
RESERVED = ("prompt", "generator", "output_type", "return_dict", "callback_on_step_end")
"""Those that neither ``--set`` nor a single prompt can give otherwise, because the commands rely on them."""


def parse_setting(text: str) -> tuple[str, Any]:
    """Split ``NAME=VALUE``; the value is read as JSON if it is JSON, and is a plain string otherwise.

    >>> parse_setting("true_cfg_scale=4"), parse_setting("negative_prompt=blurred")
    (('true_cfg_scale', 4), ('negative_prompt', 'blurred'))
    """
    name, equals, value = typed(text).partition("=")
    if not equals or not name.isidentifier():
        raise ArgumentError("--set takes NAME=VALUE", given=text, cure="Give it like --set true_cfg_scale=4.")
    try:
        return name, json.loads(value, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return name, value  # a plain string need not be quoted


def check_arguments(pipe: Any, given: Mapping[str, Any], *, complete: bool = True) -> None:
    """Refuse arguments that the pipeline's call does not take, and pipelines that need arguments not given.

    Args:
        pipe: the pipeline.
        given: the arguments of ``--set``, by name.
        complete: whether a call will be made of them.

    Raises:
        PipelineError: naming the argument, and similar names if there are any.
    """
    reserved = [name for name in given if name in RESERVED]
    if reserved:
        raise PipelineError(
            f"the command itself gives {reserved[0]!r} to the pipeline",
            given=f"--set {reserved[0]}=...",
            cure="Leave it out; the prompt and the seed have their own arguments.",
        )
    from ertacache.runtime.call_signature import CallSignature

    signature = CallSignature.of(pipe)
    signature.check(given, type(pipe).__name__)
    for name, default in signature.defaults.items() if complete else ():
        if default is inspect.Parameter.empty and name not in given and name not in _GIVEN_BY_COMMANDS:
            raise PipelineError(
                f"the call of this pipeline needs {name!r}",
                given=type(pipe).__name__,
                cure="Pass --image FILE."
                if name == "image"
                else f"Pass --set {name}=VALUE, or call the pipeline from Python if a shell cannot express the value.",
            )


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")
