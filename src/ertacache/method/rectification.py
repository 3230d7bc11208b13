"""Explicit error rectification: the paper's error model of a cached step, with the errata of its equations.

The error of a cached step, ``eps = v~ - v``, is modelled as a line in ``v~``. The paper writes the line inside a
sigmoid, but fits ``eps = (K v~ + B) / 4 + 1/2`` without it; the fitted line is what is applied here. In: predictions
``v~`` and true outputs ``v`` of calibration (`Moments`). Out: K and B, and the corrected output (`rectify`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ertacache.double_precision import as_float64

Granularity = Literal["step", "channel", "element"]
GRANULARITIES: tuple[Granularity, ...] = ("step", "channel", "element")


@dataclass
class Moments:
    """Running sums over the calibration prompts, float64, from which K and B follow.

    Args:
        granularity: ``step`` for one K and B in all, ``channel`` for one K and B per entry along ``axis``,
            ``element`` for one per element of a sample (which ties them to one latent shape).
        axis: the channel axis of the model output, where the batch axis is 0.
        count: how many values each K and B was fitted on so far.
        v, eps, vv, veps: the sums of ``v~``, of ``eps = v~ - v``, of ``v~^2`` and of ``v~ * eps``.
    """

    granularity: Granularity
    axis: int = 1
    count: float = 0
    v: Tensor | float = 0.0
    eps: Tensor | float = 0.0
    vv: Tensor | float = 0.0
    veps: Tensor | float = 0.0

    def add(self, predicted: Tensor, actual: Tensor) -> None:
        """Add a batch of cached steps.

        Args:
            predicted: the predictions ``v~``, (batch, ...), floating.
            actual: the true outputs ``v``, of the same shape.
        """
        v = as_float64(predicted)
        eps = v - as_float64(actual)
        dims = self._reduced(v.ndim)
        total = 1
        for dim in dims:
            total *= v.shape[dim]
        self.count += total
        self.v = self.v + v.sum(dims)
        self.eps = self.eps + eps.sum(dims)
        self.vv = self.vv + (v * v).sum(dims)
        self.veps = self.veps + (v * eps).sum(dims)

    def __add__(self, other: Moments) -> Moments:
        """The sums of both."""
        sums = {name: getattr(self, name) + getattr(other, name) for name in ("count", "v", "eps", "vv", "veps")}
        return replace(self, **sums)

    def _reduced(self, ndim: int) -> list[int]:
        if self.granularity == "element":
            return [0]
        keep = {self.axis % ndim} if self.granularity == "channel" else set()
        return [dim for dim in range(ndim) if dim not in keep]

    def solve(self) -> tuple[Tensor, Tensor]:
        """Eq. (21): ``K = 4 S_ve / S_vv`` and ``B = 4 (mean eps - 1/2) - K mean v``, with the sums of Eq. (20).

        As printed, (21) subtracts ``4 K mean v``; K already holds the 4. Where ``S_vv`` vanishes, the slope is not
        defined: K is 0 then, and the correction is the mean error.

        Returns:
            K and B, float64: scalars, (channels,), or the shape of one sample.
        """
        v, eps, vv, veps = (torch.as_tensor(s, dtype=torch.float64) for s in (self.v, self.eps, self.vv, self.veps))
        v_mean, eps_mean = v / self.count, eps / self.count
        s_vv = vv - self.count * v_mean**2
        s_ve = veps - self.count * v_mean * eps_mean
        flat = s_vv <= 1e-12 * vv.abs().clamp(min=torch.finfo(torch.float64).tiny)
        k = torch.where(flat, 0.0, 4 * s_ve / torch.where(flat, 1.0, s_vv))
        return k, 4 * (eps_mean - 0.5) - k * v_mean


def along(parameter: Tensor, ndim: int, granularity: Granularity, axis: int) -> Tensor:
    """Reshape K or B so that it broadcasts against a batch.

    Args:
        parameter: one step's K or B: a scalar, (channels,), or the shape of one sample.
        ndim: how many axes the batch has, the batch axis included.
        granularity: see `Moments`.
        axis: the channel axis, where the batch axis is 0.
    """
    if granularity == "channel":
        shape = [1] * ndim
        shape[axis % ndim] = -1
        return parameter.reshape(shape)
    return parameter


def predicted_error(predicted: Tensor, k: Tensor, b: Tensor, *, sigmoid: bool = False) -> Tensor:
    """Eq. (17): the error that the fitted line predicts, ``eps^ = (K v~ + B) / 4 + 1/2``.

    Args:
        predicted: the prediction ``v~``, (batch, ...), floating.
        k, b: as `Moments.solve` gives them, shaped to broadcast (see `along`).
        sigmoid: evaluate Eq. (15) as printed instead. The fit puts the sigmoid's argument near -2, where it is
            0.12 and not 0, so every element is off by 0.12; here for the ablation only.

    Returns:
        The shape of ``predicted``.
    """
    argument = k * predicted + b
    return torch.sigmoid(argument) if sigmoid else argument / 4 + 0.5


def rectified(predicted: Tensor, k: Tensor, b: Tensor, granularity: Granularity, axis: int) -> Tensor:
    """Correct the output of a cached step by its K and B as `Moments.solve` gives them.

    Args:
        predicted: the prediction ``v~``, (batch, ...), floating.
        k, b: on its device, and of its dtype.
        granularity, axis: see `along`.

    Returns:
        The shape of ``predicted``.
    """
    return rectify(predicted, *(along(parameter, predicted.ndim, granularity, axis) for parameter in (k, b)))


def rectify(predicted: Tensor, k: Tensor, b: Tensor, *, sigmoid: bool = False) -> Tensor:
    """Correct the output of a cached step, ``v~ - eps^``: Algorithm 1, line 17, applied to the cached step itself.

    Args:
        predicted: the prediction ``v~``, (batch, ...), floating.
        k, b, sigmoid: see `predicted_error`.

    Returns:
        The shape of ``predicted``.
    """
    return predicted - predicted_error(predicted, k, b, sigmoid=sigmoid)
