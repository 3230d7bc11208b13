"""The seam for engines: a sampling line, which has a denoiser and a scheduler and is called like a pipeline.

Calibration, budgets, instant and learnt policies, reports and guards work on it as they do on a diffusers pipeline. An
engine subclasses `SamplingLine`, runs its own loop in ``__call__``, and hands each evaluation of its guided denoiser to
`SamplingLine.evaluated`. docs/how-to/own-model.md shows it on a loop of ten lines.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ertacache.errors import RunError
from ertacache.integrations.named_class import named_class


class GuidedDenoiser(nn.Module):
    """A denoiser that is not called as a module: what is evaluated once a step, guidance and all.

    Make it with `guided_denoiser`, which gives it a class of its own.

    Args:
        weights: the module whose weights identify it.
        config: JSON data that identifies it beside the weights, such as the model's configuration and its patches.
    """

    def __init__(self, weights: nn.Module, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.weights, self.config = weights, dict(config)

    def forward(self, sample: Tensor, timestep: Any, call: Callable[[], Tensor], marks: Tensor) -> Tensor:
        """Evaluate it.

        Args:
            sample: the latent, (batch, ...).
            timestep: the noise level.
            call: what gives the output.
            marks: its shape tells steps apart that evaluate other things, so that no output is kept across them.
        """
        return call()


def guided_denoiser(name: str, weights: nn.Module, config: Mapping[str, Any]) -> GuidedDenoiser:
    """Make a denoiser whose class has the model's own name; arguments as for `GuidedDenoiser`."""
    made: GuidedDenoiser = named_class(name, GuidedDenoiser)(weights, config)
    return made


class SamplingLine:
    """An engine's sampling loop with the parts of a pipeline.

    A subclass defines ``__call__(self, ...)``: it calls ``self.scheduler.set_timesteps`` and runs the loop. Arguments
    whose names say guidance (``guidance_scale``, ``cfg``) or size (``height``, ``num_frames``) are compared with
    calibration's, as those of pipelines are.

    Args:
        denoiser: what is evaluated once a step.
        scheduler: has ``set_timesteps`` and ``step`` as diffusers' have, ``step_index``, and ``newest``: the output
            that the latest step was given. See `ertacache.integrations.replayed_sampler`.
    """

    def __init__(self, denoiser: GuidedDenoiser, scheduler: Any) -> None:
        self.denoiser, self.scheduler = denoiser, scheduler

    def evaluated(self, sample: Tensor, call: Callable[[], Tensor], marks: Sequence[int] = ()) -> Tensor:
        """Get the output with which the loop goes on: that of ``call``, its very object, or a prediction without it.

        Args:
            sample: the latent ``x``, (batch, ...), floating.
            call: gives the model output ``v``, (batch, ...), floating: the slope of the latent over the noise level.
            marks: whole numbers from 0 on that tell steps apart which evaluate other things, such as which of the
                conditionings apply.

        Returns:
            (batch, ...), in the dtype of the output.

        Raises:
            RunError: if the loop evaluates more often than it has steps.
        """
        index, timesteps = self.scheduler.step_index, self.scheduler.timesteps
        if index >= len(timesteps):
            raise RunError(
                "the sampler evaluates the model more often than it has steps",
                given=f"{type(self.scheduler).__name__}, {len(timesteps)} steps",
                cure="Use a sampler that evaluates the model once a step, such as euler.",
            )
        timestep = timesteps[index]
        own: list[Tensor] = []

        def kept() -> Tensor:
            own.append(call())
            return own[0]

        output = self.denoiser(sample, timestep, kept, torch.empty([1 + mark for mark in marks], device="meta"))
        self.scheduler.step(output, timestep, sample)
        newest: Tensor = self.scheduler.newest
        return own[0] if own and newest is output else newest  # the run hands out a copy of it
