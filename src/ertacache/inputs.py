"""What the command line is given, checked before the work: prompts files, arguments of the call, the pipeline."""

from __future__ import annotations

import difflib
import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ertacache.errors import ArgumentError, PipelineError
from ertacache.untrusted_text import decoded, typed

if TYPE_CHECKING:  # what is wrong with paths and options is said before torch is waited for
    from ertacache.zoo import Embedded

_MOST_PROMPTS = 1 << 28
"""Bytes of a file."""
DTYPES = ("float32", "bfloat16", "float16")
_OWN = ("prompt", "num_inference_steps", "generator", "output_type")
"""The arguments that every command gives to the call."""
_KEPT = (*_OWN[:1], *_OWN[2:], "return_dict", "callback_on_step_end")
"""Those that ``--set`` cannot give: the commands rely on them."""


def prompts_of(file: Path | None, model: str) -> list[str]:
    """Those of a file, one a line; none for an embedded pipeline that is to use its own.

    Raises:
        ArgumentError: if there are none, or the file is not text.
        OSError: if it cannot be read.
    """
    if file is None:
        if model.startswith("zoo:"):
            return []
        raise ArgumentError("no prompts are given", given=model, cure="Pass --prompts FILE with one prompt a line.")
    with file.open("rb") as opened:
        content = opened.read(_MOST_PROMPTS + 1)
    if len(content) > _MOST_PROMPTS:  # a device has no end
        raise ArgumentError("the file is too large", given=file, cure="Give a text file, one prompt a line.")
    lines = decoded(content, str(file)).splitlines()
    found = [line.strip() for line in lines if line.strip()]
    if not found:
        raise ArgumentError("the file holds no prompts", given=file, cure="Write one prompt a line.")
    return found


def open_pipeline(
    model: str, device: str, dtype: str, settings: Sequence[str] | None, steps: int | None
) -> tuple[Any, dict[str, Any], Embedded | None]:
    """The pipeline, the arguments of its calls with ``num_inference_steps``, and the embedded pipeline if it is one.

    Raises:
        ArgumentError: on anything that cannot be used as it is given.
        PipelineError: if there is no such embedded pipeline, or the call does not take the arguments.
    """
    given = dict(setting(text) for text in settings or [])
    if dtype not in DTYPES:
        raise ArgumentError("there is no dtype of that name", given=dtype, cure=f"Choose one of {', '.join(DTYPES)}.")
    if steps is not None:
        if given.get("num_inference_steps", steps) != steps:
            raise ArgumentError(
                "two numbers of steps are given",
                given=f"{steps}, and --set num_inference_steps={given['num_inference_steps']}",
                cure="Leave the second one out.",
            )
        given["num_inference_steps"] = steps
    if not model.startswith("zoo:") and "num_inference_steps" not in given:
        raise ArgumentError("the number of steps is not given", given=model, cure="Pass --steps N.")
    _check_device(device)
    pipe, arguments, embedded = _loaded(model, device, dtype)
    check_arguments(pipe, given)
    return pipe, {**arguments, **given}, embedded


def _check_device(device: str) -> None:
    import torch

    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:  # no such device, or a build of PyTorch without it
        raise ArgumentError(
            f"the device {device!r} cannot be used here: {first_line(error)}",
            given=f"--device {device}",
            cure="Choose another: cpu works everywhere.",
        ) from error


def _loaded(model: str, device: str, dtype: str) -> tuple[Any, dict[str, Any], Embedded | None]:
    import torch

    from ertacache import zoo

    kind = getattr(torch, dtype)
    if model.startswith("zoo:"):
        embedded = zoo.load(model.removeprefix("zoo:"), dtype=kind, device=device)
        return embedded.pipe, embedded.arguments, embedded
    try:
        with zoo.quiet():
            pipe = zoo.pipeline_class(model).from_pretrained(model, dtype=kind)
        pipe.set_progress_bar_config(disable=True)
        return pipe.to(device), {}, None
    except Exception as error:  # a folder may hold anything, and its files may be damaged in any way
        raise ArgumentError(
            f"the model {model!r} cannot be loaded: {first_line(error)}",
            given=model,
            cure="Give a folder that holds a diffusers pipeline, a hub id, or zoo:flux.",
        ) from error


def check_arguments(pipe: Any, given: Mapping[str, Any]) -> None:
    """Refuse arguments that the pipeline's call does not take, and pipelines whose call needs others.

    Args:
        pipe: the pipeline.
        given: by ``--set``.

    Raises:
        PipelineError: saying which, and which come near.
    """
    kept = [name for name in given if name in _KEPT]
    if kept:
        raise PipelineError(
            f"the command itself gives {kept[0]!r} to the pipeline",
            given=f"--set {kept[0]}=...",
            cure="Leave it out; prompts and --seed have places of their own.",
        )
    named, takes = type(pipe).__name__, dict(inspect.signature(type(pipe).__call__).parameters)
    del takes[next(iter(takes))]  # self
    free = any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes.values())
    for name in () if free else (*given, *_OWN):
        if name not in takes:
            near = difflib.get_close_matches(name, takes, n=3)
            raise PipelineError(
                f"the call of this pipeline takes no {name!r}",
                given=f"{named}, --set {name}=..." if name in given else named,
                cure=f"Did you mean {' or '.join(near)}?" if near else f"It takes {', '.join(takes)}.",
            )
    for name, parameter in takes.items():
        needed = parameter.default is parameter.empty and "VAR" not in parameter.kind.name
        if needed and name not in given and name not in _OWN:
            raise PipelineError(
                f"the call of this pipeline needs {name!r}",
                given=named,
                cure=f"Pass --set {name}=VALUE, or call it from Python if that cannot be written here.",
            )


def setting(text: str) -> tuple[str, Any]:
    """The name and the value of a ``--set``: what JSON makes of it, or the text itself.

    >>> setting("true_cfg_scale=4"), setting("negative_prompt=blurred")
    (('true_cfg_scale', 4), ('negative_prompt', 'blurred'))
    """
    name, equals, value = typed(text).partition("=")
    if not equals or not name.isidentifier():
        raise ArgumentError("--set takes NAME=VALUE", given=text, cure="Give it like --set true_cfg_scale=4.")
    try:
        return name, json.loads(value, parse_constant=_no_number)
    except (ValueError, RecursionError):
        return name, value  # a plain string need not be quoted


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is none of JSON's")


def short_name(policy: str) -> str:
    """What tables call a policy: its file without the ending, its folder, or its repository without the owner."""
    path = Path(policy)
    return path.stem if path.suffix == ".safetensors" or path.is_file() else path.resolve().name


def first_line(error: BaseException) -> str:
    """What an error says, or else what it is called."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
