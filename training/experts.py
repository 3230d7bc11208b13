"""Make two experts of the trained Wan-type denoiser, as Wan 2.2 has them: ``python -m training.experts``.

One expert goes on training at the noise levels above the boundary only, the other below it. Resumable.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from diffusers import WanPipeline

from training import denoiser
from training.data import drawn_on_disk
from training.denoiser import Noising
from training.families.wan import Wan
from training.train import encoded, save

BOUNDARY = 0.75
"""The noise level between the experts: with the shift of 3, ten of 20 steps are above it."""


def between(low: float, high: float) -> Callable[[int, torch.Generator], Noising]:
    """Flow matching at noise levels of this range, uniform."""

    def draw(batch: int, generator: torch.Generator) -> Noising:
        t = low + (high - low) * torch.rand(batch, generator=generator)
        one = torch.ones(batch)
        return Noising(t, 1 - t, t, -one, one)

    return draw


def main(
    source: Annotated[Path, typer.Option(help="the pipeline to start from")] = Wan.folder,
    folder: Annotated[Path, typer.Option(help="checkpoints, loss curves, drawn clips")] = Path("training/runs/wan22"),
    out: Annotated[Path, typer.Option(help="where the finished pipeline goes")] = Path("training/pipelines/wan22"),
    samples: Annotated[int, typer.Option(help="how many clips to draw")] = 2_000,
    steps: Annotated[int, typer.Option(help="of each expert")] = 1_000,
    seconds: Annotated[float, typer.Option(help="stop each of them after so long")] = 600.0,
) -> None:
    """Train both experts, and save the pipeline."""
    family = Wan()
    pipe: Any = family.load(source)
    drawn, captions = drawn_on_disk(family, folder, samples)
    latents = encoded(family, pipe.vae.eval(), drawn, folder / f"latents-{samples}.pt", 24)
    tokenizers = {"tokenizer": pipe.tokenizer}
    experts = []
    for name, levels in (("high", (BOUNDARY, 1.0)), ("low", (0.0, BOUNDARY))):
        networks = {"transformer": copy.deepcopy(pipe.transformer), "text_encoder": pipe.text_encoder}
        denoiser.fit(
            lambda noisy, timestep, *ids, networks=networks: family.predict(networks, noisy, timestep, *ids),
            between(*levels),
            networks["transformer"],
            [],
            latents,
            family.tokenize(tokenizers, captions),
            family.tokenize(tokenizers, [""]),
            folder / name,
            num_steps=steps,
            seconds=seconds,
            batch=family.transformer_batch,
        )
        experts.append(networks["transformer"])
    parts = {**pipe.components, "transformer": experts[0], "transformer_2": experts[1]}
    save(family, WanPipeline(**parts, boundary_ratio=BOUNDARY), out)


if __name__ == "__main__":
    typer.run(main)
