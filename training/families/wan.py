"""Wan: clips of 17 frames of 48 pixels, flow matching sampled by UniPC, guidance in two calls."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, WanResample
from torch import Tensor, nn

from training import clips, text
from training.autoencoder import Stage
from training.denoiser import Noising, flow_matching
from training.families.base import channel_scale

CHANNELS = 8


@torch.no_grad()
def start_from_frames(vae: AutoencoderKLWan) -> None:
    """Make its convolutions see one frame, the newest, and repeat frames where time is upsampled.

    So what a first stage on single frames teaches holds for every frame of a clip.
    """
    for convolution in (m for m in vae.modules() if isinstance(m, WanCausalConv3d) and m.kernel_size[0] > 1):
        newest = convolution.weight[:, :, -1].clone()
        convolution.weight.zero_()
        convolution.weight[:, :, -1] = newest * len(convolution.weight[0, 0]) ** 0.5
    for convolution in (m.time_conv for m in vae.modules() if isinstance(m, WanResample) and m.mode.endswith("3d")):
        out, into = convolution.weight.shape[:2]
        convolution.weight[:, :, -1, 0, 0] = torch.eye(into).repeat(out // into, 1)
        convolution.bias.zero_()


class Wan:
    """2.9 million parameters, 5 x 6 x 6 tokens."""

    name = "wan"
    folder = Path("training/pipelines/wan")
    samples = 6_000
    autoencoder_stages = (
        Stage("autoencoder-frames", 1_200, batch=64, side=24, frames=1),
        Stage("autoencoder-clips", 800, batch=16, side=24, frames=9),
    )
    transformer_steps, transformer_batch = 10_000, 16
    settings: dict[str, Any] = {  # noqa: RUF012
        "num_inference_steps": 30,
        "guidance_scale": 4.0,
        "negative_prompt": "",
        "height": clips.PIXELS,
        "width": clips.PIXELS,
        "num_frames": clips.FRAMES,
        "max_sequence_length": text.T5_LENGTH,
    }

    def sample(self, rng: np.random.Generator, split: str) -> clips.Clip:
        return clips.sample_clip(rng, split)

    def draw(self, scene: clips.Clip, rng: np.random.Generator) -> np.ndarray:
        return clips.draw_clip(scene, rng)

    def autoencoder(self) -> nn.Module:
        """4x downsampling in space and time: 17 frames of 48 pixels become 5 x 12 x 12 latents."""
        vae = AutoencoderKLWan(
            base_dim=12,
            z_dim=CHANNELS,
            dim_mult=[1, 2, 4],
            num_res_blocks=1,
            temperal_downsample=[True, True],
            latents_mean=[0.0] * CHANNELS,
            latents_std=[1.0] * CHANNELS,
            scale_factor_temporal=4,
            scale_factor_spatial=4,
        )
        start_from_frames(vae)
        return vae

    def decoded(self, vae: Any, z: Tensor, num_frames: int) -> Tensor:
        return vae.decode(z).sample

    def latents(self, vae: Any, pixels: Tensor) -> Tensor:
        z = vae.encode(pixels).latent_dist.mean.float()
        mean, std = (torch.tensor(v).view(1, -1, 1, 1, 1) for v in (vae.config.latents_mean, vae.config.latents_std))
        return (z - mean) / std

    def set_latent_scale(self, vae: Any, pixels: Tensor) -> None:
        mean, std = channel_scale(vae.encode(pixels).latent_dist.mean)
        vae.register_to_config(latents_mean=mean, latents_std=std)

    def tokenizers(self, captions: list[str]) -> dict[str, Any]:
        return {"tokenizer": text.t5_tokenizer(captions)}

    def networks(self, tokenizers: dict[str, Any]) -> dict[str, nn.Module]:
        transformer = WanTransformer3DModel(
            num_attention_heads=4,
            attention_head_dim=40,
            in_channels=CHANNELS,
            out_channels=CHANNELS,
            text_dim=text.WIDTH,
            freq_dim=128,
            ffn_dim=640,
            num_layers=6,
            rope_max_seq_len=64,
        )
        return {"transformer": transformer, "text_encoder": text.umt5_encoder(tokenizers["tokenizer"])}

    def tokenize(self, tokenizers: dict[str, Any], captions: list[str]) -> tuple[Tensor, ...]:
        return (text.ids(tokenizers["tokenizer"], captions, text.T5_LENGTH),)

    def noising(self) -> Callable[[int, torch.Generator], Noising]:
        return flow_matching

    def predict(self, networks: dict[str, Any], noisy: Tensor, timestep: Tensor, *ids: Tensor) -> Tensor:
        mask = (ids[0] != 0).long()
        words = networks["text_encoder"](ids[0], mask).last_hidden_state * mask[..., None]
        return networks["transformer"](
            hidden_states=noisy, timestep=timestep * 1000, encoder_hidden_states=words, return_dict=False
        )[0]

    def load(self, folder: Path) -> WanPipeline:
        return WanPipeline.from_pretrained(folder, torch_dtype=torch.float32)

    def pipeline(self, vae: Any, networks: dict[str, Any], tokenizers: dict[str, Any]) -> WanPipeline:
        scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
        return WanPipeline(vae=vae, scheduler=scheduler, **networks, **tokenizers)
