"""Train an autoencoder of pictures or of clips."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from training.loop import train

NOISE = 0.1


@dataclass(frozen=True)
class Stage:
    """A part of an autoencoder's training.

    Single frames first: they teach colours, edges and shapes several times faster than clips do, since a batch of the
    same cost holds many more scenes. Then short pieces of clips, for what changes in time.

    Args:
        name: of its checkpoint and of its loss curve.
        steps: how many.
        batch: how many pieces in a step.
        side: pixels, of the square that is cut out at a random place.
        frames: how many frames are cut out of a clip; None where the data are pictures.
        part: the submodule of the autoencoder that is trained alone, itself one of pictures; "" is all of it.
        frozen: whether the encoder stays as it is, so that a denoiser may train on its latents meanwhile.
    """

    name: str
    steps: int
    batch: int
    side: int
    frames: int | None = None
    part: str = ""
    frozen: bool = False

    def cut(self, pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A batch of pieces: (batch, [frames,] side, side, 3)."""

        def place(size: int, piece: int) -> slice:
            start = rng.integers(size - piece + 1)
            return slice(start, start + piece)

        *clip, height, width, _ = pixels.shape[1:]
        rows = np.sort(rng.integers(len(pixels), size=self.batch))
        sizes = [(height, self.side), (width, self.side)]
        if clip:
            assert self.frames is not None
            sizes = [(clip[0], self.frames), *sizes]
        return np.stack([pixels[(row, *(place(*size) for size in sizes))] for row in rows])


def to_tensor(pixels: np.ndarray) -> Tensor:
    """uint8 (n, [frames,] h, w, 3) to float32 (n, 3, [frames,] h, w) in -1 .. 1."""
    return torch.from_numpy(np.array(pixels)).movedim(-1, 1).float() / 127.5 - 1


def _edges(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]


def channels_last(network: torch.nn.Module) -> None:
    """Lay the kernels of all convolutions out as the CPU's fastest ones read them."""
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
        elif isinstance(module, torch.nn.Conv3d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last_3d)


@torch.no_grad()
def latent_shape(vae: Any, x: Tensor) -> torch.Size:
    """The shape of the latents of ``x``, found on one row of it."""
    one: Tensor = vae.encode(x[:1]).latent_dist.mean
    return torch.Size((len(x), *one.shape[1:]))


def fit(
    vae: Any,
    decode: Callable[[Tensor, int], Tensor],
    pixels: np.ndarray,
    folder: Path,
    stages: Sequence[Stage],
    *,
    steps: int | None,
    seconds: float,
) -> None:
    """Squared error on pixels, then also absolute error on pixels and on their differences, decoding noisy latents.

    The noise has one fixed size, to which the encoder's variance is pulled: simpler than a divergence, and it
    keeps the latents smooth just as well.

    Args:
        vae: any autoencoder of diffusers' form.
        decode: from latents, and the length of the third axis of what was encoded.
        pixels: uint8, (n, [frames,] h, w, 3).
        folder: for checkpoints and loss curves.
        stages: in this order.
        steps: of each stage, in place of its own.
        seconds: a stage ends after so long.
    """

    channels_last(vae)

    # Not compiled: on a CPU, torch 2.13 then gives gradients of Open-Sora's autoencoder that point elsewhere.
    def loss_of(stage: Stage, x: Tensor, noise: Tensor, sharpness: float) -> Tensor:
        network = vae.get_submodule(stage.part)
        with torch.autocast("cpu", torch.bfloat16):
            with torch.set_grad_enabled(not stage.frozen):
                posterior = network.encode(x).latent_dist
            noisy = posterior.mean + NOISE * noise
            y = network.decode(noisy).sample if stage.part else decode(noisy, x.shape[2])
        y, mean, logvar = y.float(), posterior.mean.float(), posterior.logvar.float()
        coarse = (y - x).square().mean()
        fine = (y - x).abs().mean()
        edges = sum((a - b).abs().mean() for a, b in zip(_edges(y), _edges(x), strict=True))
        size = mean.square().mean() + (logvar - 2 * math.log(NOISE)).square().mean()
        return coarse + sharpness * (fine + edges) + 1e-3 * size

    for number, stage in enumerate(stages):

        def loss_at(step: int, generator: torch.Generator, stage: Stage = stage, first: bool = number == 0) -> Tensor:
            sharpness = min(max(step - 200, 0) / 400, 0.5) if first else 0.5
            x = to_tensor(stage.cut(pixels, np.random.default_rng([step, stage.batch])))
            if stage.part:
                x = x.transpose(1, 2).flatten(0, 1)
            x = x.contiguous(memory_format=torch.channels_last if x.ndim == 4 else torch.channels_last_3d)
            noise = torch.randn(latent_shape(vae.get_submodule(stage.part), x), generator=generator)
            return loss_of(stage, x, noise, sharpness)

        network = vae.get_submodule(stage.part)
        train(
            stage.name,
            loss_at,
            list((network.decoder if stage.frozen else network).parameters()),
            folder,
            num_steps=stage.steps if steps is None else steps,
            learning_rate=2e-3 if number == 0 else 1e-3,
            seconds=seconds,
        )
