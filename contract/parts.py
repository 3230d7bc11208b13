"""Building blocks and arguments of the tiny pipelines."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn


def lively(module: nn.Module, seed: int = 0) -> Any:
    """Set weights so that the output depends on all inputs: new layers may be zero, or nearly ignore the timestep."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            scale = 1.0 / parameter[0].numel() ** 0.5 if parameter.ndim >= 2 else 0.1
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale + (parameter.ndim < 2) * 0.5)
    return module.eval()


def random(*shape: int, seed: int = 0) -> Tensor:
    """A normal tensor, such as embeddings, always the same."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def picture(size: int) -> Tensor:
    """A picture to start from, (1, 3, size, size), in [0, 1]."""
    return torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(5))


def photograph(size: int) -> Image.Image:
    """The same for pipelines that want a PIL image."""
    return Image.fromarray((picture(size)[0].permute(1, 2, 0).numpy() * 255).astype("uint8"))
