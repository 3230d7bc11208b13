"""What the runtime must know of a scheduler: its noise levels, how to retime it, what it cannot be used for.

One row of `SAMPLERS` for each scheduler class; a subclass is served by its base's row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ertacache.errors import PipelineError
from ertacache.method.timesteps import warp
from ertacache.runtime import discrete


def _never(scheduler: Any) -> None:
    return None


@dataclass(frozen=True)
class Sampler:
    """One scheduler class, as the method sees it.

    Args:
        noise_levels: the T + 1 levels of the grid that ``set_timesteps`` has just laid, the terminal one included.
            The level is the variable in which the model output is the slope of the trajectory, so that it is what
            a Taylor prediction expands in: sigma for flow matching, the angle of `discrete` for v-prediction.
        retime: put T + 1 other levels in their place, keeping length and device.
        refusal: why a configuration of this scheduler cannot be served, or None.
        warped_step: ``(scheduler, class, arguments, index, levels)``: how to step on a retimed grid where the
            scheduler's own ``step`` cannot; None where it can.
        draws_noise: whether every step adds noise from the call's generator.
        frames_first: whether its latents are (batch, frames, channels, height, width).
    """

    noise_levels: Callable[[Any], list[float]]
    retime: Callable[[Any, Sequence[float]], None]
    refusal: Callable[[Any], str | None] = _never
    warped_step: Callable[[Any, Any, Mapping[str, Any], int, Sequence[float]], Any] | None = None
    draws_noise: bool = False
    frames_first: bool = False

    def channel_axis(self, ndim: int) -> int:
        """The channel axis of what it steps: last for packed tokens (batch, tokens, channels)."""
        return 2 if ndim == 3 or (self.frames_first and ndim == 5) else 1


def _sigmas(scheduler: Any) -> list[float]:
    return [float(sigma) for sigma in scheduler.sigmas]


def _retime_sigmas(scheduler: Any, levels: Sequence[float]) -> None:
    old = scheduler.sigmas
    new = torch.from_numpy(np.asarray(levels, dtype=np.float64)).to(dtype=old.dtype, device=old.device)
    scheduler.sigmas = new
    steps = scheduler.timesteps
    scheduler.timesteps = (new[:-1] * scheduler.config.num_train_timesteps).to(dtype=steps.dtype, device=steps.device)


def _flow_euler_refusal(scheduler: Any) -> str | None:
    if scheduler.config.get("stochastic_sampling"):
        return "stochastic_sampling=True draws new noise at every step"
    return None


def _unipc_refusal(scheduler: Any) -> str | None:
    if not scheduler.config.use_flow_sigmas:
        return "use_flow_sigmas=False"
    if scheduler.config.thresholding:
        return "thresholding=True makes the step no affine function of the model output"
    if scheduler.solver_p is not None:
        return "solver_p hands the step to a second scheduler"
    return None


SAMPLERS: dict[str, Sampler] = {
    "FlowMatchEulerDiscreteScheduler": Sampler(_sigmas, _retime_sigmas, _flow_euler_refusal),
    "UniPCMultistepScheduler": Sampler(_sigmas, _retime_sigmas, _unipc_refusal),
    "OpenSoraRectifiedFlowScheduler": Sampler(_sigmas, _retime_sigmas),
    "CogVideoXDDIMScheduler": Sampler(
        discrete.angles, discrete.retime, discrete.refusal, discrete.warped_step, frames_first=True
    ),
    "CogVideoXDPMScheduler": Sampler(
        discrete.angles, discrete.retime, discrete.refusal, discrete.warped_step, draws_noise=True, frames_first=True
    ),
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
            f"this configuration of {name} is not supported: {reason}", given=name, cure="Change this setting."
        )
    return row


def retime(scheduler: Any, grid: Sequence[float]) -> list[float]:
    """Warp the grid that ``set_timesteps`` has just laid to the points ``tau`` of Eq. (14); the new noise levels."""
    sampler = sampler_of(scheduler)
    levels = [float(level) for level in warp(sampler.noise_levels(scheduler), grid)]
    sampler.retime(scheduler, levels)
    return levels
