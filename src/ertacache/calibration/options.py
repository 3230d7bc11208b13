"""What `calibrate`, `profile` and `draft` take alike, checked before the first denoiser call."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from ertacache import arguments
from ertacache.method.schedule import MOST_STEPS
from ertacache.output_paths import checked_folder
from ertacache.runtime.unwrap import own_class


class Options(TypedDict):
    """See `ertacache.calibrate`."""

    seed: int
    progress: bool
    checkpoint: Path | None
    memory_limit: float


def checked_steps(num_inference_steps: Any) -> int:
    """A number of steps.

    Raises:
        ArgumentError: if it is none.
    """
    return arguments.whole("num_inference_steps", num_inference_steps, at_least=1, at_most=MOST_STEPS)


def checked(
    pipe: Any,
    call_arguments: Mapping[str, Any],
    *,
    seed: Any,
    progress: Any,
    checkpoint: str | os.PathLike[str] | None,
    memory_limit: Any,
) -> Options:
    """The options in Python's own types.

    Raises:
        ArgumentError: if one has another type, or a value that it cannot have.
        OutputError: if nothing can be written to the checkpoint.
        PipelineError: if ``pipe`` is no pipeline, or its call takes no such arguments.
    """
    arguments.pipeline(pipe)
    arguments.call_arguments(own_class(pipe), call_arguments)
    wanted = checkpoint is not None and not (isinstance(checkpoint, str) and not checkpoint)
    folder = checked_folder(arguments.path("checkpoint", checkpoint)) if wanted else None
    return {
        "seed": arguments.whole("seed", seed, at_least=-(1 << 63), at_most=(1 << 63) - 1),  # as generators take
        "progress": arguments.flag("progress", progress),
        "checkpoint": folder,
        "memory_limit": arguments.number("memory_limit", memory_limit, at_least=0, infinite=True),
    }
