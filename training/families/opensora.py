"""Open-Sora 1.2: clips of 17 frames of 48 pixels, rectified flow, guidance in one batched call."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ertacache.opensora import (
    AutoencoderOpenSora,
    OpenSoraPipeline,
    OpenSoraRectifiedFlowScheduler,
    STDiT3Transformer3DModel,
)
from training import clips, text
from training.denoiser import Noising, noise_levels
from training.families.base import channel_scale
from training.families.wan import Wan

CHANNELS = 8


def rectified_flow(batch: int, generator: torch.Generator) -> Noising:
    """Velocity ``data - noise``; timesteps 0 .. 1000."""
    t, one = noise_levels(batch, generator), torch.ones(batch)
    return Noising(1000 * t, 1 - t, t, one, -one)


class OpenSora(Wan):
    """The clips and the captions are Wan's."""

    name = "opensora"
    folder = Path("training/pipelines/opensora")
    settings = {**Wan.settings, "clean_caption": False}  # noqa: RUF012

    def autoencoder(self) -> nn.Module:
        """4x downsampling in space and time: 17 frames of 48 pixels become 5 x 12 x 12 latents."""
        return AutoencoderOpenSora(
            latent_channels=CHANNELS,
            spatial_channels=(12, 24, 40),
            spatial_layers=1,
            spatial_norm_groups=4,
            spatial_scaling_factor=1.0,
            temporal_channels=(32, 32, 48),
            temporal_layers=1,
            temporal_halves=(True, True),
            temporal_norm_groups=8,
            micro_batch_size=None,
            shift=(0.0,) * CHANNELS,
            scale=(1.0,) * CHANNELS,
        )

    def decoded(self, vae: Any, z: Tensor, num_frames: int) -> Tensor:
        return vae.decode(z, num_frames=num_frames).sample

    def latents(self, vae: Any, pixels: Tensor) -> Tensor:
        return vae.encode(pixels, sample_posterior=False).latent_dist.mean.float()

    def set_latent_scale(self, vae: Any, pixels: Tensor) -> None:
        mean, std = channel_scale(self.latents(vae, pixels))
        vae.register_to_config(shift=mean, scale=std)
        vae.latents_shift.copy_(torch.tensor(mean).view_as(vae.latents_shift))
        vae.latents_scale.copy_(torch.tensor(std).view_as(vae.latents_scale))

    def networks(self, tokenizers: dict[str, Any]) -> dict[str, nn.Module]:
        transformer = STDiT3Transformer3DModel(
            in_channels=CHANNELS,
            num_layers=4,
            num_attention_heads=4,
            attention_head_dim=32,
            caption_channels=text.WIDTH,
            caption_length=text.T5_LENGTH,
            sample_side=clips.PIXELS,
        )
        return {"transformer": transformer, "text_encoder": text.t5_encoder(tokenizers["tokenizer"])}

    def noising(self) -> Callable[[int, torch.Generator], Noising]:
        return rectified_flow

    def predict(self, networks: dict[str, Any], noisy: Tensor, timestep: Tensor, *ids: Tensor) -> Tensor:
        mask = (ids[0] != 0).long()
        output = networks["transformer"](
            hidden_states=noisy,
            timestep=timestep,
            encoder_hidden_states=networks["text_encoder"](ids[0], attention_mask=mask)[0],
            encoder_attention_mask=mask,
            height=clips.PIXELS,
            width=clips.PIXELS,
            fps=24.0,
            return_dict=False,
        )[0]
        return output[:, :CHANNELS]

    def load(self, folder: Path) -> OpenSoraPipeline:
        return OpenSoraPipeline.from_pretrained(folder, torch_dtype=torch.float32)

    def pipeline(self, vae: Any, networks: dict[str, Any], tokenizers: dict[str, Any]) -> OpenSoraPipeline:
        # The base is this size: the grid is bent by the number of frames alone, sqrt(5) for 17 of them.
        scheduler = OpenSoraRectifiedFlowScheduler(base_resolution=clips.PIXELS**2, base_num_frames=1)
        return OpenSoraPipeline(vae=vae, scheduler=scheduler, **networks, **tokenizers)
