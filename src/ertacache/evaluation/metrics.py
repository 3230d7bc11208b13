"""How far a picture is from the full run's, in float arithmetic throughout."""

from __future__ import annotations

from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure


def psnr(picture: Tensor, reference: Tensor) -> float:
    """Peak signal-to-noise ratio in dB; infinite for equal pictures.

    Args:
        picture: float, (..., channels, height, width), in 0 .. 1.
        reference: likewise.
    """
    return float(peak_signal_noise_ratio(picture.float(), reference.float(), data_range=1.0))


def ssim(picture: Tensor, reference: Tensor) -> float:
    """Structural similarity, at most 1, with the usual 11-pixel Gaussian window.

    Args:
        picture: float, (channels, height, width) or (batch, channels, height, width), in 0 .. 1.
        reference: likewise.
    """
    shape = (-1, *picture.shape[-3:])
    value = structural_similarity_index_measure(
        picture.float().reshape(shape), reference.float().reshape(shape), data_range=1.0
    )
    assert isinstance(value, Tensor)  # a tuple only if the whole map is asked for
    return float(value)
