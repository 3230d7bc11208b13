"""Opening the pipeline that a command is given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ertacache.cli.call_arguments import check_arguments, parse_setting
from ertacache.cli.one_line_errors import first_line
from ertacache.errors import ArgumentError

if TYPE_CHECKING:  # wrong paths and options are reported before torch is imported
    from ertacache.zoo import Embedded

DTYPES = ("float32", "bfloat16", "float16")


def open_pipeline(
    model: str,
    device: str,
    dtype: str,
    settings: Sequence[str] | None,
    steps: int | None,
    *,
    makes_calls: bool = True,
) -> tuple[Any, dict[str, Any], Embedded | None]:
    """Check the options, then load a pipeline.

    Args:
        model: a diffusers folder, a Hub id, or ``zoo:`` and the name of a small pipeline.
        device: where to run.
        dtype: of the weights, one of `DTYPES`.
        settings: arguments of the call, each ``NAME=VALUE``.
        steps: ``num_inference_steps``; None if ``settings`` gives it, or the model is a small pipeline.
        makes_calls: whether the command will call the pipeline, so that the number of steps and all arguments that
            its calls need must be there.

    Returns:
        The pipeline; the arguments of its calls, with ``num_inference_steps`` if it is known; and the small pipeline
        with its prompts, if the model is one.

    Raises:
        ArgumentError: if an option cannot be used, or the model cannot be loaded.
        PipelineError: if there is no such small pipeline, or the call does not take the arguments.
    """
    given = dict(parse_setting(text) for text in settings or [])
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
    if makes_calls and not model.startswith("zoo:") and "num_inference_steps" not in given:
        raise ArgumentError("the number of steps is not given", given=model, cure="Pass --steps N.")
    _check_device(device)
    pipe, arguments, embedded = load_pipeline(model, device, dtype)
    check_arguments(pipe, given, complete=makes_calls)
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


def load_pipeline(model: str, device: str, dtype: str) -> tuple[Any, dict[str, Any], Embedded | None]:
    """Load a pipeline; see `open_pipeline`."""
    import torch

    from ertacache import zoo
    from ertacache.runtime.repeatable_call import silence
    from ertacache.runtime.unwrap import is_modular

    torch_dtype = getattr(torch, dtype)
    if model.startswith("zoo:"):
        embedded = zoo.load(model.removeprefix("zoo:"), dtype=torch_dtype, device=device)
        return embedded.pipe, embedded.arguments, embedded
    try:
        with zoo.quiet():
            pipe = zoo.pipeline_class(model).from_pretrained(model, dtype=torch_dtype)
            if is_modular(pipe):
                pipe.load_components(dtype=torch_dtype)
        silence(pipe)
        return pipe.to(device), {}, None
    except Exception as error:  # a folder may hold anything, and its files may be damaged in any way
        raise ArgumentError(
            f"the model {model!r} cannot be loaded: {first_line(error)}",
            given=model,
            cure="Give a folder that holds a diffusers pipeline, a Hub id, or zoo:emoji.",
        ) from error
