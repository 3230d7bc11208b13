"""The options that `calibrate`, `profile` and `draft` share, checked before the first denoiser call."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ertacache import value_checks
from ertacache.method.schedule import MOST_STEPS
from ertacache.output_paths import checked_folder
from ertacache.runtime.call_signature import check_call_arguments

MEMORY_LIMIT = 2 << 30
"""The default size of all recordings, in bytes, above which they go to temporary files: 2 GiB."""


@dataclass(frozen=True)
class CalibrationOptions:
    """The options of a calibration, whatever its budget; see `ertacache.calibrate`.

    Args:
        num_inference_steps: T.
        seed: prompt k gets a generator seeded ``seed + k``, unless its dict has one.
        progress: show a progress bar.
        checkpoint: a folder in which full runs are kept; None to keep nothing.
        memory_limit: the size of all recordings, in bytes, above which they go to files.
        call_arguments: the arguments of every pipeline call, without the number of steps.
    """

    num_inference_steps: int
    seed: int = 0
    progress: bool = False
    checkpoint: Path | None = None
    memory_limit: float = MEMORY_LIMIT
    call_arguments: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def checked(
        cls,
        pipe: Any,
        num_inference_steps: int,
        call_arguments: Mapping[str, Any],
        *,
        seed: Any,
        progress: Any,
        checkpoint: str | os.PathLike[str] | None,
        memory_limit: Any,
    ) -> CalibrationOptions:
        """Check the options that a user gave, and convert them to Python's own types.

        Raises:
            ArgumentError: if an option has the wrong type, or a value that is not allowed.
            OutputError: if the checkpoint folder cannot be written to.
            PipelineError: if ``pipe`` is not a pipeline, or its call takes no such arguments.
        """
        value_checks.pipeline(pipe)
        check_call_arguments(pipe, call_arguments)
        wanted = checkpoint is not None and not (isinstance(checkpoint, str) and not checkpoint)
        return cls(
            num_inference_steps,
            checkpoint=checked_folder(value_checks.path("checkpoint", checkpoint)) if wanted else None,
            seed=value_checks.whole("seed", seed, at_least=-(1 << 63), at_most=(1 << 63) - 1),  # as generators take
            progress=value_checks.flag("progress", progress),
            memory_limit=value_checks.number("memory_limit", memory_limit, at_least=0, infinite=True),
            call_arguments=call_arguments,
        )

    @property
    def all_call_arguments(self) -> dict[str, Any]:
        """The arguments of every pipeline call, including the number of steps."""
        return {**self.call_arguments, "num_inference_steps": self.num_inference_steps}

    def keywords(self) -> dict[str, Any]:
        """Return all options as keyword arguments of `ertacache.calibrate`."""
        kept = ("seed", "progress", "checkpoint", "memory_limit")
        return {**self.all_call_arguments, **{name: getattr(self, name) for name in kept}}


def checked_steps(num_inference_steps: Any) -> int:
    """Check the number of inference steps.

    Raises:
        ArgumentError: if it is not a whole number, or out of range.
    """
    return value_checks.whole("num_inference_steps", num_inference_steps, at_least=1, at_most=MOST_STEPS)
