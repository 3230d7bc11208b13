"""What is cached and how it becomes a model output again: Eqs. (5) and (6), at three levels."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

Level = Literal["output", "velocity", "hidden"]
LEVELS: tuple[Level, ...] = ("output", "velocity", "hidden")


def to_cache(sample: Tensor, model_output: Tensor, level: Level) -> Tensor:
    """What a computed step leaves in the cache.

    Level ``output`` is Eq. (5), ``r = v - x``; level ``velocity`` keeps ``v`` itself. So does level ``hidden`` at
    the step boundary, for its differences: the residuals of the blocks are kept inside the denoiser.

    Args:
        sample: ``x_i``, any shape.
        model_output: ``v_i``, the same shape at level ``output``.
        level: which of them.

    Returns:
        A new tensor of the shape of ``model_output``.
    """
    return model_output - sample if level == "output" else model_output.clone()


def from_cache(sample: Tensor, cached: Tensor, level: Level) -> Tensor:
    """The model output that a cached entry stands for at ``sample``: Eq. (6), ``x + r``, or ``v`` itself."""
    return sample + cached if level == "output" else cached
