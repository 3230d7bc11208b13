"""What the runtime must know of a scheduler: its noise levels, how to retime it, what it cannot be used for.

Any scheduler is served that evaluates the denoiser once a step. One row of `SAMPLERS` for each class that can be
retimed too; a subclass is served by its base's row, and what has no row by `PLAIN`. What no configuration tells, such
as noise that cannot be repeated, the full runs of calibration find out (`ertacache.calibration.recorder`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import atan
from typing import Any

import numpy as np
import torch

from ertacache.errors import PipelineError
from ertacache.method.timesteps import warp
from ertacache.runtime import alpha_table_schedulers
from ertacache.runtime.scheduler_probe import StepCall
from ertacache.runtime.unwrap import methods, own_class


def _never(scheduler: Any) -> None:
    return None


@dataclass(frozen=True)
class Sampler:
    """One scheduler class, as the method sees it.

    Args:
        noise_levels: the T + 1 levels of the grid that ``set_timesteps`` has just laid, the terminal one included.
            The level is the variable in which the model output is the slope of the trajectory, so that it is what
            a Taylor prediction expands in: sigma for flow matching, sigma over alpha for noise prediction, the angle
            of `alpha_table_schedulers` for v-prediction.
        retime: put T + 1 other levels in their place, keeping length and device; None where that cannot be done.
        refusal: why a configuration of this scheduler cannot be served, or None.
        warped_step: ``(scheduler, class, arguments, index, levels)``: how to step on a retimed grid where the
            scheduler's own ``step`` cannot; None where it can.
    """

    noise_levels: Callable[[Any], list[float]]
    retime: Callable[[Any, Sequence[float]], None] | None = None
    refusal: Callable[[Any], str | None] = _never
    warped_step: Callable[[Any, Any, Mapping[str, Any], int, Sequence[float]], Any] | None = None


def _predicts_velocity_on_the_circle(scheduler: Any) -> bool:
    return bool(scheduler.config.get("prediction_type") == "v_prediction")


def _diffusion_levels(scheduler: Any) -> list[float]:
    """Of grids of sigma, or of sigma over alpha."""
    sigmas = _sigmas(scheduler)
    return [atan(sigma) for sigma in sigmas] if _predicts_velocity_on_the_circle(scheduler) else sigmas


def _retime_diffusion(scheduler: Any, levels: Sequence[float]) -> None:
    if scheduler.config.get("use_flow_sigmas"):
        _retime_sigmas(scheduler, levels)
        return
    circle = _predicts_velocity_on_the_circle(scheduler)
    sigmas = np.tan(levels) if circle else np.asarray(levels, dtype=np.float64)
    if circle and scheduler.config.get("timestep_type") == "continuous":
        steps = 0.25 * np.log(sigmas[:-1])
    else:
        alphas = scheduler.alphas_cumprod.cpu().double().numpy()
        table = np.log((1 - alphas) / alphas) / 2
        steps = np.interp(np.log(sigmas[:-1]), table, np.arange(len(table)))
    scheduler.sigmas = torch.from_numpy(sigmas).to(dtype=scheduler.sigmas.dtype, device=scheduler.sigmas.device)
    scheduler.timesteps = torch.from_numpy(steps).to(dtype=torch.float32, device=scheduler.timesteps.device)


def _sigmas(scheduler: Any) -> list[float]:
    return _floats(scheduler.sigmas)


def _floats(values: Any) -> list[float]:
    """Of a tensor, which may be on an accelerator and is fetched as a whole, or of whatever a scheduler has instead."""
    return [float(value) for value in (values.tolist() if isinstance(values, torch.Tensor) else values)]


def _retime_sigmas(scheduler: Any, levels: Sequence[float]) -> None:
    old = scheduler.sigmas
    new = torch.from_numpy(np.asarray(levels, dtype=np.float64)).to(dtype=old.dtype, device=old.device)
    scheduler.sigmas = new
    steps = scheduler.timesteps
    scheduler.timesteps = (new[:-1] * scheduler.config.num_train_timesteps).to(dtype=steps.dtype, device=steps.device)


def _plain_levels(scheduler: Any) -> list[float]:
    """The sigmas, where there are T + 1 of them, else the timesteps, the terminal one among them or zero."""
    steps = _floats(scheduler.timesteps)
    remembered = getattr(scheduler, "num_inference_steps", None)
    terminal = steps[0] <= 1 and steps[-1] == 0  # ratios that end at none: the terminal level is among them
    asked = remembered or len(steps) - terminal
    if len(steps) == asked + 1 and all(a > b for a, b in pairwise(steps)):  # as SCM lays them, in angles
        return steps
    if len(steps) != asked:
        raise _not_served(
            scheduler,
            "it does not evaluate the denoiser once a step",
            f"{type(scheduler).__name__}, {len(steps)} timesteps for {asked} steps",
        )
    if len(getattr(scheduler, "sigmas", ())) == len(steps) + 1:
        return _sigmas(scheduler)
    whole = float(scheduler.config.get("num_train_timesteps") or max(steps) or 1)
    return [*(t / whole for t in steps), 0.0]


def _flow_euler_refusal(scheduler: Any) -> str | None:
    if scheduler.config.get("stochastic_sampling"):
        return "stochastic_sampling=True draws new noise at every step"
    return None


def _diffusion_refusal(scheduler: Any) -> str | None:
    if getattr(scheduler, "solver_p", None) is not None:
        return "solver_p hands the step to a second scheduler"
    return None


def _general_refusal(scheduler: Any) -> str | None:
    """What no scheduler may be configured to, and what no scheduler may be."""
    if not all(methods(scheduler, name) for name in _SEAMS) or not hasattr(scheduler, "config"):
        return "it has no set_timesteps() and step()"
    if not isinstance(scheduler.config, Mapping):
        return "its config is no mapping"
    if getattr(scheduler, "order", 1) != 1:
        return f"it evaluates the denoiser {scheduler.order} times a step"
    if scheduler.config.get("thresholding"):
        return "thresholding=True makes the step no affine function of the model output"
    return None


DIFFUSION = Sampler(_diffusion_levels, _retime_diffusion, _diffusion_refusal)
DISCRETE = Sampler(
    alpha_table_schedulers.noise_levels,
    alpha_table_schedulers.retime,
    alpha_table_schedulers.refusal,
    alpha_table_schedulers.warped_step,
)
PLAIN = Sampler(_plain_levels)
SAMPLERS: dict[str, Sampler] = {
    "FlowMatchEulerDiscreteScheduler": Sampler(_sigmas, _retime_sigmas, _flow_euler_refusal),
    "OpenSoraRectifiedFlowScheduler": Sampler(_sigmas, _retime_sigmas),
    "UniPCMultistepScheduler": DIFFUSION,
    "DPMSolverMultistepScheduler": DIFFUSION,
    "DPMSolverSinglestepScheduler": DIFFUSION,
    "DEISMultistepScheduler": DIFFUSION,
    "EulerDiscreteScheduler": DIFFUSION,
    "EulerAncestralDiscreteScheduler": DIFFUSION,
    "DDIMScheduler": DISCRETE,
    "CogVideoXDDIMScheduler": DISCRETE,
    "CogVideoXDPMScheduler": DISCRETE,
}


def sampler_of(scheduler: Any) -> Sampler:
    """The row of `SAMPLERS` for this scheduler, or `PLAIN`.

    Raises:
        PipelineError: if it cannot be served, or its configuration cannot.
    """
    name = own_class(scheduler).__name__
    row = next((SAMPLERS[base.__name__] for base in type(scheduler).__mro__ if base.__name__ in SAMPLERS), PLAIN)
    reason = _general_refusal(scheduler) or row.refusal(scheduler)
    if reason:
        raise _not_served(scheduler, reason, name)
    StepCall.of(scheduler)
    return row


def check_copies(scheduler: Any) -> None:
    """See to it that copies of a scheduler step by themselves, as those that calibration and drafts make must.

    Raises:
        PipelineError: if it cannot be copied, or a method is patched on the object, or on that of one within it: what
            was patched there would step the original.
    """
    name = own_class(scheduler).__name__
    patched = [f"{own_class(part).__name__}.{method}" for part in parts_of(scheduler) for method in _patched(part)]
    if patched:
        raise PipelineError(
            f"a scheduler whose {patched[0].split('.')[1]}() is patched on the object cannot be copied, as calibration "
            "and drafts do",
            given=f"{name}, {', '.join(patched)}",
            cure="Put what is patched into a subclass, and give the pipeline a scheduler of that.",
        )
    try:
        copy.deepcopy(scheduler)
    except Exception as error:  # whatever one of the user's own holds
        raise PipelineError(
            "this scheduler cannot be copied, as calibration and drafts do",
            given=f"{name}, {type(error).__name__}: {error}",
            cure="Give it a __deepcopy__(), or keep what cannot be copied outside of it.",
        ) from error


def _patched(scheduler: Any) -> list[str]:
    """The methods that are patched on the object."""
    names = [name for name, value in getattr(scheduler, "__dict__", {}).items() if callable(value)]
    return [name for name in names if name in _SEAMS or callable(getattr(own_class(scheduler), name, None))]


_SEAMS = ("step", "set_timesteps")


def parts_of(scheduler: Any) -> list[Any]:
    """The scheduler, and all schedulers that it has within it."""
    found = [scheduler]
    for part in found:
        inner = (value for value in getattr(part, "__dict__", {}).values() if hasattr(type(value), "step"))
        found += [value for value in inner if all(value is not known for known in found)]
    return found


def _not_served(scheduler: Any, reason: str, given: str) -> PipelineError:
    """The alternatives are those that sample what the model was trained for: flows, or noise that is added by betas."""
    of_betas = hasattr(scheduler, "betas")
    others = [name for name in SAMPLERS if not (of_betas and ("Flow" in name or "CogVideoX" in name))]
    if not of_betas:
        others = others[:1]
    return PipelineError(
        f"this scheduler cannot be served: {reason}",
        given=given,
        cure="Change this setting, or use another scheduler if the pipeline takes one: "
        f"{', '.join(others)}, e.g. pipe.scheduler = {others[0]}.from_config(pipe.scheduler.config).",
    )


def retime(scheduler: Any, grid: Sequence[float]) -> list[float]:
    """Warp the grid that ``set_timesteps`` has just laid to the points ``tau`` of Eq. (14); the new noise levels."""
    levels = [float(level) for level in warp(sampler_of(scheduler).noise_levels(scheduler), grid)]
    lay(scheduler, levels)
    return levels


def lay(scheduler: Any, levels: Sequence[float]) -> None:
    """Put other noise levels in place of those that ``set_timesteps`` has just laid.

    Raises:
        PipelineError: if this scheduler takes none but its own.
    """
    own_way = sampler_of(scheduler).retime
    if own_way is None:
        raise PipelineError(
            "this scheduler cannot be given other noise levels than its own",
            given=type(scheduler).__name__,
            cure="Use a method without timestep adjustment, such as 'aligned'.",
        )
    own_way(scheduler, levels)
