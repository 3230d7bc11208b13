"""CogVideoX: clips of 17 frames of 48 pixels, v-prediction, guidance in one batched call."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    CogVideoXDDIMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
)
from torch import Tensor, nn

from training import clips, text
from training.denoiser import Noising, v_prediction
from training.families.wan import Wan

CHANNELS = 8


class CogVideoX(Wan):
    """The clips and the captions are Wan's."""

    name = "cogvideox"
    folder = Path("training/pipelines/cogvideox")

    def autoencoder(self) -> nn.Module:
        """4x downsampling in space and time: 17 frames of 48 pixels become 5 x 12 x 12 latents."""
        return AutoencoderKLCogVideoX(
            down_block_types=("CogVideoXDownBlock3D",) * 3,
            up_block_types=("CogVideoXUpBlock3D",) * 3,
            block_out_channels=(12, 24, 48),
            latent_channels=CHANNELS,
            layers_per_block=1,
            norm_num_groups=4,
            temporal_compression_ratio=4,
            sample_height=clips.PIXELS,
            sample_width=clips.PIXELS,
        )

    def latents(self, vae: Any, pixels: Tensor) -> Tensor:
        z = vae.encode(pixels).latent_dist.mean.float()
        return (z * vae.config.scaling_factor).transpose(1, 2)

    def set_latent_scale(self, vae: Any, pixels: Tensor) -> None:
        vae.register_to_config(scaling_factor=float(1 / vae.encode(pixels).latent_dist.mean.std()))

    def networks(self, tokenizers: dict[str, Any]) -> dict[str, nn.Module]:
        transformer = CogVideoXTransformer3DModel(
            num_attention_heads=4,
            attention_head_dim=40,
            in_channels=CHANNELS,
            out_channels=CHANNELS,
            time_embed_dim=64,
            text_embed_dim=text.WIDTH,
            num_layers=6,
            sample_width=12,
            sample_height=12,
            sample_frames=clips.FRAMES,
            max_text_seq_length=text.T5_LENGTH,
            spatial_interpolation_scale=1.0,
        )
        return {"transformer": transformer, "text_encoder": text.t5_encoder(tokenizers["tokenizer"])}

    def scheduler(self) -> CogVideoXDDIMScheduler:
        """As the 2b model is shipped with, but for ``snr_shift_scale``, which is for larger pictures."""
        return CogVideoXDDIMScheduler(
            beta_schedule="scaled_linear",
            prediction_type="v_prediction",
            rescale_betas_zero_snr=True,
            snr_shift_scale=1.0,
            timestep_spacing="trailing",
        )

    def noising(self) -> Callable[[int, torch.Generator], Noising]:
        return v_prediction(self.scheduler().alphas_cumprod)

    def predict(self, networks: dict[str, Any], noisy: Tensor, timestep: Tensor, *ids: Tensor) -> Tensor:
        words = networks["text_encoder"](ids[0])[0]
        return networks["transformer"](
            hidden_states=noisy, timestep=timestep, encoder_hidden_states=words, return_dict=False
        )[0]

    def load(self, folder: Path) -> CogVideoXPipeline:
        return CogVideoXPipeline.from_pretrained(folder, torch_dtype=torch.float32)

    def pipeline(self, vae: Any, networks: dict[str, Any], tokenizers: dict[str, Any]) -> CogVideoXPipeline:
        return CogVideoXPipeline(vae=vae, scheduler=self.scheduler(), **networks, **tokenizers)
