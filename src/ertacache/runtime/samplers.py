"""What the runtime must know of a scheduler: its noise levels, how to retime it, how it depends on the model output.

One row of `SAMPLERS` for each scheduler class; a subclass is served by its base's row.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ertacache.errors import PipelineError
from ertacache.method.timesteps import warp
from ertacache.runtime.seams import own_class


@dataclass(frozen=True)
class Sampler:
    """One scheduler class, as the method sees it.

    Args:
        noise_levels: the T + 1 levels of the grid that ``set_timesteps`` has just laid, the terminal one included.
        retime: put T + 1 other levels in their place, keeping length, dtype and device.
        refusal: why a configuration of this scheduler cannot be served, or None.
    """

    noise_levels: Callable[[Any], list[float]]
    retime: Callable[[Any, Sequence[float]], None]
    refusal: Callable[[Any], str | None]


def _flow_levels(scheduler: Any) -> list[float]:
    return [float(sigma) for sigma in scheduler.sigmas]


def _retime_flow_euler(scheduler: Any, levels: Sequence[float]) -> None:
    old = scheduler.sigmas
    new = torch.from_numpy(np.asarray(levels, dtype=np.float64)).to(dtype=old.dtype, device=old.device)
    scheduler.sigmas = new
    steps = scheduler.timesteps
    scheduler.timesteps = (new[:-1] * scheduler.config.num_train_timesteps).to(dtype=steps.dtype, device=steps.device)


def _flow_refusal(scheduler: Any) -> str | None:
    if scheduler.config.get("stochastic_sampling"):
        return "stochastic_sampling=True draws new noise at every step"
    return None


SAMPLERS: dict[str, Sampler] = {
    "FlowMatchEulerDiscreteScheduler": Sampler(_flow_levels, _retime_flow_euler, _flow_refusal),
}


def sampler_of(scheduler: Any) -> Sampler:
    """The row of `SAMPLERS` for this scheduler.

    Raises:
        PipelineError: if there is none, or its configuration is refused.
    """
    name = type(scheduler).__name__
    row = next((SAMPLERS[base.__name__] for base in type(scheduler).__mro__ if base.__name__ in SAMPLERS), None)
    if row is None:
        raise PipelineError(
            "this scheduler is not supported",
            given=name,
            cure=f"Use one of: {', '.join(SAMPLERS)}, e.g. pipe.scheduler = "
            f"{next(iter(SAMPLERS))}.from_config(pipe.scheduler.config).",
        )
    reason = row.refusal(scheduler)
    if reason:
        raise PipelineError(
            f"this configuration of {name} is not supported: {reason}", given=name, cure="Turn the setting off."
        )
    return row


def retime(scheduler: Any, grid: Sequence[float]) -> None:
    """Warp the grid that ``set_timesteps`` has just laid to the points ``tau`` of Eq. (14)."""
    sampler = sampler_of(scheduler)
    sampler.retime(scheduler, [float(level) for level in warp(sampler.noise_levels(scheduler), grid)])


def plain_step(scheduler: Any, model_output: torch.Tensor, timestep: Any, sample: torch.Tensor) -> torch.Tensor:
    """``step_i(x, v)`` on a copy of the scheduler as it stands, which is left untouched, in float32 or better."""
    fresh = copy.deepcopy(scheduler)
    fresh.__class__ = own_class(scheduler)
    wide = torch.promote_types(sample.dtype, torch.float32)
    out: torch.Tensor = fresh.step(model_output.to(wide), timestep, sample.to(wide), return_dict=False)[0]
    return out


def output_coefficient(scheduler: Any, timestep: Any) -> float:
    """The scalar ``b_i`` of ``step_i(x, v) = c_i + b_i v``, read off a unit impulse on tiny float64 tensors.

    Live latents would not do: in bfloat16 the difference of two steps is rounding noise.
    """
    fresh = copy.deepcopy(scheduler)
    for name, value in vars(fresh).items():
        if name == "model_outputs":  # what a multistep solver remembers has the live shape; its values cancel
            setattr(fresh, name, [None if v is None else torch.zeros(1, dtype=torch.float64) for v in value])
    zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    twin = copy.deepcopy(fresh)
    return float(plain_step(twin, one, timestep, zero) - plain_step(fresh, zero, timestep, zero))
