"""How far each model output moves each later latent: measured on the scheduler as a call has set it up."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ertacache.runtime.scheduler_step import StepCall, landed
from ertacache.runtime.unwrap import own_class, set_class

Array = NDArray[np.float64]


def response_of(scheduler: Any, first: int, levels: Sequence[float]) -> Array:
    """How far a unit of each step's output (column) has moved the latent after each step (row).

    Copies of the scheduler make all its steps, once with outputs of zero and once with the k-th unit vector at step k;
    whatever noise is added is the same in both and cancels. A scheduler that cannot be tried so is taken to make Euler
    steps.

    Args:
        scheduler: its timesteps are set, and it has not stepped yet; left unchanged.
        first: the step of its grid that it begins with.
        levels: the T' + 1 noise levels of the steps that it makes, falling.

    Returns:
        (T', T'), float64, lower triangular.
    """
    steps = len(levels) - 1
    euler = np.tril(np.broadcast_to(np.diff(np.asarray(levels, dtype=np.float64)), (steps, steps)))
    try:
        moved = _latents(scheduler, first, torch.eye(steps)) - _latents(scheduler, first, torch.zeros(steps, steps))
    except Exception:  # whatever a step of somebody's own may raise on such a latent
        return euler
    measured = np.tril(moved.numpy())
    return measured if np.isfinite(measured).all() and np.diagonal(measured).all() else euler


def _latents(scheduler: Any, first: int, outputs: Tensor) -> Tensor:
    """Where the scheduler goes from a latent of zeros, (T', T'), float64."""
    twin = copy.deepcopy(scheduler)
    set_class(twin, own_class(scheduler))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return latents_of(twin, twin.timesteps[first:], outputs, torch.zeros(1, 1, 1, len(outputs))).double()


def latents_of(scheduler: Any, timesteps: Tensor, outputs: Tensor, latent: Tensor) -> Tensor:
    """Where a scheduler goes, step by step, with these outputs.

    Args:
        scheduler: about to make its first step; it steps. One that has ``all_steps``, as
            `ertacache.integrations.replayed_sampler.ReplayedSampler`, makes them at once.
        timesteps: (T,).
        outputs: (T, size), the model output of each step.
        latent: where it begins, of ``size`` elements, with the batch axis.

    Returns:
        The latents after each step, (T, size).
    """
    at_once = getattr(scheduler, "all_steps", None)
    if at_once is not None:
        return torch.stack([row.flatten() for row in at_once([v.reshape(latent.shape) for v in outputs], latent)])
    step_call, rows = StepCall.of(scheduler), []
    for timestep, output in zip(timesteps, outputs, strict=True):
        arguments = {"model_output": output.reshape(latent.shape), "timestep": timestep, "sample": latent}
        latent = landed(step_call.call(scheduler.step, arguments))
        rows.append(latent.flatten())
    return torch.stack(rows)
