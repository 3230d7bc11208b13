"""A loop of SGLang's native denoising stage as a sampling line."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ertacache.integrations.replayed_sampler import Evaluate, Loop, replayed_sampler
from ertacache.integrations.sampling_line import SamplingLine, guided_denoiser
from ertacache.runtime.schedulers import sampler_of
from ertacache.runtime.unwrap import own_class


class StageLine(SamplingLine):
    """One loop of the native stage.

    The stage's own scheduler makes the steps; the line's follows it, so that copies of it can be tried.

    Args:
        stage: the ``DenoisingStage``.
        ctx: its ``DenoisingContext``, with the grid set.

    Raises:
        PipelineError: if the scheduler is not supported.
    """

    def __init__(self, stage: Any, ctx: Any) -> None:
        self.stage, self._ctx = stage, ctx
        scheduler = ctx.scheduler
        sampler_of(scheduler)  # refuses what cannot be skipped
        network = stage.transformer
        config = getattr(getattr(network, "config", None), "arch_config", None)
        denoiser = guided_denoiser(type(network).__name__, network, _plain(config))
        name, plain = own_class(scheduler).__name__, dict(scheduler.config)
        super().__init__(denoiser, replayed_sampler(name, loop_of(scheduler), plain, live=True))

    def __call__(
        self, begin: Callable[[StageLine], Any], *, guidance_scale: float = 1.0, guidance_scale_2: float = 1.0
    ) -> Any:
        """Run the loop; ``begin`` runs the stage's own, and returns what it returns."""
        scheduler = self._ctx.scheduler
        self.scheduler.set_timesteps(sampler_of(scheduler).noise_levels(scheduler))
        return begin(self)

    def predicted(self, latent: Tensor, model: Any, call: Callable[[], Tensor]) -> Tensor:
        """The output of one evaluation: ``call``'s own, or a prediction without it.

        Args:
            latent: (batch, ...).
            model: the transformer that evaluates; one expert's outputs do not stand for another's.
            call: evaluates.
        """
        return self.evaluated(latent, call, [int(model is not self.stage.transformer)])

    def guidance_of(self, batch: Any) -> dict[str, float]:
        """The guidance scales of a request."""
        scale = float(batch.guidance_scale or 1.0)
        second = getattr(batch, "guidance_scale_2", None)
        return {"guidance_scale": scale, "guidance_scale_2": scale if second is None else float(second)}


def loop_of(scheduler: Any) -> Loop:
    """A scheduler whose grid is set, as a loop over a copy of it."""
    fresh = copy.deepcopy(scheduler)

    def loop(evaluate: Evaluate, latent: Tensor, levels: Tensor, seed: int) -> Tensor:
        twin = copy.deepcopy(fresh)
        for timestep in torch.as_tensor(twin.timesteps):
            output = evaluate(latent, timestep)
            latent = twin.step(output, timestep, latent, return_dict=False)[0]
        return latent

    return loop


def _plain(config: Any) -> dict[str, Any]:
    kinds = (int, float, str, bool, list, tuple, type(None))
    return {name: value for name, value in getattr(config, "__dict__", {}).items() if isinstance(value, kinds)}
