"""What is known of each scheduler class: its noise levels, how to retime it, and which configurations are refused.

Every scheduler that evaluates the denoiser once a step is supported. `SAMPLERS` has a row for each class that can be
retimed as well; subclasses use their base's row, all others `PLAIN`. What no configuration shows, such as noise that
cannot be repeated, is found by the full runs of calibration (`ertacache.calibration.recorder`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import atan, atan2, pi
from typing import Any

import numpy as np
import torch

from ertacache.errors import PipelineError
from ertacache.method.timesteps import warp
from ertacache.runtime import alpha_table_schedulers
from ertacache.runtime.scheduler_step import StepCall
from ertacache.runtime.unwrap import methods, own_class


def _never(scheduler: Any) -> None:
    return None


@dataclass(frozen=True)
class Sampler:
    """How to handle one scheduler class. All functions take the scheduler as their first argument.

    Args:
        noise_levels: returns the T + 1 levels of the grid that ``set_timesteps`` has just set, the terminal one
            included. The level is the variable over which the model output is the slope of the trajectory, so Taylor
            predictions expand in it: sigma for flow matching, sigma over alpha for noise prediction, the angle of
            `alpha_table_schedulers` for v-prediction.
        retime: replaces the levels by T + 1 others, keeping length and device, or None if that cannot be done.
        refusal: returns why the scheduler's configuration is not supported, or None if it is.
        warped_step: makes a step on a retimed grid, from the arguments ``(scheduler, class, arguments, index,
            levels)``, or None if the scheduler's own ``step`` can.
    """

    noise_levels: Callable[[Any], list[float]]
    retime: Callable[[Any, Sequence[float]], None] | None = None
    refusal: Callable[[Any], str | None] = _never
    warped_step: Callable[[Any, Any, Mapping[str, Any], int, Sequence[float]], Any] | None = None


def _predicts_velocity_on_the_circle(scheduler: Any) -> bool:
    return bool(scheduler.config.get("prediction_type") == "v_prediction")


def _diffusion_levels(scheduler: Any) -> list[float]:
    """The levels of a grid of sigma, or of sigma over alpha."""
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
    """Convert a tensor, on any device, or a list to floats; a tensor is fetched in one go."""
    return [float(value) for value in (values.tolist() if isinstance(values, torch.Tensor) else values)]


def _retime_sigmas(scheduler: Any, levels: Sequence[float]) -> None:
    old = scheduler.sigmas
    new = torch.from_numpy(np.asarray(levels, dtype=np.float64)).to(dtype=old.dtype, device=old.device)
    scheduler.sigmas = new
    steps = scheduler.timesteps
    scheduler.timesteps = (new[:-1] * scheduler.config.num_train_timesteps).to(dtype=steps.dtype, device=steps.device)


def _plain_levels(scheduler: Any) -> list[float]:
    """The sigmas if there are T + 1 of them, else the timesteps, with a terminal level of 0 unless they have one."""
    steps = _floats(scheduler.timesteps)
    remembered = getattr(scheduler, "num_inference_steps", None)
    terminal = steps[0] <= 1 and steps[-1] == 0  # ratios down to 0 include the terminal level
    num_steps = remembered or len(steps) - terminal
    if len(steps) == num_steps + 1 and all(a > b for a, b in pairwise(steps)):  # as SCM has them, in angles
        return steps
    if len(steps) != num_steps:
        raise _not_served(
            scheduler,
            "it calls the denoiser several times in some steps, as PNDM does",
            f"{type(scheduler).__name__}, {len(steps)} timesteps for {num_steps} steps",
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
        return "solver_p=... hands the step to a second scheduler"
    return None


def _general_refusal(scheduler: Any) -> str | None:
    """Why this scheduler is not supported, for reasons that do not depend on its class, or None if there are none."""
    if not all(methods(scheduler, name) for name in _SEAMS) or not hasattr(scheduler, "config"):
        return "it has no set_timesteps() and step()"
    if not isinstance(scheduler.config, Mapping):
        return "its config is no mapping"
    if getattr(scheduler, "order", 1) != 1:
        return f"it calls the denoiser {scheduler.order} times a step, as Heun's method does"
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
    """Find how to handle a scheduler: the row of `SAMPLERS` for its class or a base class, or `PLAIN`.

    Raises:
        PipelineError: if the scheduler or its configuration is not supported.
    """
    if scheduler is None:
        raise PipelineError(
            "this pipeline has no scheduler under that name, and is not sampled by one",
            given="pipe.scheduler is missing",
            cure="If its schedulers have other names, one for each stage (as UnCLIP's do), it cannot be cached.",
        )
    name = own_class(scheduler).__name__
    row = next((SAMPLERS[base.__name__] for base in type(scheduler).__mro__ if base.__name__ in SAMPLERS), PLAIN)
    reason = _general_refusal(scheduler) or row.refusal(scheduler)
    if reason:
        raise _not_served(scheduler, reason, name)
    StepCall.of(scheduler)
    return row


def thresholds(scheduler: Any) -> bool:
    """Whether a scheduler thresholds the predicted picture, which is not linear."""
    return bool(scheduler.config.get("thresholding"))


def check_weights_fit(scheduler: Any) -> None:
    """Raise `PipelineError` if predictions by weights are not for this scheduler."""
    if thresholds(scheduler):
        raise PipelineError(
            "the scheduler thresholds the predicted picture, and outputs predicted by weights would not be right then",
            given=f"{own_class(scheduler).__name__}, thresholding=True",
            cure="Switch it off, use another scheduler, or make a policy of reuse by hand (ertacache.Policy).",
        )


def check_copies(scheduler: Any) -> None:
    """Check that a scheduler can be copied, as calibration and drafts do.

    Raises:
        PipelineError: if it cannot, or if a method is patched on the object or on a scheduler within it: the patch in
            the copy would still call the original.
    """
    name = own_class(scheduler).__name__
    patched = [f"{own_class(part).__name__}.{method}" for part in parts_of(scheduler) for method in _patched(part)]
    if patched:
        raise PipelineError(
            f"a scheduler whose {patched[0].split('.')[1]}() is patched on the object cannot be copied, as calibration "
            "and drafts do",
            given=f"{name}, {', '.join(patched)}",
            cure="Put the patched method into a subclass, and give the pipeline a scheduler of that class.",
        )
    try:
        copy.deepcopy(scheduler)
    except Exception as error:  # a user's own scheduler may hold anything
        raise PipelineError(
            "this scheduler cannot be copied, as calibration and drafts do",
            given=f"{name}, {type(error).__name__}: {error}",
            cure="Give it a __deepcopy__() method, or keep what cannot be copied outside of it.",
        ) from error


def _patched(scheduler: Any) -> list[str]:
    """The names of methods that are patched on the object."""
    names = [name for name, value in getattr(scheduler, "__dict__", {}).items() if callable(value)]
    return [name for name in names if name in _SEAMS or callable(getattr(own_class(scheduler), name, None))]


_SEAMS = ("step", "set_timesteps")


def fresh_twin(scheduler: Any, steps: int) -> Any:
    """Make a scheduler of the same class and configuration, before the first of so many steps.

    Its noise levels are of the right kind, but not a call's own, where these depend on the size of the picture.
    """
    kind: Any = own_class(scheduler)
    twin = kind.from_config(scheduler.config)
    twin.set_timesteps(steps, **({"mu": 1.0} if twin.config.get("use_dynamic_shifting") else {}))  # it has to be there
    return twin


def parts_of(scheduler: Any) -> list[Any]:
    """List the scheduler and all schedulers within it."""
    parts = [scheduler]
    for part in parts:
        inner = (value for value in getattr(part, "__dict__", {}).values() if hasattr(type(value), "step"))
        parts += [value for value in inner if all(value is not known for known in parts)]
    return parts


def _not_served(scheduler: Any, reason: str, given: str) -> PipelineError:
    """Make the error; it advises schedulers for what the model was trained for: flow matching, or a table of betas."""
    of_betas = hasattr(scheduler, "betas")
    others = [name for name in SAMPLERS if not (of_betas and ("Flow" in name or "CogVideoX" in name))]
    if not of_betas:
        others = others[:1]
    change = "Change this setting, or use" if "=" in reason else "Use"  # reasons name a setting as name=value
    return PipelineError(
        f"this scheduler is not supported: {reason}",
        given=given,
        cure=f"{change} another scheduler if the pipeline takes one: "
        f"{', '.join(others)}, e.g. pipe.scheduler = {others[0]}.from_config(pipe.scheduler.config).",
    )


def retime(scheduler: Any, grid: Sequence[float]) -> list[float]:
    """Warp the grid that ``set_timesteps`` has just set.

    Args:
        scheduler: with T timesteps; gets other ones.
        grid: T + 1 points from 0 to 1, as `ertacache.method.timesteps.time_grid` returns them.

    Returns:
        The T + 1 new noise levels.

    Raises:
        PipelineError: if this scheduler cannot be given other noise levels.
    """
    levels = [float(level) for level in warp(sampler_of(scheduler).noise_levels(scheduler), grid)]
    set_noise_levels(scheduler, levels)
    return levels


def set_noise_levels(scheduler: Any, levels: Sequence[float]) -> None:
    """Replace the noise levels that ``set_timesteps`` has just set.

    Args:
        scheduler: with T timesteps; gets other ones.
        levels: T + 1 noise levels, falling.

    Raises:
        PipelineError: if this scheduler cannot be given other noise levels.
    """
    retimed = sampler_of(scheduler).retime
    if retimed is None:
        raise PipelineError(
            "this scheduler cannot be given other noise levels than its own",
            given=type(scheduler).__name__,
            cure="Use a method without timestep adjustment, such as 'aligned'.",
        )
    retimed(scheduler, levels)


def angles_of(scheduler: Any, levels: Sequence[float]) -> list[float]:
    """Noise levels as angles ``phi`` of ``x = cos(phi) x_0 + sin(phi) noise``, alike for all kinds of prediction.

    Args:
        scheduler: whose levels they are.
        levels: as `Sampler.noise_levels` returns them.

    Returns:
        As many, 0 to pi / 2.
    """
    kind = scheduler.config.get("prediction_type")
    flow = kind in (None, "flow_prediction") or scheduler.config.get("use_flow_sigmas")
    if not flow and kind == "v_prediction":
        return [min(max(level, 0.0), pi / 2) for level in levels]
    if not flow or max(levels) > 1 + 1e-3:  # sigma over alpha
        return [atan(level) for level in levels]
    return [atan2(max(level, 0.0), max(1 - level, 0.0)) for level in levels]
