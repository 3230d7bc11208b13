"""Metrics of how far a picture or clip is from the full run's: PSNR, SSIM, motion error, and confidence intervals.

Clips are compared frame by frame and averaged. Pictures are not rounded to 8 bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from ertacache.double_precision import as_float64
from ertacache.errors import MetricError
from ertacache.student_t import student_t

MAX_PSNR = 100.0
"""What a picture or frame counts at most, in dB: equal ones have no finite ratio, and must not hide the others."""
FEW_VALUES = 8
"""Of fewer values the bootstrap's interval is hardly wider than their range, which holds the mean far too seldom."""


def psnr(picture: Tensor, reference: Tensor) -> float:
    """Compute the peak signal-to-noise ratio in dB, averaged over pictures or frames; each counts 100 dB at most.

    Args:
        picture: (..., channels, height, width), float in 0 .. 1 or uint8.
        reference: the same shape, float in 0 .. 1 or uint8.

    Raises:
        MetricError: if the shapes differ, or a dtype is neither floating nor uint8.
    """
    ours, theirs = frames_of(picture, reference)
    ratios = peak_signal_noise_ratio(ours, theirs, data_range=1.0, dim=(1, 2, 3), reduction="none")
    return float(ratios.clamp(max=MAX_PSNR).mean())


def ssim(picture: Tensor, reference: Tensor) -> float:
    """Compute the structural similarity, at most 1, averaged over pictures or frames.

    The window is the usual Gaussian of 11 pixels.

    Args:
        picture: (..., channels, height, width), float in 0 .. 1 or uint8.
        reference: the same shape, float in 0 .. 1 or uint8.

    Raises:
        MetricError: if the shapes differ, or a dtype is neither floating nor uint8.
    """
    ours, theirs = frames_of(picture, reference)
    value = structural_similarity_index_measure(ours, theirs, data_range=1.0)
    assert isinstance(value, Tensor)  # a tuple only if the whole map is asked for
    return float(value)


def motion_error(clip: Tensor, reference: Tensor) -> float:
    """Compute how far a clip's motion is from its reference's: ``|| D - D_ref || / || D_ref ||``.

    D is the change from frame to frame. 0 is the same motion, 1 a clip that stands still; a clip that flickers, or
    moves differently, has more.

    Args:
        clip: (..., frames, channels, height, width), float in 0 .. 1 or uint8.
        reference: the same shape, float in 0 .. 1 or uint8.

    Raises:
        MetricError: if the shapes differ or have no frames, a dtype is neither floating nor uint8, or the reference
            stands still.
    """
    frames_of(clip, reference, least=4)
    changes, wanted = (as_float64(_floats(frames)).diff(dim=-4) for frames in (clip, reference))
    size = float(wanted.norm())
    if not size:
        raise MetricError(
            "the motion error is relative to the motion of the reference, which has none",
            given=f"shape {tuple(reference.shape)}",
            cure="Give a reference of two frames or more that are not all equal.",
        )
    return float((changes - wanted).norm()) / size


def interval(values: Sequence[float], *, confidence: float = 0.95, resamples: int = 10_000) -> tuple[float, float]:
    """Compute a confidence interval of the mean over prompts.

    It is the bootstrap's percentiles, with a fixed seed; of two to seven values Student's t interval, since the
    bootstrap goes no further than the least and the largest; of one, that value.

    Args:
        values: one number for each prompt.
        confidence: the confidence level, 0 .. 1.
        resamples: how many bootstrap resamples to draw.

    Returns:
        The lower and the upper bound.

    Raises:
        MetricError: if there are no values.
    """
    if not len(values):
        raise MetricError("an interval needs values", given="none", cure="Measure one prompt or more.")
    given = np.asarray(values, dtype=np.float64)
    if 1 < len(given) < FEW_VALUES:
        width = student_t(len(given) - 1, (1 + confidence) / 2) * given.std(ddof=1) / len(given) ** 0.5
        return float(given.mean() - width), float(given.mean() + width)
    rng = np.random.default_rng(0)
    picked = given[rng.integers(len(values), size=(resamples, len(values)))]
    low, high = np.quantile(picked.mean(1), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _floats(picture: Tensor) -> Tensor:
    return picture.float() / 255 if picture.dtype == torch.uint8 else picture.float()


def frames_of(picture: Tensor, reference: Tensor, least: int = 3) -> tuple[Tensor, Tensor]:
    """Convert both to float32 of shape (n, channels, height, width).

    Args:
        picture: (..., channels, height, width), float in 0 .. 1 or uint8.
        reference: the same shape, float in 0 .. 1 or uint8.
        least: the fewest axes that are accepted; 4 for clips.

    Raises:
        MetricError: if the shapes differ or have fewer axes, or a dtype is neither floating nor uint8.
    """
    if picture.shape != reference.shape or picture.ndim < least:
        raise MetricError(
            "the two pictures or clips must have the same shape",
            given=f"{tuple(picture.shape)} and {tuple(reference.shape)}",
            cure=f"Give ({'frames, ' if least > 3 else ''}channels, height, width), or batches of them, both the same.",
        )
    for tensor in (picture, reference):
        if tensor.dtype != torch.uint8 and not tensor.is_floating_point():
            raise MetricError(
                "pictures must be floats in 0 .. 1 or uint8", given=f"{tensor.dtype}", cure="Convert them first."
            )
    shape = (-1, *picture.shape[-3:])
    return _floats(picture).reshape(shape), _floats(reference).reshape(shape)
