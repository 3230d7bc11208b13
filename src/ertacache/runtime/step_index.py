"""Find the index of the step that a scheduler is about to make."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def index_of(scheduler: Any, timestep: Any, expected: int | None) -> int:
    """Find the index of a step: the scheduler's ``step_index``, else its ``begin_index``, else the timestep's place.

    Args:
        scheduler: before the step.
        timestep: as the pipeline passes it to ``step``: a number, or a tensor with one or one for each sample.
        expected: the index if the step follows the previous one; None at the first step.
    """
    for name in ("step_index", "begin_index"):
        index = getattr(scheduler, name, None)
        if index is not None and (name == "step_index" or expected is None):
            return int(index)
    if isinstance(timestep, Tensor) and timestep.ndim:
        timestep = timestep.flatten()[0]  # there is one for each sample
    steps = torch.as_tensor(scheduler.timesteps)
    if expected is not None and expected < len(steps) and _is_place(timestep, steps, expected):
        return expected
    places = (steps == timestep).nonzero()
    return int(places[0]) if len(places) else expected or 0


def _is_place(timestep: Any, steps: Tensor, index: int) -> bool:
    """Whether the timestep has this index; first by its memory address, since reading it would wait for the device."""
    if isinstance(timestep, Tensor) and timestep.data_ptr() == steps[index].data_ptr():
        return True
    return bool(steps[index] == timestep)
