"""Train the picture autoencoder of the FLUX-type pipeline: 4x downsampling, 4 latent channels."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

from training.loop import train

NOISE = 0.1


def build() -> AutoencoderKL:
    """A small `AutoencoderKL`, its blocks chosen so that a 96-pixel picture becomes a 24 x 24 latent."""
    torch.manual_seed(0)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=96,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=False,
    )


def to_tensor(pictures: np.ndarray) -> torch.Tensor:
    """uint8 (n, h, w, 3) to float32 (n, 3, h, w) in -1 .. 1, channels last in memory."""
    return torch.from_numpy(np.array(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


def _edges(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]


def fit(vae: AutoencoderKL, pictures: np.ndarray, folder: Path, *, num_steps: int, seconds: float) -> None:
    """Squared error on pixels, then also absolute error on pixels and on their differences, decoding noisy latents.

    The noise has one fixed size, to which the encoder's variance is pulled: simpler than a divergence, and it
    keeps the latents smooth just as well.
    """
    vae.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def losses(x: torch.Tensor, noise: torch.Tensor, sharpness: torch.Tensor) -> torch.Tensor:
        posterior = vae.encode(x).latent_dist
        y = vae.decode(posterior.mean + NOISE * noise).sample
        coarse = (y - x).square().mean()
        pixels = (y - x).abs().mean()
        edges = sum((a - b).abs().mean() for a, b in zip(_edges(y), _edges(x), strict=True))
        size = posterior.mean.square().mean() + (posterior.logvar - 2 * math.log(NOISE)).square().mean()
        return coarse + sharpness * (pixels + edges) + 1e-3 * size

    def loss_at(step: int, generator: torch.Generator) -> torch.Tensor:
        rows = torch.randint(len(pictures), (16,), generator=generator).sort().values.numpy()
        sharpness = torch.tensor(min(max(step - 200, 0) / 400, 0.5))
        noise = torch.randn(len(rows), vae.config.latent_channels, 24, 24, generator=generator)
        return losses(to_tensor(pictures[rows]).contiguous(memory_format=torch.channels_last), noise, sharpness)

    train(
        "autoencoder",
        loss_at,
        list(vae.parameters()),
        folder,
        num_steps=num_steps,
        learning_rate=2e-3,
        seconds=seconds,
    )


@torch.no_grad()
def set_latent_scale(vae: AutoencoderKL, pictures: np.ndarray) -> None:
    """Make latents zero-mean and unit-variance as the pipeline sees them: ``(z - shift) * scale``."""
    latents = vae.encode(to_tensor(pictures)).latent_dist.mean
    vae.register_to_config(shift_factor=float(latents.mean()), scaling_factor=float(1 / latents.std()))
