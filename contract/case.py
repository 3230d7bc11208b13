"""One tiny pipeline, and how it is called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import signature
from typing import Any

import numpy as np
import torch
from torch import Tensor

STEPS = 8

Call = Callable[[], dict[str, Any]]


@dataclass(frozen=True)
class Case:
    """A pipeline and its calls, without the number of steps, the generator and the kind of output.

    Args:
        build: the pipeline, with weights of its own that are always the same.
        call: the arguments of one call; anew each time, since pipelines change what they are given.
        others: calls of another batch size, resolution, or guidance.
        output_type: what can be compared: the latents, where the pipeline gives them out; empty where it is not asked.
        made: how many steps the scheduler makes of `STEPS`.
    """

    build: Callable[[], Any]
    call: Call
    others: tuple[Call, ...] = ()
    output_type: str = "latent"
    made: int = STEPS


class Family:
    """A case, built.

    Attributes:
        pipe: the pipeline.
        case: what it was built of.
    """

    def __init__(self, case: Case) -> None:
        self.pipe, self.case = case.build(), case
        if hasattr(self.pipe, "set_progress_bar_config"):
            self.pipe.set_progress_bar_config(disable=True)

    def arguments(self, seed: int = 0, call: Call | None = None) -> dict[str, Any]:
        """The arguments of a call with a generator of this seed."""
        return {**(call or self.case.call)(), "generator": torch.Generator().manual_seed(seed)}

    def run(self, seed: int = 0, call: Call | None = None) -> Tensor:
        """The output of one call."""
        return tensor_of(self.pipe(**self.all_arguments(seed, call)))

    def all_arguments(self, seed: int = 0, call: Call | None = None) -> dict[str, Any]:
        """The same arguments, with the number of steps and the kind of output."""
        arguments = self.arguments(seed, call)
        if self._is_asked_for_steps():
            arguments["num_inference_steps"] = STEPS
        if self.case.output_type:
            arguments["output_type"] = self.case.output_type
        return arguments

    def _is_asked_for_steps(self) -> bool:
        """Whether the pipeline takes a number of steps; some take a list of noise levels only."""
        taken = signature(self.pipe.__call__).parameters.values()
        return any(one.name == "num_inference_steps" or one.kind is one.VAR_KEYWORD for one in taken)


def tensor_of(output: Any) -> Tensor:
    """The first tensor or array in what a pipeline returned; of a list, all in one; with sound, both in a row."""
    sound = getattr(output, "audio", None)
    if isinstance(output, Mapping) and sound is None:  # what a modular pipeline was asked for
        values = list(output.values())
    else:
        values = [output if isinstance(output, (Tensor, np.ndarray)) else output[0], sound]
    parts = [_joined(value) for value in values if value is not None]
    return parts[0] if len(parts) == 1 else torch.cat([part.flatten() for part in parts])


def _joined(value: Any) -> Tensor:
    if isinstance(value, (list, tuple)):
        return torch.stack([torch.as_tensor(np.asarray(item)) for item in value])
    return torch.as_tensor(value)
