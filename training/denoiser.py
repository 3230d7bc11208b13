"""Train a denoiser and its text encoders together, on latents, by the process that its sampler inverts."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from training.loop import train

CONDITION_DROPOUT = 0.1


@dataclass(frozen=True)
class Noising:
    """One batch's noise levels: ``x_t = alpha x + sigma noise``, and the model learns ``a x + b noise``; all (B,)."""

    timestep: Tensor
    alpha: Tensor
    sigma: Tensor
    a: Tensor
    b: Tensor


def noise_levels(batch: int, generator: torch.Generator) -> Tensor:
    """Logit-normal in 0 .. 1, around the levels at which shapes take form, where shifted grids have most steps."""
    return torch.sigmoid(1.0 + torch.randn(batch, generator=generator))


def flow_matching(batch: int, generator: torch.Generator) -> Noising:
    """Velocity ``noise - data``; timesteps 0 .. 1."""
    t, one = noise_levels(batch, generator), torch.ones(batch)
    return Noising(t, 1 - t, t, -one, one)


def v_prediction(alphas_cumprod: Tensor) -> Callable[[int, torch.Generator], Noising]:
    """``alpha noise - sigma data`` at uniform integer timesteps of a table."""

    def draw(batch: int, generator: torch.Generator) -> Noising:
        t = torch.randint(len(alphas_cumprod), (batch,), generator=generator)
        cumulative = alphas_cumprod[t].float()
        alpha, sigma = cumulative.sqrt(), (1 - cumulative).sqrt()
        return Noising(t, alpha, sigma, -sigma, alpha)

    return draw


def noised(x: Tensor, noise: Tensor, level: Noising) -> tuple[Tensor, Tensor]:
    """A batch as the denoiser gets it, and what it should say of it."""
    alpha, sigma, a, b = (v.view(-1, *[1] * (x.ndim - 1)) for v in (level.alpha, level.sigma, level.a, level.b))
    return alpha * x + sigma * noise, a * x + b * noise


def mean_error(outputs: tuple[Tensor, ...], targets: tuple[Tensor, ...]) -> Tensor:
    """The mean, over streams, of the mean squared errors."""
    errors = [(y.float() - target).square().mean() for y, target in zip(outputs, targets, strict=True)]
    return torch.stack(errors).mean()


def hidden_matrices(denoiser: nn.Module) -> list[nn.Parameter]:
    """The weight matrices of the blocks that act on tokens, which Muon trains; modulation sees the time only."""
    return [
        parameter
        for name, parameter in denoiser.named_parameters()
        if parameter.ndim == 2 and name.endswith(".weight") and re.search(r"\.\d+\.", name) and "norm" not in name
    ]


def fit(
    predict: Callable[..., Any],
    noising: Callable[[int, torch.Generator], Noising],
    denoiser: nn.Module,
    text_encoders: list[nn.Module],
    latents: Tensor | tuple[Tensor, ...],
    tokens: tuple[Tensor, ...],
    empty: tuple[Tensor, ...],
    folder: Path,
    *,
    num_steps: int,
    seconds: float,
    batch: int,
) -> None:
    """Mean squared error of ``predict(noisy, timestep, *ids)``.

    ``latents`` (n, ...) as the denoiser sees them, a tuple of such where it denoises several streams at once, at the
    same level of noise: ``predict`` then takes and gives tuples, and the loss is the mean of theirs. ``tokens`` are
    the captions' ids, each (n, length); ``empty`` those of the empty one, each (1, length), which replace one in ten.
    """
    several = isinstance(latents, tuple)
    streams = latents if several else (latents,)

    def loss_of(noisy: tuple[Tensor, ...], targets: tuple[Tensor, ...], timestep: Tensor, *ids: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            output = predict(noisy if several else noisy[0], timestep, *ids)
        return mean_error(output if several else (output,), targets)

    compiled = torch.compile(loss_of)

    def loss_at(step: int, generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(streams[0]), (batch,), generator=generator)
        noise = [torch.randn(batch, *x.shape[1:], generator=generator) for x in streams]
        level = noising(batch, generator)
        pairs = [noised(x[rows].float(), e, level) for x, e in zip(streams, noise, strict=True)]
        noisy, targets = zip(*pairs, strict=True)
        drop = torch.rand(batch, 1, generator=generator) < CONDITION_DROPOUT
        ids = [torch.where(drop, void, ids[rows]) for ids, void in zip(tokens, empty, strict=True)]
        return compiled(noisy, targets, level.timestep, *ids)

    train(
        "transformer",
        loss_at,
        [p for module in (denoiser, *text_encoders) for p in module.parameters()],
        folder,
        num_steps=num_steps,
        learning_rate=1e-3,
        matrices=hidden_matrices(denoiser),
        seconds=seconds,
        warmup=min(500, num_steps // 20),
    )
