"""What a family must say for itself so that `training.train` can train it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from training.autoencoder import Stage
from training.denoiser import Noising


class Family(Protocol):
    """One pipeline class at small size.

    Attributes:
        name: on the command line, and of the folder.
        folder: where the trained pipeline goes.
        settings: what every call of the finished pipeline should be given.
        samples: how many pictures or clips are drawn ahead.
        autoencoder_stages, transformer_steps, transformer_batch: how long it trains by default.
    """

    name: str
    folder: Path
    settings: dict[str, Any]
    samples: int
    autoencoder_stages: tuple[Stage, ...]
    transformer_steps: int
    transformer_batch: int

    def sample(self, rng: np.random.Generator, split: str) -> Any:
        """A random scene or clip, with a ``caption``."""

    def draw(self, scene: Any, rng: np.random.Generator) -> np.ndarray:
        """Its picture or frames, uint8, channels last."""

    def autoencoder(self) -> nn.Module:
        """A fresh autoencoder."""

    def decoded(self, vae: Any, z: Tensor, num_frames: int) -> Tensor:
        """The pixels of the encoder's own latents; ``num_frames`` matters to clips only."""

    def latents(self, vae: Any, pixels: Tensor) -> Tensor:
        """Latents as the denoiser sees them, for pixels -1 .. 1, (n, 3, h, w) or (n, 3, f, h, w)."""

    def set_latent_scale(self, vae: Any, pixels: Tensor) -> None:
        """Make these latents zero-mean and unit-variance."""

    def tokenizers(self, captions: list[str]) -> dict[str, Any]:
        """By the pipeline's names for them."""

    def networks(self, tokenizers: dict[str, Any]) -> dict[str, nn.Module]:
        """A fresh denoiser, ``transformer``, and text encoders, by the pipeline's names for them."""

    def tokenize(self, tokenizers: dict[str, Any], captions: list[str]) -> tuple[Tensor, ...]:
        """Token ids as the pipeline makes them."""

    def noising(self) -> Callable[[int, torch.Generator], Noising]:
        """The process that the sampler inverts."""

    def predict(self, networks: dict[str, Any], noisy: Tensor, timestep: Tensor, *ids: Tensor) -> Tensor:
        """The denoiser's output as the pipeline would get it."""

    def load(self, folder: Path) -> Any:
        """A finished pipeline, float32."""

    def pipeline(self, vae: Any, networks: dict[str, Any], tokenizers: dict[str, Any]) -> Any:
        """The finished pipeline."""


@runtime_checkable
class Sounding(Family, Protocol):
    """A pipeline of clips with sound: ``predict`` takes and gives a tuple, of the frames' and of the sound's latents.

    Its ``networks`` do not hold the sound's own parts; ``pipeline`` takes them among the networks.
    """

    def sound(self, scene: Any, rng: np.random.Generator) -> np.ndarray:
        """The waveform of what ``draw`` draws with the same ``rng``, float32, leaving it in the same state."""

    def spectrograms(self, waveforms: np.ndarray) -> Tensor:
        """What the sound's autoencoder takes, for (n, samples): (n, channels, spectra, bands)."""

    def log_mel(self, waveform: Tensor) -> Tensor:
        """The spectrograms (..., spectra, bands) of (..., samples)."""

    def sound_parts(self) -> dict[str, nn.Module]:
        """A fresh autoencoder of spectrograms, ``audio_vae``, and a fresh ``vocoder``."""

    def set_sound_scale(self, audio_vae: Any, spectrograms: Tensor) -> None:
        """Make the sound's latents zero-mean and unit-variance."""

    def sound_latents(self, audio_vae: Any, spectrograms: Tensor) -> Tensor:
        """Latents of spectrograms as the denoiser sees them."""


def channel_scale(latents: Tensor) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of every channel of (n, c, ...)."""
    values = latents.transpose(0, 1).flatten(1)
    return values.mean(1).tolist(), values.std(1).tolist()
