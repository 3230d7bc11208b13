"""Train an autoencoder of pictures or of clips."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from training.loop import train

NOISE = 0.1


def to_tensor(pixels: np.ndarray) -> Tensor:
    """uint8 (n, [frames,] h, w, 3) to float32 (n, 3, [frames,] h, w) in -1 .. 1."""
    return torch.from_numpy(np.array(pixels)).movedim(-1, 1).float() / 127.5 - 1


def _edges(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]


def fit(vae: Any, pixels: np.ndarray, folder: Path, *, num_steps: int, seconds: float, batch: int) -> None:
    """Squared error on pixels, then also absolute error on pixels and on their differences, decoding noisy latents.

    The noise has one fixed size, to which the encoder's variance is pulled: simpler than a divergence, and it
    keeps the latents smooth just as well.
    """
    with torch.no_grad():
        latent_shape = vae.encode(to_tensor(pixels[:1])).latent_dist.mean.shape[1:]

    def losses(x: Tensor, noise: Tensor, sharpness: Tensor) -> Tensor:
        posterior = vae.encode(x).latent_dist
        y = vae.decode(posterior.mean + NOISE * noise).sample
        coarse = (y - x).square().mean()
        fine = (y - x).abs().mean()
        edges = sum((a - b).abs().mean() for a, b in zip(_edges(y), _edges(x), strict=True))
        size = posterior.mean.square().mean() + (posterior.logvar - 2 * math.log(NOISE)).square().mean()
        return coarse + sharpness * (fine + edges) + 1e-3 * size

    def loss_at(step: int, generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(pixels), (batch,), generator=generator).sort().values.numpy()
        sharpness = torch.tensor(min(max(step - 200, 0) / 400, 0.5))
        x = to_tensor(pixels[rows])
        if x.ndim == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        return losses(x, torch.randn(batch, *latent_shape, generator=generator), sharpness)

    train(
        "autoencoder",
        loss_at,
        list(vae.parameters()),
        folder,
        num_steps=num_steps,
        learning_rate=2e-3,
        seconds=seconds,
    )
