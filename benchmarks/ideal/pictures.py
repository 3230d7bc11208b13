"""The set of real pictures: emoji of four classes on white, small."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from PIL import Image
from torch import Tensor

from benchmarks.ideal.denoiser import IdealDenoiser
from benchmarks.ideal.pipeline import IdealPipeline

emoji: Any = import_module("training.emoji")  # what trains is not type-checked, and is no part of what is

SIZE = 32
SHIFT = 3.0
CLASSES: dict[str, tuple[str, ...]] = {
    "a face": ("face",),
    "an animal": ("animal", "sea animal"),
    "food": ("fruit", "meal"),
    "a vehicle": ("vehicle",),
}
"""By prompt: kinds of `training.emoji.KINDS`. The smallest, faces, has 188 pictures."""


def on_white(pixels: np.ndarray[Any, Any]) -> Tensor:
    """One picture of the set, float32 (3, SIZE, SIZE) in -1 .. 1.

    Args:
        pixels: uint8 (STORED, STORED, 4), colours not multiplied by the opacity.
    """
    shown = Image.new("RGBA", (emoji.STORED, emoji.STORED), "white")
    shown.alpha_composite(Image.fromarray(pixels))
    small = np.array(shown.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BOX), np.float32)
    return torch.from_numpy(small / 127.5 - 1).permute(2, 0, 1)


def sampled(num_pictures: int, seed: int) -> tuple[Tensor, Tensor]:
    """Equally many pictures of each class.

    Args:
        num_pictures: in all, rounded down to a multiple of the number of classes.
        seed: of the choice; another number of pictures with the same seed is a smaller or larger set around the same.

    Returns:
        The pictures, float32 (N, 3, SIZE, SIZE) in -1 .. 1, and their classes, int64 (N,).

    Raises:
        ValueError: if a class has not so many.
    """
    known = emoji.pictures()
    each, rng = num_pictures // len(CLASSES), np.random.default_rng(seed)
    chosen: list[int] = []
    for prompt, kinds in CLASSES.items():
        rows = [row for kind in kinds for thing in emoji.KINDS[kind] for row in known.of_thing[thing]]
        if len(rows) < each:
            raise ValueError(f"{prompt} has {len(rows)} pictures, not {each}")
        chosen += rng.permutation(rows)[:each].tolist()
    pictures = torch.stack([on_white(known.pixels[row]) for row in chosen])
    return pictures, torch.arange(len(CLASSES)).repeat_interleave(each)


def pipeline(num_pictures: int, window: int, seed: int = 0) -> IdealPipeline:
    """The pipeline of a set.

    Args:
        num_pictures: see `sampled`.
        window: see `IdealDenoiser`.
        seed: see `sampled`.
    """
    denoiser = IdealDenoiser.of(*sampled(num_pictures, seed), window)
    pipe = IdealPipeline(denoiser, FlowMatchEulerDiscreteScheduler(shift=SHIFT), tuple(CLASSES))
    pipe.set_progress_bar_config(disable=True)
    return pipe
