"""What a computed step leaves in the cache, and how that becomes a model output again, at three levels."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

Level = Literal["output", "velocity", "hidden"]
LEVELS: tuple[Level, ...] = ("output", "velocity", "hidden")


def to_cache(sample: Tensor, model_output: Tensor, level: Level) -> Tensor:
    """Eq. (5): the cache entry of a computed step.

    Level ``output`` is the paper's, ``r = v - x``; level ``velocity`` keeps ``v`` itself. So does level ``hidden``
    here, at the step boundary; the residuals of its blocks are kept inside the denoiser.

    Args:
        sample: the latent ``x_i``, (batch, ...), floating.
        model_output: ``v_i``, (batch, ...), floating; of the shape of ``sample`` at level ``output``.
        level: what is cached.

    Returns:
        A new tensor of the shape of ``model_output``.
    """
    return model_output - sample if level == "output" else model_output.clone()


def from_cache(sample: Tensor, cached: Tensor, level: Level) -> Tensor:
    """Eq. (6): the model output that a cache entry stands for, ``x + r`` at level ``output``, else ``v`` itself.

    Args:
        sample: the latent ``x_i`` of the cached step, (batch, ...), floating.
        cached: what `to_cache` returned, or a prediction of it.
        level: what is cached.

    Returns:
        The shape of ``cached``.
    """
    return sample + cached if level == "output" else cached
