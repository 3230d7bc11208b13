"""FLUX: pictures of 96 pixels, flow matching, true guidance in two calls."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from torch import Tensor, nn

from training import scenes, text
from training.autoencoder import Stage
from training.denoiser import Noising, flow_matching


class Flux:
    """4.5 million parameters, 12 x 12 image tokens: about 15 ms a call on two CPU cores."""

    name = "flux"
    shift = 3.0
    folder = Path("training/pipelines/flux")
    samples = 40_000
    autoencoder_stages = (Stage("autoencoder", 1_350, batch=16, side=96),)
    transformer_steps, transformer_batch = 20_000, 32
    settings: dict[str, Any] = {  # noqa: RUF012
        "num_inference_steps": 30,
        "true_cfg_scale": 4.0,
        "negative_prompt": "",
        "height": scenes.PIXELS,
        "width": scenes.PIXELS,
        "max_sequence_length": text.T5_LENGTH,
    }

    def sample(self, rng: np.random.Generator, split: str) -> scenes.Scene:
        return scenes.sample_scene(rng, split)

    def draw(self, scene: scenes.Scene, rng: np.random.Generator) -> np.ndarray:
        return scenes.draw(scene, rng)

    def autoencoder(self) -> nn.Module:
        """4x downsampling, 4 channels: a 96-pixel picture becomes a 24 x 24 latent."""
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
        ).to(memory_format=torch.channels_last)

    def decoded(self, vae: Any, z: Tensor, num_frames: int) -> Tensor:
        return vae.decode(z).sample

    def latents(self, vae: Any, pixels: Tensor) -> Tensor:
        z = vae.encode(pixels.contiguous(memory_format=torch.channels_last)).latent_dist.mean
        z = (z.float() - vae.config.shift_factor) * vae.config.scaling_factor
        return FluxPipeline._pack_latents(z, *z.shape)

    def set_latent_scale(self, vae: Any, pixels: Tensor) -> None:
        z = vae.encode(pixels).latent_dist.mean
        vae.register_to_config(shift_factor=float(z.mean()), scaling_factor=float(1 / z.std()))

    def tokenizers(self, captions: list[str]) -> dict[str, Any]:
        return {"tokenizer": text.clip_tokenizer(captions), "tokenizer_2": text.t5_tokenizer(captions)}

    def networks(self, tokenizers: dict[str, Any]) -> dict[str, nn.Module]:
        transformer = FluxTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=2,
            num_single_layers=3,
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
            text.ids(tokenizers["tokenizer_2"], captions, text.T5_LENGTH),
        )

    def noising(self) -> Callable[[int, torch.Generator], Noising]:
        return flow_matching

    def predict(self, networks: dict[str, Any], noisy: Tensor, timestep: Tensor, *ids: Tensor) -> Tensor:
        side = int(noisy.shape[1] ** 0.5)
        return networks["transformer"](
            hidden_states=noisy,
            timestep=timestep,
            encoder_hidden_states=networks["text_encoder_2"](ids[1])[0],
            pooled_projections=networks["text_encoder"](ids[0]).pooler_output,
            txt_ids=torch.zeros(ids[1].shape[1], 3),
            img_ids=FluxPipeline._prepare_latent_image_ids(1, side, side, "cpu", torch.float32),
            return_dict=False,
        )[0]

    def load(self, folder: Path) -> FluxPipeline:
        return FluxPipeline.from_pretrained(folder, torch_dtype=torch.float32)

    def pipeline(self, vae: Any, networks: dict[str, Any], tokenizers: dict[str, Any]) -> FluxPipeline:
        scheduler = FlowMatchEulerDiscreteScheduler(shift=self.shift)
        return FluxPipeline(vae=vae, scheduler=scheduler, **networks, **tokenizers)
