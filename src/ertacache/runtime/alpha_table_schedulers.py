"""Noise levels and retiming of schedulers with a table of alphas: DDIM, and CogVideoX's DDIM and DPM.

They step between integer timesteps, which index the table. With ``x = cos(phi) x_0 + sin(phi) noise``, their noise
level is the angle ``phi`` if the denoiser predicts ``v = dx / dphi``. If it predicts the noise, it is ``tan(phi)``: the
noise is the slope of ``x / cos(phi)`` over that. A retimed grid has fractional timesteps, whose alphas are interpolated
over ``phi``. To step on it, the scheduler's own ``step`` runs on a copy whose table has only the alphas of this step.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from ertacache.runtime.scheduler_step import StepCall
from ertacache.runtime.unwrap import own_class, patched_on, set_class


def _tables(scheduler: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The angle ``phi`` and its squared cosine at every training timestep; both are monotone."""
    alphas = scheduler.alphas_cumprod.cpu().double().numpy()
    return np.arccos(np.sqrt(alphas)), alphas


def _plain_timesteps(scheduler: Any) -> NDArray[np.float64]:
    """The integer timesteps of the unwarped grid, and the one that the last step leads to; below 0 is the clean end."""
    twin, own = copy.copy(scheduler), cast(Any, own_class(scheduler))
    own.set_timesteps(twin, scheduler.num_inference_steps)
    steps = twin.timesteps.cpu().double().numpy()
    return np.append(steps, steps[-1] - _stride(scheduler))


def _stride(scheduler: Any) -> int:
    """By how many timesteps the scheduler steps; rounding makes the gaps of its grid differ from that."""
    return int(scheduler.config.num_train_timesteps // scheduler.num_inference_steps)


def _predicts_noise(scheduler: Any) -> bool:
    return bool(scheduler.config.prediction_type == "epsilon")


def noise_levels(scheduler: Any) -> list[float]:
    """The T + 1 noise levels of the grid, falling, the terminal one included (0 for a clean end)."""
    table, _ = _tables(scheduler)
    steps = scheduler.timesteps.cpu().double().numpy()
    end = _plain_timesteps(scheduler)[-1]
    final = np.arccos(np.sqrt(float(scheduler.final_alpha_cumprod))) if end < 0 else table[int(end)]
    angles = np.append(np.interp(steps, np.arange(len(table)), table), final)
    return [float(level) for level in (np.tan(angles) if _predicts_noise(scheduler) else angles)]


def _timesteps_of(scheduler: Any, levels: Sequence[float]) -> NDArray[np.float64]:
    """The fractional timesteps at which the noise has these levels."""
    table, _ = _tables(scheduler)
    angles = np.arctan(levels) if _predicts_noise(scheduler) else np.asarray(levels)
    return np.interp(angles, table, np.arange(len(table)))


def retime(scheduler: Any, levels: Sequence[float]) -> None:
    """Set the scheduler's timesteps, which the denoiser is given, to the fractional ones of these levels.

    Args:
        scheduler: its grid of T steps was just set.
        levels: T + 1 noise levels, falling.
    """
    steps = _timesteps_of(scheduler, levels[:-1])
    scheduler.timesteps = torch.from_numpy(steps).to(dtype=torch.float32, device=scheduler.timesteps.device)


def warped_step(scheduler: Any, own: Any, arguments: Mapping[str, Any], index: int, levels: Sequence[float]) -> Any:
    """Step from ``levels[index]`` to ``levels[index + 1]`` with the scheduler's own ``step``.

    If T does not divide the number of training timesteps, the scheduler's steps miss the next timestep of its own grid
    by a few. Here they miss the next level by as many timesteps.

    Args:
        scheduler: retimed; left unchanged.
        own: the scheduler's class, whose ``step`` is used.
        arguments: the arguments of ``step``, by name.
        index: the index of the step.
        levels: the T + 1 noise levels of the retimed grid.

    Returns:
        What ``step`` returns.
    """
    _, alphas = _tables(scheduler)
    plain, places = _plain_timesteps(scheduler), np.arange(len(alphas))
    steps = _timesteps_of(scheduler, levels[:-1])
    last = index == len(steps) - 1
    landing = plain[-1] if last else steps[index + 1] + (plain[index] - _stride(scheduler) - plain[index + 1])
    neighbours = [steps[index]] if landing < 0 else [landing, steps[index]]
    moved = dict(arguments) | {"timestep": len(neighbours) - 1}
    if moved.get("timestep_back") is not None:
        moved["timestep_back"] = len(neighbours)
        neighbours.append(steps[index - 1])
    twin = copy.copy(scheduler)
    set_class(twin, own)
    twin.alphas_cumprod = torch.from_numpy(np.interp(neighbours, places, alphas)).to(scheduler.alphas_cumprod)
    twin.num_inference_steps = scheduler.config.num_train_timesteps  # so that the step after t goes to t - 1
    return StepCall.of(twin).call(twin.step, moved)


def refusal(scheduler: Any) -> str | None:
    """Say why this scheduler's configuration is not supported, or None if it is."""
    kind = scheduler.config.prediction_type
    if kind not in ("v_prediction", "epsilon"):
        return f"prediction_type={kind!r} is not supported (only 'epsilon' and 'v_prediction' are)"
    if patched_on(scheduler, "set_timesteps") is not None:
        return "its set_timesteps() is patched on the object, and the grid is set again on a copy without the patch"
    return None
