"""What `calibrate`, `profile` and `draft` take alike, checked before the first denoiser call."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ertacache import value_checks
from ertacache.method.schedule import MOST_STEPS
from ertacache.output_paths import checked_folder
from ertacache.runtime.unwrap import own_class

MEMORY_LIMIT = 2 << 30
"""In bytes: above it, recordings go to files."""


@dataclass(frozen=True)
class CalibrationOptions:
    """How a calibration runs, whatever its budget; see `ertacache.calibrate`.

    Args:
        num_inference_steps: T.
        seed: prompt k gets a generator seeded ``seed + k``, unless its dict brings one.
        progress: show a progress bar.
        checkpoint: a folder in which full runs are kept; None to keep nothing.
        memory_limit: bytes; larger recordings go to files.
        call_arguments: go to every pipeline call, the number of steps apart.
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
        """The options as users give them, in Python's own types.

        Raises:
            ArgumentError: if one has another type, or a value that it cannot have.
            OutputError: if nothing can be written to the checkpoint.
            PipelineError: if ``pipe`` is no pipeline, or its call takes no such arguments.
        """
        value_checks.pipeline(pipe)
        value_checks.call_arguments(own_class(pipe), call_arguments)
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
        """The arguments of every pipeline call, the number of steps among them."""
        return {**self.call_arguments, "num_inference_steps": self.num_inference_steps}

    def keywords(self) -> dict[str, Any]:
        """All of it as `ertacache.calibrate` takes it."""
        kept = ("seed", "progress", "checkpoint", "memory_limit")
        return {**self.all_call_arguments, **{name: getattr(self, name) for name in kept}}


def checked_steps(num_inference_steps: Any) -> int:
    """A number of steps.

    Raises:
        ArgumentError: if it is none.
    """
    return value_checks.whole("num_inference_steps", num_inference_steps, at_least=1, at_most=MOST_STEPS)
