"""Further pipelines of video."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import diffusers as d
import torch
from diffusers.models.controlnets import controlnet_cosmos
from diffusers.pipelines.ltx2.latent_upsampler import LTX2LatentUpsamplerModel
from torch import nn
from torch.nn import functional as F

from contract.case import STEPS, Case
from contract.families.images import sibling
from contract.families.paper import wan_autoencoder
from contract.families.videos import (
    FRAMES,
    SIZE,
    WIDTH,
    cosmos,
    cosmos25_scheduler,
    easyanimate,
    easyanimate_call,
    embeds,
    helios,
    helios_call,
    ltx2,
    mask,
)
from contract.parts import lively, photograph, random

SIGMAS = [1 - step / STEPS for step in range(STEPS)]
FIVE = 5


def film() -> torch.Tensor:
    """A video, (1, 3, FIVE, SIZE, SIZE), in [0, 1]."""
    return torch.rand(1, 3, FIVE, SIZE, SIZE, generator=torch.Generator().manual_seed(6))


# EasyAnimate.


def easyanimate_inpainting() -> Any:
    transformer = d.EasyAnimateTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4 + 4 + 4,
        out_channels=4,
        time_embed_dim=4,
        text_embed_dim=WIDTH,
        num_layers=2,
        sample_width=16,
        sample_height=16,
        patch_size=2,
        resize_inpaint_mask_directly=False,
    )
    base = easyanimate()
    base.transformer, base.vae = lively(transformer), lively(base.vae)
    return sibling(d.EasyAnimateInpaintPipeline, base)


def easyanimate_inpaint_call(**more: Any) -> dict[str, Any]:
    half = (torch.arange(SIZE) < SIZE // 2).float().expand(1, 1, FIVE, SIZE, SIZE) * 255
    return easyanimate_call(video=film(), mask_video=half, **more)


EASY: dict[str, Case] = {
    "EasyAnimateInpaint": Case(
        easyanimate_inpainting,
        easyanimate_inpaint_call,
        (lambda: easyanimate_inpaint_call(guidance_scale=1.0),),
    ),
}


# LTX-2.5: keyframes, then the frames between them. Both take noise levels in place of a number of steps.


def dfr(kind: Any, scheduler: Any = None, **more: Any) -> Any:
    base = ltx2(d.LTX2Pipeline)
    options = {**base.transformer.config, "use_keyframes_abs_pos_embedding": True}
    options.pop("_use_default_values", None)
    base.transformer = lively(d.LTX2VideoTransformer3DModel.from_config(options))
    base.scheduler = scheduler or d.FlowMatchEulerDiscreteScheduler()
    return sibling(kind, base, **more)


def dfr_call(**more: Any) -> dict[str, Any]:
    text = {"prompt_embeds": embeds(width=2 * WIDTH), "prompt_attention_mask": mask()}
    return {**text, "height": SIZE, "width": SIZE, "num_frames": FRAMES, "sigmas": SIGMAS, **more}


def dfr_refine() -> Any:
    upsampler = LTX2LatentUpsamplerModel(
        in_channels=4, mid_channels=32, num_blocks_per_stage=1, spatial_upsample=False, temporal_upsample=True
    )
    scheduler = d.LTXEulerAncestralRFScheduler(eta=0.25)
    return dfr(d.LTX2DFRTemporalRefinePipeline, scheduler, temporal_latent_upsampler=lively(upsampler))


def dfr_refine_call(**more: Any) -> dict[str, Any]:
    """The latents come from the other pipeline."""
    side = SIZE // 8
    return dfr_call(
        num_frames=17,
        latents=random(1, 4, 3, side, side, seed=3),
        keyframes_latents=random(1, 4, 1, side, side, seed=4),
        keyframe_positions=[16],
        audio_latents=random(1, 2, 18, 2, seed=5),
        sigmas=[0.975 * sigma for sigma in SIGMAS],
        **more,
    )


# Helios: from small pictures to large ones, each size with steps of its own.


def helios_pyramid() -> Any:
    scheduler = d.HeliosScheduler(stage_range=[0, 1 / 2, 1], stages=2, gamma=0.3, use_dynamic_shifting=True)
    base = helios()
    base.scheduler = scheduler
    return sibling(d.HeliosPyramidPipeline, base)


def pyramid_call(**more: Any) -> dict[str, Any]:
    steps = {"pyramid_num_inference_steps_list": [STEPS] * 2}
    return helios_call(height=SIZE, width=SIZE, **steps, **more)


# Kandinsky 6: video made larger, tile after tile.


def kandinsky6_enlarging() -> Any:
    transformer = d.Kandinsky6SRTransformer3DModel(
        in_visual_dim=4,
        out_visual_dim=4,
        time_dim=16,
        model_dim=16,
        ff_dim=32,
        num_visual_blocks=2,
        axes_dims=(4, 2, 2),
        tile_sizes=((SIZE, SIZE),),
    )
    vae = d.Kandinsky6SRVAE(
        latent_channels=4,
        encoder_block_out_channels=(16, 16, 16),
        decoder_block_out_channels=(16, 16, 16),
        layers_per_block=1,
        temporal_compression_ratio=2,
        temporal_compression_start_level=0,
    )
    parts = {"transformer": lively(transformer), "vae": lively(vae)}
    return d.Kandinsky6SRPipeline(**parts, scheduler=d.FlowMatchEulerDiscreteScheduler(shift=5.0))


# Cosmos and SANA-WM.


NEAREST = SimpleNamespace(
    functional=SimpleNamespace(
        resize=lambda given, size, interpolation: F.interpolate(given, size, mode=interpolation)
    ),
    InterpolationMode=SimpleNamespace(NEAREST="nearest"),
)
"""In place of torchvision, which is not installed, as far as the ControlNet of Cosmos asks it."""


def cosmos_transfer() -> Any:
    vars(controlnet_cosmos).setdefault("transforms", NEAREST)
    base = cosmos(d.Cosmos2_5_PredictBasePipeline, cosmos25_scheduler(), 5)
    options = {**base.transformer.config, "controlnet_block_every_n": 1}
    options.pop("_use_default_values", None)
    base.transformer = lively(d.CosmosTransformer3DModel.from_config(options))
    controlnet = d.CosmosControlNetModel(
        n_controlnet_blocks=2,
        in_channels=4 + 1 + 1,
        latent_channels=4 + 1 + 1,
        model_channels=32,
        num_attention_heads=2,
        attention_head_dim=16,
        mlp_ratio=2.0,
        text_embed_dim=WIDTH,
        adaln_lora_dim=4,
        max_size=(4, 32, 32),
    )
    return sibling(d.Cosmos2_5_TransferPipeline, base, controlnet=lively(controlnet, 1))


def transfer_call(**more: Any) -> dict[str, Any]:
    text = {"prompt_embeds": embeds(), "negative_prompt_embeds": embeds(seed=2)}
    size = {"height": 16, "width": 16, "num_frames_per_chunk": FIVE}
    return {**text, **size, "controls": [photograph(16)] * FIVE, **more}


def cosmos3(*, sound: bool = False) -> Any:
    """It takes no embeddings: its model reads the words too, of which each has a number here."""
    transformer = d.Cosmos3OmniTransformer(
        head_dim=16,
        hidden_size=32,
        intermediate_size=32,
        latent_channel=4,
        num_attention_heads=2,
        num_hidden_layers=2,
        num_key_value_heads=1,
        patch_latent_dim=16,
        rope_axes_dim=(4, 2, 2),
        vocab_size=32,
        sound_gen=sound,
        sound_dim=4 if sound else None,
    )
    pipe = d.Cosmos3OmniPipeline(
        transformer=lively(transformer),
        text_tokenizer=Words(),
        vae=wan_autoencoder(),
        scheduler=cosmos25_scheduler(),
        sound_tokenizer=Sounds() if sound else None,
        enable_safety_checker=False,
    )
    pipe.tokenize_prompt = lambda *_, **__: ([2, 3, 4, 1], [5, 6, 1])
    pipe.decode_sound = lambda latents: latents
    return pipe


class Words:
    """In place of a tokenizer, as far as Cosmos asks it when it is built."""

    eos_token_id = 1

    def convert_tokens_to_ids(self, tokens: str) -> int:
        return len(tokens)


class Sounds(nn.Module):
    """In place of Cosmos' own, as far as it is asked how long sounds are."""

    config, _hop_size = SimpleNamespace(sampling_rate=100), 4


def cosmos3_call(**more: Any) -> dict[str, Any]:
    return {"prompt": "star", "height": 16, "width": 16, "num_frames": FIVE, **more}


def sana_wm_refiner() -> Any:
    """It takes no embeddings: what it encodes prompts to is put in."""
    transformer = d.SanaWMLTX2RefinerTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        audio_in_channels=4,
        audio_out_channels=4,
        audio_num_attention_heads=2,
        audio_attention_head_dim=4,
        audio_cross_attention_dim=8,
        num_layers=2,
        caption_channels=WIDTH,
        rope_double_precision=False,
        rope_type="split",
    )
    base = ltx2(d.LTX2Pipeline)
    base.transformer, base.scheduler = lively(transformer), d.FlowMatchEulerDiscreteScheduler()
    pipe = sibling(d.SanaWMLTX2Refiner, base)
    pipe._encode_prompt = lambda *_, **__: (embeds(), mask())
    return pipe


def refiner_call(frames: int = 4) -> dict[str, Any]:
    return {"sana_latent": random(1, 4, frames, 2, 2), "prompt": "star", "fps": 8.0, "sigmas": (*SIGMAS, 0.0)}


OTHERS: dict[str, Case] = {
    "Cosmos3Omni": Case(
        cosmos3,
        cosmos3_call,
        (lambda: cosmos3_call(guidance_scale=1.0), lambda: cosmos3_call(image=photograph(16))),
    ),
    "Cosmos3Omni, with sound": Case(lambda: cosmos3(sound=True), lambda: cosmos3_call(enable_sound=True)),
    "Kandinsky6SR": Case(
        kandinsky6_enlarging, lambda: {"video": [photograph(SIZE // 2)] * FIVE, "resolution_scale": 2}, output_type="np"
    ),
    "Cosmos2_5_Transfer": Case(cosmos_transfer, transfer_call),
}

STAGED: dict[str, Case] = {
    "LTX2DFR": Case(
        lambda: dfr(d.LTX2DFRPipeline),
        dfr_call,
        (lambda: dfr_call(num_frames=17),),
    ),
    "LTX2DFRTemporalRefine": Case(dfr_refine, dfr_refine_call),
    "HeliosPyramid": Case(helios_pyramid, pyramid_call),
    "SanaWMLTX2Refiner": Case(sana_wm_refiner, refiner_call),
}
"""They take sigmas, or a number of steps for each stage, in place of ``num_inference_steps``."""

CASES: dict[str, Case] = {**EASY, **OTHERS, **STAGED}
