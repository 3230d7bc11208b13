"""How far a picture or clip is from the full run's, in float arithmetic throughout; clips frame by frame, averaged."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from ertacache.errors import MetricError
from ertacache.precision import widened

MAX_PSNR = 100.0


def psnr(picture: Tensor, reference: Tensor) -> float:
    """Peak signal-to-noise ratio in dB, the mean over pictures or frames, of which each counts 100 dB at most.

    An equal frame has no finite ratio, and one such frame must not hide the others.

    Args:
        picture: (..., channels, height, width), float in 0 .. 1 or uint8.
        reference: likewise.

    Raises:
        MetricError: if the two differ in shape, or are of another dtype.
    """
    ours, theirs = frames_of(picture, reference)
    ratios = peak_signal_noise_ratio(ours, theirs, data_range=1.0, dim=(1, 2, 3), reduction="none")
    return float(ratios.clamp(max=MAX_PSNR).mean())


def ssim(picture: Tensor, reference: Tensor) -> float:
    """Structural similarity, at most 1, with the usual 11-pixel Gaussian window; the mean over pictures or frames.

    Args:
        picture: (..., channels, height, width), float in 0 .. 1 or uint8.
        reference: likewise.

    Raises:
        MetricError: if the two differ in shape, or are of another dtype.
    """
    ours, theirs = frames_of(picture, reference)
    value = structural_similarity_index_measure(ours, theirs, data_range=1.0)
    assert isinstance(value, Tensor)  # a tuple only if the whole map is asked for
    return float(value)


def motion_error(clip: Tensor, reference: Tensor) -> float:
    """How far a clip's motion is from its reference's: ``|| D - D_ref || / || D_ref ||``, D the change between frames.

    0 is the same motion; a clip that stands still has 1, one that flickers or moves otherwise has more.

    Args:
        clip: (..., frames, channels, height, width), float in 0 .. 1 or uint8.
        reference: likewise.

    Raises:
        MetricError: if the two differ in shape or are no clips, or if the reference stands still.
    """
    frames_of(clip, reference, least=4)
    changes, wanted = (widened(_floats(frames)).diff(dim=-4) for frames in (clip, reference))
    size = float(wanted.norm())
    if not size:
        raise MetricError(
            "the motion of a clip is measured against that of the reference, and it has none",
            given=f"shape {tuple(reference.shape)}",
            cure="Give two frames or more, of something that moves.",
        )
    return float((changes - wanted).norm()) / size


def interval(values: Sequence[float], *, confidence: float = 0.95, resamples: int = 10_000) -> tuple[float, float]:
    """A confidence interval of the mean over prompts: percentiles of the bootstrap, seeded.

    Args:
        values: one number a prompt.
        confidence: of the interval, 0 .. 1.
        resamples: how many.

    Raises:
        MetricError: without values.
    """
    if not len(values):
        raise MetricError("an interval needs values", given="none", cure="Measure one prompt or more.")
    rng = np.random.default_rng(0)
    picked = np.asarray(values, dtype=np.float64)[rng.integers(len(values), size=(resamples, len(values)))]
    low, high = np.quantile(picked.mean(1), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _floats(picture: Tensor) -> Tensor:
    return picture.float() / 255 if picture.dtype == torch.uint8 else picture.float()


def frames_of(picture: Tensor, reference: Tensor, least: int = 3) -> tuple[Tensor, Tensor]:
    """Both as float (n, channels, height, width); refuses what cannot be compared."""
    if picture.shape != reference.shape or picture.ndim < least:
        raise MetricError(
            "two pictures or clips of one shape are needed",
            given=f"{tuple(picture.shape)} and {tuple(reference.shape)}",
            cure=f"Give ({'frames, ' if least > 3 else ''}channels, height, width), or batches of them, both the same.",
        )
    for tensor in (picture, reference):
        if tensor.dtype != torch.uint8 and not tensor.is_floating_point():
            raise MetricError(
                "pictures are float in 0 .. 1 or uint8", given=f"{tensor.dtype}", cure="Convert them first."
            )
    shape = (-1, *picture.shape[-3:])
    return _floats(picture).reshape(shape), _floats(reference).reshape(shape)
