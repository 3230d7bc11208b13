"""Schedulers that step between integer timesteps of a table of alphas: CogVideoX's DDIM and DPM.

Their noise level is the angle ``phi`` of ``x = cos(phi) x_0 + sin(phi) noise``: v-prediction is ``dx / dphi``.
A retimed grid has fractional timesteps, whose alphas are interpolated over ``phi``; the scheduler then steps
between neighbours of a table that holds the grid's own alphas and nothing else, with its own ``step``.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


def _tables(scheduler: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Angle and squared cosine of every training timestep; both are monotone."""
    alphas = scheduler.alphas_cumprod.double().cpu().numpy()
    return np.arccos(np.sqrt(alphas)), alphas


def angles(scheduler: Any) -> list[float]:
    """The T + 1 angles of the grid, from near pi/2 (noise) down to that of the final alpha (0 for a clean end)."""
    table, _ = _tables(scheduler)
    steps = scheduler.timesteps.double().cpu().numpy()
    final = np.arccos(np.sqrt(float(scheduler.final_alpha_cumprod)))
    return [*(float(phi) for phi in np.interp(steps, np.arange(len(table)), table)), float(final)]


def retime(scheduler: Any, levels: Sequence[float]) -> None:
    """Tell the denoiser the fractional timesteps that have these angles."""
    table, _ = _tables(scheduler)
    steps = np.interp(np.asarray(levels[:-1]), table, np.arange(len(table)))
    scheduler.timesteps = torch.from_numpy(steps).to(dtype=torch.float32, device=scheduler.timesteps.device)


def warped_step(scheduler: Any, own: Any, arguments: Mapping[str, Any], index: int, levels: Sequence[float]) -> Any:
    """The scheduler's own step from ``levels[index]`` to ``levels[index + 1]``.

    Args:
        scheduler: retimed; left untouched.
        own: its class, whose ``step`` is used.
        arguments: those of ``step``.
        index: of the step.
        levels: the T + 1 angles of the retimed grid.
    """
    table, alphas = _tables(scheduler)
    last = len(levels) - 2
    grid = np.interp(np.asarray(levels[:-1]), table, alphas)[::-1].copy()  # the last step's alpha first
    twin = copy.copy(scheduler)
    twin.__class__ = own
    twin.alphas_cumprod = torch.from_numpy(grid).to(scheduler.alphas_cumprod)
    twin.num_inference_steps = scheduler.config.num_train_timesteps  # so that the step after t goes to t - 1
    moved = dict(arguments) | {"timestep": last - index}
    if moved.get("timestep_back") is not None:
        moved["timestep_back"] = last - index + 1
    return own.step(twin, **moved)
