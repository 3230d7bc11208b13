"""LTX-2: clips of 17 frames of 64 pixels with their sound, flow matching on both streams in one transformer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKLLTX2Audio,
    AutoencoderKLLTX2Video,
    FlowMatchEulerDiscreteScheduler,
    LTX2Pipeline,
    LTX2VideoTransformer3DModel,
)
from diffusers.models.autoencoders.autoencoder_kl_ltx2 import LTX2VideoCausalConv3d, LTX2VideoUpsampler3d
from diffusers.pipelines.ltx2 import LTX2TextConnectors
from diffusers.pipelines.ltx2.vocoder import LTX2Vocoder
from torch import Tensor, nn

from training import clips, sounds, text
from training.autoencoder import Stage
from training.denoiser import Noising, flow_matching
from training.families.base import channel_scale

PIXELS = 64
"""The pipeline takes multiples of 32 only."""
CHANNELS = 48
HEADS = 4
VIDEO, AUDIO = 36, 18
"""Width of a head of each stream. Both streams have as many heads, as their rotary embeddings need."""
AUDIO_CHANNELS = 4
ROPE: dict[str, Any] = {"rope_theta": 10.0, "rope_double_precision": False, "rope_type": "split"}


@torch.no_grad()
def start_from_frames(vae: AutoencoderKLLTX2Video) -> None:
    """Make its convolutions see one frame, the newest, and repeat frames where time is upsampled."""
    for convolution in (m.conv for m in vae.modules() if isinstance(m, LTX2VideoCausalConv3d)):
        newest = convolution.weight[:, :, -1].clone()
        convolution.weight.zero_()
        convolution.weight[:, :, -1] = newest * len(convolution.weight[0, 0]) ** 0.5
    for up in (m for m in vae.modules() if isinstance(m, LTX2VideoUpsampler3d) and m.stride[0] == 2):
        for values in (up.conv.conv.weight, up.conv.conv.bias):
            phases = values.view(-1, 2, 4, *values.shape[1:])
            phases[:, 0] = phases[:, 1]


@torch.no_grad()
def set_scale(vae: Any, mean: list[float], std: list[float]) -> None:
    """Store the statistics by which the pipeline scales latents; these two autoencoders keep them as buffers."""
    vae.latents_mean.copy_(torch.tensor(mean))
    vae.latents_std.copy_(torch.tensor(std))


class LTX2:
    """3.5 million parameters, 5 x 4 x 4 tokens of video and 11 of sound."""

    name = "ltx2"
    folder = Path("training/pipelines/ltx2")
    samples = 4_000
    autoencoder_stages = (
        Stage("autoencoder-short", 1_400, batch=32, side=32, frames=5),
        Stage("autoencoder-clips", 1_500, batch=16, side=48, frames=9),
        Stage("autoencoder-decoder", 1_500, batch=16, side=48, frames=9, frozen=True),
    )
    transformer_steps, transformer_batch = 3_000, 8
    settings: dict[str, Any] = {  # noqa: RUF012
        "num_inference_steps": 30,
        "guidance_scale": 4.0,
        "audio_guidance_scale": 4.0,
        "stg_scale": 0.0,
        "audio_stg_scale": 0.0,
        "modality_scale": 1.0,
        "audio_modality_scale": 1.0,
        "guidance_rescale": 0.0,
        "audio_guidance_rescale": 0.0,
        "spatio_temporal_guidance_blocks": None,
        "use_cross_timestep": True,
        "negative_prompt": "",
        "height": PIXELS,
        "width": PIXELS,
        "num_frames": clips.FRAMES,
        "frame_rate": sounds.FRAME_RATE,
        "max_sequence_length": text.GEMMA_LENGTH,
    }

    def sample(self, rng: np.random.Generator, split: str) -> clips.Clip:
        return clips.sample_clip(rng, split)

    def draw(self, scene: clips.Clip, rng: np.random.Generator) -> np.ndarray:
        return clips.draw_clip(scene, rng, PIXELS)

    def autoencoder(self) -> nn.Module:
        """16x downsampling in space and 4x in time: 17 frames of 64 pixels become 5 x 4 x 4 latents."""
        vae = AutoencoderKLLTX2Video(
            latent_channels=CHANNELS,
            block_out_channels=(48, 96),
            down_block_types=("LTX2VideoDownBlock3D",) * 2,
            decoder_block_out_channels=(48, 96),
            layers_per_block=(1, 1, 1),
            decoder_layers_per_block=(1, 1, 1),
            spatio_temporal_scaling=(True, True),
            decoder_spatio_temporal_scaling=(True, True),
            decoder_inject_noise=(False,) * 3,
            downsample_type=("spatiotemporal",) * 2,
            upsample_type=("spatiotemporal",) * 2,
            upsample_residual=(True, True),
            upsample_factor=(1, 2),
            patch_size=4,
            encoder_spatial_padding_mode="zeros",
            decoder_spatial_padding_mode="zeros",
            spatial_compression_ratio=16,
            temporal_compression_ratio=4,
        )
        start_from_frames(vae)
        return vae

    def decoded(self, vae: Any, z: Tensor, num_frames: int) -> Tensor:
        return vae.decode(z).sample

    def latents(self, vae: Any, pixels: Tensor) -> Tensor:
        """One token for each place: (n, 5 x 4 x 4, CHANNELS)."""
        z = vae.encode(pixels).latent_dist.mean.float()
        return ((z.movedim(1, -1) - vae.latents_mean) / vae.latents_std).flatten(1, 3)

    def set_latent_scale(self, vae: Any, pixels: Tensor) -> None:
        set_scale(vae, *channel_scale(vae.encode(pixels).latent_dist.mean))

    def sound(self, scene: clips.Clip, rng: np.random.Generator) -> np.ndarray:
        return sounds.sound_clip(scene, rng)

    def spectrograms(self, waveforms: np.ndarray) -> Tensor:
        return sounds.spectrograms(waveforms)

    def log_mel(self, waveform: Tensor) -> Tensor:
        return sounds.log_mel(waveform)

    def sound_parts(self) -> dict[str, nn.Module]:
        """41 spectra of 32 bands, twice, become 11 x 8 latents; the vocoder makes 400 samples of each spectrum."""
        audio_vae = AutoencoderKLLTX2Audio(
            base_channels=AUDIO_CHANNELS * sounds.BANDS // 4,  # also the size of the statistics, of a packed token
            latent_channels=AUDIO_CHANNELS,
            ch_mult=(1, 1, 2),
            num_res_blocks=1,
            in_channels=2,
            output_channels=2,
            resolution=sounds.BANDS,
            sample_rate=sounds.RATE,
            mel_hop_length=sounds.HOP,
            mel_bins=sounds.BANDS,
        )
        vocoder = LTX2Vocoder(
            in_channels=2 * sounds.BANDS,
            hidden_channels=128,
            upsample_kernel_sizes=[20, 20, 8],
            upsample_factors=[10, 10, 4],
            resnet_kernel_sizes=[3, 7],
            resnet_dilations=[[1, 3], [1, 3]],
            output_sampling_rate=sounds.RATE,
        )
        return {"audio_vae": audio_vae, "vocoder": vocoder}

    def set_sound_scale(self, audio_vae: Any, spectrograms: Tensor) -> None:
        set_scale(audio_vae, *channel_scale(_tokens(audio_vae, spectrograms).transpose(1, 2)))

    def sound_latents(self, audio_vae: Any, spectrograms: Tensor) -> Tensor:
        """One token for each time: (n, 11, AUDIO_CHANNELS x 8)."""
        return (_tokens(audio_vae, spectrograms) - audio_vae.latents_mean) / audio_vae.latents_std

    def tokenizers(self, captions: list[str]) -> dict[str, Any]:
        return {"tokenizer": text.gemma_tokenizer(captions)}

    def networks(self, tokenizers: dict[str, Any]) -> dict[str, nn.Module]:
        width, audio_width = HEADS * VIDEO, HEADS * AUDIO
        transformer = LTX2VideoTransformer3DModel(
            in_channels=CHANNELS,
            out_channels=CHANNELS,
            num_attention_heads=HEADS,
            attention_head_dim=VIDEO,
            cross_attention_dim=width,
            vae_scale_factors=(4, 16, 16),
            pos_embed_max_pos=2,  # seconds
            base_height=PIXELS,
            base_width=PIXELS,
            audio_in_channels=AUDIO_CHANNELS * sounds.BANDS // 4,
            audio_out_channels=AUDIO_CHANNELS * sounds.BANDS // 4,
            audio_num_attention_heads=HEADS,
            audio_attention_head_dim=AUDIO,
            audio_cross_attention_dim=audio_width,
            audio_pos_embed_max_pos=2,
            audio_sampling_rate=sounds.RATE,
            audio_hop_length=sounds.HOP,
            num_layers=6,
            caption_channels=text.WIDTH,
            **ROPE,
        )
        connector = {"num_attention_heads": 4, "attention_head_dim": text.WIDTH // 4, "num_layers": 1}
        connector["num_learnable_registers"] = text.GEMMA_LENGTH
        connectors = LTX2TextConnectors(
            caption_channels=text.WIDTH,
            text_proj_in_factor=3,
            **{f"{stream}_connector_{key}": value for stream in ("video", "audio") for key, value in connector.items()},
            connector_rope_base_seq_len=text.GEMMA_LENGTH,
            **ROPE,
        )
        text_encoder = text.gemma_encoder(tokenizers["tokenizer"])
        return {"transformer": transformer, "text_encoder": text_encoder, "connectors": connectors}

    def tokenize(self, tokenizers: dict[str, Any], captions: list[str]) -> tuple[Tensor, ...]:
        return (text.ids(tokenizers["tokenizer"], captions, text.GEMMA_LENGTH),)

    def noising(self) -> Callable[[int, torch.Generator], Noising]:
        return flow_matching

    def predict(
        self, networks: dict[str, Any], noisy: tuple[Tensor, Tensor], timestep: Tensor, *ids: Tensor
    ) -> tuple[Tensor, Tensor]:
        mask = (ids[0] != 0).long()
        layers = networks["text_encoder"](input_ids=ids[0], attention_mask=mask, output_hidden_states=True)
        words = torch.stack(layers.hidden_states, dim=-1).flatten(2, 3)
        video_words, audio_words, words_mask = networks["connectors"](words, mask)
        video, audio = noisy
        return networks["transformer"](
            hidden_states=video,
            audio_hidden_states=audio,
            encoder_hidden_states=video_words,
            audio_encoder_hidden_states=audio_words,
            timestep=timestep * 1000,
            sigma=timestep * 1000,
            encoder_attention_mask=words_mask,
            audio_encoder_attention_mask=words_mask,
            num_frames=(clips.FRAMES - 1) // 4 + 1,
            height=PIXELS // 16,
            width=PIXELS // 16,
            fps=sounds.FRAME_RATE,
            audio_num_frames=audio.shape[1],
            use_cross_timestep=True,
            return_dict=False,
        )

    def load(self, folder: Path) -> LTX2Pipeline:
        return LTX2Pipeline.from_pretrained(folder, torch_dtype=torch.float32)

    def pipeline(self, vae: Any, networks: dict[str, Any], tokenizers: dict[str, Any]) -> LTX2Pipeline:
        scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
        return LTX2Pipeline(vae=vae, scheduler=scheduler, **networks, **tokenizers)


def _tokens(audio_vae: Any, spectrograms: Tensor) -> Tensor:
    """Unscaled latents of spectrograms, packed as the pipeline packs them: (n, 11, AUDIO_CHANNELS x 8)."""
    return audio_vae.encode(spectrograms).latent_dist.mean.transpose(1, 2).flatten(2)
