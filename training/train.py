"""Train one of the small pipelines from nothing: ``python -m training.train flux``.

Resumable: each part goes on from its checkpoint. On two CPU cores 20 000 steps take three to four hours.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor, nn

from training import audio, autoencoder, denoiser
from training.autoencoder import to_tensor
from training.data import drawn_on_disk, sounds_on_disk
from training.families import FAMILIES, Family, Sounding


def prompts(family: Family, split: str, count: int) -> list[str]:
    """``count`` different captions of a split, the same ones at every call."""
    rng = np.random.default_rng(0)
    found: dict[str, None] = {}
    while len(found) < count:
        found[family.sample(rng, split).caption] = None
    return list(found)


@torch.no_grad()
def encoded(family: Family, vae: Any, pixels: np.ndarray, path: Path, chunk: int) -> Tensor:
    """All latents as the denoiser sees them, bfloat16; computed once, kept at ``path``."""
    if not path.exists():
        rows = []
        for start in range(0, len(pixels), chunk):
            with torch.autocast("cpu", torch.bfloat16):
                rows.append(family.latents(vae, to_tensor(pixels[start : start + chunk])).bfloat16())
        torch.save(torch.cat(rows), path)
    return torch.load(path, weights_only=True)


def video_autoencoder(
    family: Family,
    drawn: np.ndarray,
    folder: Path,
    started: Any,
    vae_from: Path | None,
    steps: int | None,
    seconds: float,
) -> Any:
    """The autoencoder of pictures or clips: that of a finished pipeline, or the one trained here, or one to train."""
    torch.manual_seed(0)
    vae: Any = family.autoencoder()
    if started is not None:
        return started.vae
    if vae_from is not None or (folder / "vae").exists():
        return type(vae).from_pretrained((vae_from or folder) / "vae", torch_dtype=torch.float32)
    autoencoder.fit(
        vae,
        lambda z, frames: family.decoded(vae, z, frames),
        drawn,
        folder,
        family.autoencoder_stages,
        steps=steps,
        seconds=seconds,
    )
    with torch.no_grad():
        family.set_latent_scale(vae, to_tensor(drawn[:64]))
    vae.save_pretrained(folder / "vae")
    return vae


def save(family: Family, pipe: Any, out: Path) -> None:
    """The finished pipeline in bfloat16, the settings for its calls, and captions that it was not trained on."""
    pipe.to(torch.bfloat16).save_pretrained(out)
    (out / "settings.json").write_text(json.dumps(family.settings, indent=1) + "\n")
    splits = {split: prompts(family, split, 64) for split in ("calibration", "held_out")}
    (out / "prompts.json").write_text(json.dumps(splits, indent=1) + "\n")


def main(
    name: Annotated[str, typer.Argument(help=f"one of {', '.join(FAMILIES)}")],
    folder: Annotated[Path | None, typer.Option(help="checkpoints, loss curves, drawn pictures")] = None,
    out: Annotated[Path | None, typer.Option(help="where the finished pipeline goes")] = None,
    samples: Annotated[int | None, typer.Option(help="how many pictures or clips to draw")] = None,
    start_from: Annotated[
        Path | None, typer.Option(help="go on from the weights of a finished pipeline, with a fresh optimizer")
    ] = None,
    vae_from: Annotated[
        Path | None, typer.Option(help="a finished pipeline whose autoencoder to use, in place of training one")
    ] = None,
    autoencoder_steps: Annotated[int | None, typer.Option(help="of each stage of the autoencoder")] = None,
    autoencoder_seconds: Annotated[float, typer.Option(help="stop each of these stages after so long")] = math.inf,
    sound_steps: Annotated[int, typer.Option(help="of the sound's autoencoder, and of the vocoder")] = 3_000,
    sound_seconds: Annotated[float, typer.Option(help="stop each of these two after so long")] = math.inf,
    transformer_steps: int | None = None,
    transformer_seconds: Annotated[float, typer.Option(help="stop the transformer after so long")] = math.inf,
) -> None:
    """Draw the scenes, train the autoencoder, then text encoders and denoiser, and save the pipeline in bf16."""
    family = FAMILIES[name]
    folder, out = folder or Path("training/runs") / name, out or family.folder
    samples = samples or family.samples
    drawn, captions = drawn_on_disk(family, folder, samples)
    started = family.load(start_from) if start_from else None

    vae = video_autoencoder(family, drawn, folder, started, vae_from, autoencoder_steps, autoencoder_seconds)
    latents: Any = encoded(family, vae.eval(), drawn, folder / f"latents-{samples}.pt", 24)
    heard: dict[str, nn.Module] = {}
    if isinstance(family, Sounding):
        waveforms = sounds_on_disk(family, folder, samples)
        heard, sound = audio.trained_parts(
            family, waveforms, folder, started, num_steps=sound_steps, seconds=sound_seconds
        )
        latents = (latents, sound)

    torch.manual_seed(0)
    tokenizers = family.tokenizers(captions)
    if started is not None:  # the words keep their numbers, whatever captions were drawn this time
        tokenizers = {part: getattr(started, part) for part in tokenizers}
    networks = family.networks(tokenizers)
    if started is not None:
        for part, network in networks.items():
            network.load_state_dict(getattr(started, part).state_dict())
    denoiser.fit(
        lambda noisy, timestep, *ids: family.predict(networks, noisy, timestep, *ids),
        family.noising(),
        networks["transformer"],
        [network for part, network in networks.items() if part != "transformer"],
        latents,
        family.tokenize(tokenizers, captions),
        family.tokenize(tokenizers, [""]),
        folder,
        num_steps=family.transformer_steps if transformer_steps is None else transformer_steps,
        seconds=transformer_seconds,
        batch=family.transformer_batch,
    )
    save(family, family.pipeline(vae, networks | heard, tokenizers), out)


if __name__ == "__main__":
    typer.run(main)
