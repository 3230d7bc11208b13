"""Open-Sora 1.2: clips of 17 frames of 48 pixels, rectified flow, guidance in one batched call."""

from __future__ import annotations

import math
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
from ertacache.opensora.temporal_autoencoder import CausalResnetBlock
from training import clips, text
from training.autoencoder import NOISE, Stage
from training.denoiser import Noising, noise_levels
from training.families.base import channel_scale
from training.families.wan import Wan

CHANNELS = 8
CONSTANT = 2.0


@torch.no_grad()
def start_by_repeating(vae: AutoencoderOpenSora) -> None:
    """Make the temporal half keep the newest of four frames and show it four times, nearly unchanged.

    Untrained, it hides from the spatial half what its latents are good for, and norms take their size away. Here each
    group of a norm carries one latent channel x as ``x, -x, c, -c``: the constant keeps the size, and
    ``silu(x) - silu(-x) = x``. Needs as many groups as latent channels. Residual branches start at zero.
    """
    temporal = vae.temporal
    groups = range(vae.config.latent_channels)

    def clear(convolution: nn.Conv3d) -> Tensor:
        """Its weights at the newest frame's middle, (out, in), all weights being zero now."""
        convolution.weight.zero_()
        if convolution.bias is not None:
            convolution.bias.zero_()
        side = convolution.kernel_size[1] // 2
        return convolution.weight[:, :, -1, side, side]

    def split(convolution: nn.Conv3d) -> None:
        """x to the places of x and -x."""
        weight, size = clear(convolution), convolution.out_channels // len(groups)
        for k in groups:
            weight[k * size, k], weight[k * size + 1, k] = 1, -1

    def keep(convolution: nn.Conv3d, copies: int = 1) -> None:
        """Every place to its place, ``copies`` times."""
        weight = clear(convolution)
        before, after = (n // len(groups) for n in (convolution.in_channels, convolution.out_channels // copies))
        for k in groups:
            for place in range(min(before, after)):
                for copy in range(copies):
                    weight[copies * (k * after + place) + copy, k * before + place] = 1

    def add_constants(bias: Tensor) -> None:
        size = len(bias) // len(groups)
        for k in groups:
            bias[k * size + 2], bias[k * size + 3] = CONSTANT, -CONSTANT

    def join(convolution: nn.Conv3d) -> None:
        """The places of x and -x to x, at the size that it had before the norm, unless it was much above c."""
        weight, size = clear(convolution), convolution.in_channels // len(groups)
        for k in groups:
            weight[k, k * size], weight[k, k * size + 1] = CONSTANT * (2 / size) ** 0.5, -CONSTANT * (2 / size) ** 0.5

    for resnet in (m for m in temporal.modules() if isinstance(m, CausalResnetBlock)):
        resnet.conv2.weight.zero_()
        if resnet.conv_shortcut is not None:
            keep(resnet.conv_shortcut)
    for half in (temporal.encoder, temporal.decoder):
        split(half.conv_in)
        join(half.conv_out)
    shorten = [level.resample for level in temporal.encoder.levels if level.resample is not None]
    for convolution in shorten:
        keep(convolution)
    add_constants(shorten[0].bias)
    for convolution in (level.resample for level in temporal.decoder.levels if level.resample is not None):
        keep(convolution, copies=2)
    add_constants(temporal.decoder.conv_in.bias)
    temporal.encoder.conv_out.bias[len(groups) :] = 2 * math.log(NOISE)
    for convolution in (temporal.quant_conv, temporal.post_quant_conv):
        clear(convolution).fill_diagonal_(1)


def rectified_flow(batch: int, generator: torch.Generator) -> Noising:
    """Velocity ``data - noise``; timesteps 0 .. 1000."""
    t, one = noise_levels(batch, generator), torch.ones(batch)
    return Noising(1000 * t, 1 - t, t, one, -one)


class OpenSora(Wan):
    """The clips and the captions are Wan's."""

    name = "opensora"
    folder = Path("training/pipelines/opensora")
    settings = {**Wan.settings, "clean_caption": False}  # noqa: RUF012
    # Through one frame of the untrained temporal half, the spatial half learns several times slower than alone.
    autoencoder_stages = (
        Stage("autoencoder-frames", 1_200, batch=64, side=24, frames=1, part="spatial"),
        Stage("autoencoder-clips", 1_600, batch=16, side=24, frames=9),
    )

    def autoencoder(self) -> nn.Module:
        """4x downsampling in space and time: 17 frames of 48 pixels become 5 x 12 x 12 latents."""
        vae = AutoencoderOpenSora(
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
        start_by_repeating(vae)
        return vae

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
