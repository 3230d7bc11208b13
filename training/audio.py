"""Train what takes sound to latents and back: the autoencoder of spectrograms, and the vocoder after it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from training.autoencoder import NOISE
from training.families.base import Sounding
from training.loop import train

BATCH, VOCODER_BATCH = 16, 4
WINDOWS = (256, 1024, 2048)
"""Samples, of the spectra that a vocoder's waveform should share with the true one."""


def fit_autoencoder(vae: Any, spectrograms: Tensor, folder: Path, *, num_steps: int, seconds: float) -> None:
    """Squared and absolute error on (n, channels, spectra, bands), decoding noisy latents as `autoencoder.fit` does."""

    def loss_at(step: int, generator: torch.Generator) -> Tensor:
        x = spectrograms[torch.randint(len(spectrograms), (BATCH,), generator=generator)]
        posterior = vae.encode(x).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator)
        y = vae.decode(posterior.mean + NOISE * noise).sample
        size = posterior.mean.square().mean() + (posterior.logvar - 2 * math.log(NOISE)).square().mean()
        return (y - x).square().mean() + (y - x).abs().mean() + 1e-3 * size

    parameters = list(vae.parameters())
    train("audio-autoencoder", loss_at, parameters, folder, num_steps=num_steps, learning_rate=2e-3, seconds=seconds)


def spectral_distance(y: Tensor, x: Tensor) -> Tensor:
    """How far the amplitudes of two sets of waveforms (n, samples) lie apart, whatever their phases."""
    total = torch.zeros(())
    for size in WINDOWS:
        window = torch.hann_window(size)
        a, b = (
            torch.view_as_real(torch.stft(v, size, size // 4, window=window, return_complex=True)).square().sum(-1)
            for v in (y, x)
        )
        a, b = ((power + 1e-8).sqrt() * (2 / window.sum()) for power in (a, b))
        total = (
            total + (a - b).norm() / b.norm() + 0.2 * (a.clamp(min=1e-3).log() - b.clamp(min=1e-3).log()).abs().mean()
        )
    return total / len(WINDOWS)


def fit_vocoder(
    vocoder: nn.Module,
    vae: Any,
    spectrograms: Tensor,
    waveforms: np.ndarray,
    log_mel: Callable[[Tensor], Tensor],
    folder: Path,
    *,
    num_steps: int,
    seconds: float,
) -> None:
    """Amplitudes of spectra of several lengths, and the spectrogram itself.

    Args:
        vocoder: from (n, channels, spectra, bands) to (n, channels, samples).
        vae: the trained autoencoder, whose reconstructions the vocoder is given at every second step.
        spectrograms: of the waveforms, (n, channels, spectra, bands).
        waveforms: (n, samples), the same one for each channel.
        log_mel: makes (..., spectra, bands) of (..., samples).
        folder: for the checkpoint and the loss curve.
        num_steps, seconds: how long, whichever ends first.
    """

    def loss_at(step: int, generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(waveforms), (VOCODER_BATCH,), generator=generator).sort().values
        given = spectrograms[rows]
        if step % 2:
            with torch.no_grad():
                given = vae.decode(vae.encode(given).latent_dist.mean).sample
        x = torch.from_numpy(np.array(waveforms[rows.numpy()]))
        y = vocoder(given)
        x = x[:, None].expand(y.shape)
        return spectral_distance(y.flatten(0, 1), x.flatten(0, 1)) + (log_mel(y) - log_mel(x)).abs().mean()

    parameters = list(vocoder.parameters())
    train("vocoder", loss_at, parameters, folder, num_steps=num_steps, learning_rate=2e-3, seconds=seconds)


def trained_parts(
    family: Sounding, waveforms: np.ndarray, folder: Path, started: Any, *, num_steps: int, seconds: float
) -> tuple[dict[str, nn.Module], Tensor]:
    """The trained parts of a pipeline that are the sound's alone, and the latents of the waveforms (n, ...).

    They are taken from the finished pipeline ``started`` if there is one.
    """
    torch.manual_seed(0)
    parts: dict[str, Any] = family.sound_parts()
    if started is not None:
        parts = {part: getattr(started, part) for part in parts}
    vae, vocoder = parts["audio_vae"], parts["vocoder"]
    spectrograms = family.spectrograms(waveforms)
    if started is None:
        fit_autoencoder(vae, spectrograms, folder, num_steps=num_steps, seconds=seconds)
        with torch.no_grad():
            family.set_sound_scale(vae, spectrograms[:256])
        length = {"num_steps": num_steps, "seconds": seconds}
        fit_vocoder(vocoder, vae, spectrograms, waveforms, family.log_mel, folder, **length)
    with torch.no_grad():
        latents = torch.cat([family.sound_latents(vae, chunk) for chunk in spectrograms.split(100)])
    return parts, latents
