"""Opening the pipeline that a command is given, with the arguments of its calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ertacache.cli.call_arguments import check_arguments, parse_setting
from ertacache.cli.console import notes, say
from ertacache.cli.model_source import AUTO, ModelSource
from ertacache.errors import ArgumentError

if TYPE_CHECKING:  # wrong paths and options are reported before torch is imported
    from ertacache.zoo import Embedded


@dataclass(frozen=True)
class Opened:
    """A pipeline that is loaded.

    Args:
        source: where it came from, its device and dtype chosen.
        pipe: the pipeline.
        arguments: of its calls; with ``num_inference_steps``, if the command will call it.
        embedded: the small pipeline with its prompts, if it is one.
    """

    source: ModelSource
    pipe: Any
    arguments: dict[str, Any]
    embedded: Embedded | None

    def shared_by(self, workers: Any) -> Any:
        """The pipeline, or what loads it in each of the workers, if there are any."""
        return self.pipe if workers is None else self.source.pipeline


def open_pipeline(
    source: ModelSource,
    settings: Sequence[str] | None,
    steps: int | None,
    image: Any = None,
    *,
    makes_calls: bool = True,
) -> Opened:
    """Check the options, load a pipeline, and say in one line what was chosen where the options leave it open.

    Args:
        source: where the pipeline comes from.
        settings: arguments of the call, each ``NAME=VALUE``.
        steps: ``num_inference_steps``; None for that of ``settings``, of the small pipeline, or else the default of
            the pipeline's ``__call__``.
        image: the picture that every call begins with, or None.
        makes_calls: whether the command will call the pipeline, so that the number of steps and all arguments that
            its calls need must be there.

    Raises:
        ArgumentError: if an option cannot be used, or the model cannot be loaded.
        PipelineError: if there is no such small pipeline, or the call does not take the arguments.
    """
    given = dict(parse_setting(text) for text in settings or [])
    if steps is not None:
        if given.get("num_inference_steps", steps) != steps:
            raise ArgumentError(
                "two numbers of steps are given",
                given=f"{steps}, and --set num_inference_steps={given['num_inference_steps']}",
                cure="Leave the second one out.",
            )
        given["num_inference_steps"] = steps
    chosen = source.chosen()
    pipe, arguments, embedded = chosen.load()
    pictured = {} if image is None else {"image": image}
    check_arguments(pipe, {**given, **pictured}, complete=makes_calls)
    call = {**arguments, **given, **pictured}
    if makes_calls and "num_inference_steps" not in call:
        call["num_inference_steps"] = _usual_steps(pipe)
    _say_what_was_chosen(source, chosen, call if makes_calls and "num_inference_steps" not in given else None)
    return Opened(chosen, pipe, call, embedded)


def _usual_steps(pipe: Any) -> int:
    from ertacache.runtime.call_signature import CallSignature

    usual = CallSignature.of(pipe).defaults.get("num_inference_steps")
    if not isinstance(usual, int):
        raise ArgumentError(
            "the number of steps is not given, and this pipeline has no default",
            given=type(pipe).__name__,
            cure="Pass --steps N.",
        )
    return usual


def _say_what_was_chosen(asked: ModelSource, chosen: ModelSource, call: Mapping[str, Any] | None) -> None:
    """Name what no option gave.

    Args:
        asked: the source as the options name it.
        chosen: the same with device and dtype.
        call: the arguments of the calls, if the number of steps among them is the pipeline's own.
    """
    found = {}
    if asked.device == AUTO:
        found["--device"] = chosen.device
    if asked.dtype == AUTO:
        found["--dtype"] = chosen.dtype
    if call is not None:
        found["--steps"] = f"{call['num_inference_steps']} steps, the pipeline's default"
    if found:
        say(f"chosen here: {', '.join(found.values())} (otherwise: {', '.join(found)})", to=notes, soft_wrap=True)
