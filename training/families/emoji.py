"""Emoji of 64 pixels: FLUX, flow matching, true guidance in two calls, captions that leave most open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from torch import Tensor, nn

from training import emoji, text
from training.autoencoder import Stage
from training.families.flux import Flux

T5_LENGTH = 16


class Emoji(Flux):
    """6 million parameters, 8 x 8 image tokens of 16 numbers."""

    name = "emoji"
    folder = Path("src/ertacache/zoo/emoji")
    shift = 1.0  # none, as FLUX.1-schnell: with strong guidance half of the steps do not do
    samples = 60_000
    autoencoder_stages = (Stage("autoencoder", 1_500, batch=16, side=emoji.PIXELS),)
    transformer_steps, transformer_batch = 40_000, 32
    settings: dict[str, Any] = {  # noqa: RUF012
        "num_inference_steps": 30,
        "true_cfg_scale": 8.0,
        "negative_prompt": "",
        "height": emoji.PIXELS,
        "width": emoji.PIXELS,
        "max_sequence_length": T5_LENGTH,
    }

    def sample(self, rng: np.random.Generator, split: str) -> emoji.Scene:
        return emoji.sample_scene(rng, split)

    def draw(self, scene: emoji.Scene, rng: np.random.Generator) -> np.ndarray:
        return emoji.draw(scene, rng)

    def autoencoder(self) -> nn.Module:
        """That of the shapes, to go on from: a picture becomes a 16 x 16 latent of 4 channels."""
        vae: nn.Module = AutoencoderKL.from_pretrained(Flux.folder / "vae", torch_dtype=torch.float32)
        return vae.to(memory_format=torch.channels_last)

    def networks(self, tokenizers: dict[str, Any]) -> dict[str, nn.Module]:
        transformer = FluxTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=2,
            num_single_layers=5,
            attention_head_dim=48,
            num_attention_heads=4,
            joint_attention_dim=text.WIDTH,
            pooled_projection_dim=text.WIDTH,
            guidance_embeds=False,
            axes_dims_rope=(8, 20, 20),
        )
        return {
            "transformer": transformer,
            "text_encoder": text.clip_encoder(tokenizers["tokenizer"]),
            "text_encoder_2": text.t5_encoder(tokenizers["tokenizer_2"]),
        }

    def tokenize(self, tokenizers: dict[str, Any], captions: list[str]) -> tuple[Tensor, ...]:
        return (
            text.ids(tokenizers["tokenizer"], captions, text.CLIP_LENGTH),
            text.ids(tokenizers["tokenizer_2"], captions, T5_LENGTH),
        )
