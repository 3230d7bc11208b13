"""Train the embedded FLUX-type pipeline from nothing: ``python -m training.train_flux``.

Resumable: each part goes on from its checkpoint. On two CPU cores 20 000 steps take about two and a half hours.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline

from training import autoencoder, text, transformer
from training.data import scenes_on_disk
from training.scenes import PIXELS, sample_scene

SHIFT = 3.0
SETTINGS = {
    "num_inference_steps": 30,
    "true_cfg_scale": 4.0,
    "negative_prompt": "",
    "height": PIXELS,
    "width": PIXELS,
    "max_sequence_length": text.T5_LENGTH,
}
"""What every call of the finished pipeline should be given."""


def prompts(split: str, count: int) -> list[str]:
    """``count`` different captions of a split, the same ones at every call."""
    rng = np.random.default_rng(0)
    found: dict[str, None] = {}
    while len(found) < count:
        found[sample_scene(rng, split).caption] = None
    return list(found)


def main(
    folder: Annotated[Path, typer.Option(help="checkpoints, loss curves, drawn pictures")] = Path("training/runs/flux"),
    out: Annotated[Path, typer.Option(help="where the finished pipeline goes")] = Path("src/ertacache/zoo/flux"),
    pictures: Annotated[int, typer.Option(help="how many pictures to draw")] = 40_000,
    autoencoder_steps: int = 1_350,
    autoencoder_seconds: Annotated[float, typer.Option(help="stop the autoencoder after so long")] = math.inf,
    start_from: Annotated[
        Path | None, typer.Option(help="go on from the weights of a finished pipeline, with a fresh optimizer")
    ] = None,
    transformer_steps: int = 20_000,
    transformer_seconds: Annotated[float, typer.Option(help="stop the transformer after so long")] = math.inf,
) -> None:
    """Draw the scenes, train the autoencoder, then text encoders and denoiser, and save the pipeline in bf16."""
    drawn, captions = scenes_on_disk(folder, pictures)

    if start_from is not None:
        vae = AutoencoderKL.from_pretrained(start_from / "vae", torch_dtype=torch.float32)
    elif (folder / "vae").exists():
        vae = AutoencoderKL.from_pretrained(folder / "vae")
    else:
        vae = autoencoder.build()
        autoencoder.fit(vae, drawn, folder, num_steps=autoencoder_steps, seconds=autoencoder_seconds)
        autoencoder.set_latent_scale(vae, drawn[:512])
        vae.save_pretrained(folder / "vae")
    latents = transformer.encode(vae.eval(), drawn, folder / f"latents-{pictures}.pt")

    clip_tokenizer, t5_tokenizer = text.clip_tokenizer(captions), text.t5_tokenizer(captions)
    denoiser = transformer.build()
    clip, t5 = text.clip_encoder(clip_tokenizer), text.t5_encoder(t5_tokenizer)
    if start_from is not None:
        started = FluxPipeline.from_pretrained(start_from, torch_dtype=torch.float32)
        for module, name in ((denoiser, "transformer"), (clip, "text_encoder"), (t5, "text_encoder_2")):
            module.load_state_dict(getattr(started, name).state_dict())
    transformer.fit(
        denoiser,
        clip,
        t5,
        latents,
        text.tokenize(clip_tokenizer, t5_tokenizer, captions),
        text.tokenize(clip_tokenizer, t5_tokenizer, [""]),
        folder,
        num_steps=transformer_steps,
        seconds=transformer_seconds,
    )
    pipe = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=SHIFT),
        vae=vae,
        text_encoder=clip,
        tokenizer=clip_tokenizer,
        text_encoder_2=t5,
        tokenizer_2=t5_tokenizer,
        transformer=denoiser,
    ).to(torch.bfloat16)
    pipe.save_pretrained(out)
    (out / "settings.json").write_text(json.dumps(SETTINGS, indent=1) + "\n")
    (out / "prompts.json").write_text(
        json.dumps({split: prompts(split, 64) for split in ("calibration", "held_out")}, indent=1) + "\n"
    )


if __name__ == "__main__":
    typer.run(main)
