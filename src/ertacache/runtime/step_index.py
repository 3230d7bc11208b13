"""Which step of its grid a scheduler is about to make."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def index_of(scheduler: Any, timestep: Any, expected: int | None) -> int:
    """The step index as the scheduler knows it: its own, else where it begins, else the place of the timestep."""
    for name in ("step_index", "begin_index"):
        index = getattr(scheduler, name, None)
        if index is not None and (name == "step_index" or expected is None):
            return int(index)
    if isinstance(timestep, Tensor) and timestep.ndim:
        timestep = timestep.flatten()[0]  # one for each sample
    steps = torch.as_tensor(scheduler.timesteps)
    if expected is not None and expected < len(steps) and _is_place(timestep, steps, expected):
        return expected
    places = (steps == timestep).nonzero()
    return int(places[0]) if len(places) else expected or 0


def _is_place(timestep: Any, steps: Tensor, index: int) -> bool:
    """Whether it is the timestep of this index; told by where it lies, since to read it would wait for the device."""
    if isinstance(timestep, Tensor) and timestep.data_ptr() == steps[index].data_ptr():
        return True
    return bool(steps[index] == timestep)
