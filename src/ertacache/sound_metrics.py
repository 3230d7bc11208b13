"""Metrics of how far a sound is from the full run's: signal-to-error ratio and log-mel distance."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics.functional.audio import signal_noise_ratio

from ertacache.errors import MetricError
from ertacache.metrics import MAX_PSNR

BANDS, WINDOW_SECONDS = 64, 0.064
FLOOR_DB = 80.0
"""What is so far under the reference's loudest band is not heard, and does not count."""


def signal_to_error(sound: Tensor, reference: Tensor) -> float:
    """Compute the power of the reference over that of the error, in dB, 100 at most.

    It compares waveforms, so a shifted phase counts as an error although nobody hears it: see `log_mel_distance`.

    Args:
        sound: (..., samples), float.
        reference: the same shape, float.

    Raises:
        MetricError: if the shapes differ.
    """
    _check(sound, reference)
    ratios: Tensor = signal_noise_ratio(sound.float(), reference.float())
    return float(ratios.clamp(-MAX_PSNR, MAX_PSNR).mean())


def log_mel_distance(sound: Tensor, reference: Tensor, sampling_rate: int) -> float:
    """Compute the mean absolute difference of two log-mel spectrograms, in dB; 0 for equal sounds.

    Args:
        sound: (..., samples), float.
        reference: the same shape, float.
        sampling_rate: in Hz.

    Raises:
        MetricError: if the shapes differ.
    """
    _check(sound, reference)
    wanted = _log_mel(reference, sampling_rate)
    floor = wanted.max() - FLOOR_DB
    return float(np.abs(np.maximum(_log_mel(sound, sampling_rate), floor) - np.maximum(wanted, floor)).mean())


def _log_mel(sound: Tensor, sampling_rate: int) -> NDArray[np.float64]:
    """The power in `BANDS` bands over time, in dB: (sounds, bands, frames)."""
    from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

    length = 1 << round(np.log2(WINDOW_SECONDS * sampling_rate))
    bands = min(BANDS, length // 8)
    filters = mel_filter_bank(length // 2 + 1, bands, 0.0, sampling_rate / 2, sampling_rate)
    window = window_function(length, "hann")
    rows = sound.detach().double().reshape(-1, sound.shape[-1]).numpy()
    return np.stack(
        [spectrogram(row, window, length, length // 4, power=2.0, mel_filters=filters, log_mel="dB") for row in rows]
    )


def _check(sound: Tensor, reference: Tensor) -> None:
    if sound.shape != reference.shape or not sound.ndim:
        raise MetricError(
            "the two sounds must have the same shape",
            given=f"{tuple(sound.shape)} and {tuple(reference.shape)}",
            cure="Give (..., samples), both the same.",
        )
