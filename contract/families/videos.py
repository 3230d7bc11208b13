"""Pipelines of video and of sound other than the paper's."""

from __future__ import annotations

from typing import Any

import diffusers as d
import torch
import transformers as t
from diffusers.guiders import AdaptiveProjectedGuidance, ClassifierFreeGuidance
from diffusers.pipelines.ace_step import AceStepConditionEncoder
from diffusers.pipelines.audioldm2 import AudioLDM2UNet2DConditionModel
from diffusers.pipelines.ltx2 import LTX2TextConnectors
from diffusers.pipelines.ltx2.pipeline_ltx2_condition import LTX2VideoCondition
from diffusers.pipelines.ltx2.pipeline_ltx2_hdr_lora import LTX2HDRReferenceCondition
from diffusers.pipelines.stable_audio import StableAudioProjectionModel
from diffusers.pipelines.stable_audio_3 import StableAudio3DurationEmbedder
from torch import Tensor, nn

from contract.case import Case
from contract.families.paper import COGVIDEOX, UNIPC, cogvideox, video_call, wan_autoencoder, wan_transformer
from contract.parts import lively, photograph, picture, random

SIZE, FRAMES, TOKENS, WIDTH = 32, 9, 4, 8
TEXTLESS: dict[str, Any] = {"text_encoder": None, "tokenizer": None}
TEXTLESS_2: dict[str, Any] = {**TEXTLESS, "text_encoder_2": None, "tokenizer_2": None}


def embeds(batch: int = 1, seed: int = 1, width: int = WIDTH) -> Tensor:
    """What a text encoder would give."""
    return random(batch, TOKENS, width, seed=seed)


def mask(batch: int = 1, padding: int = 1) -> Tensor:
    """Which of these tokens count."""
    return torch.tensor([[1] * (TOKENS - padding) + [0] * padding] * batch)


def prompts(batch: int = 1, *, masks: bool = False) -> dict[str, Any]:
    """Embeddings of a prompt and of a negative one."""
    given: dict[str, Any] = {"prompt_embeds": embeds(batch), "negative_prompt_embeds": embeds(batch, 2)}
    if masks:
        given |= {"prompt_attention_mask": mask(batch), "negative_prompt_attention_mask": mask(batch, 2)}
    return given


def sized(**more: Any) -> dict[str, Any]:
    return {"height": SIZE, "width": SIZE, "num_frames": FRAMES, **more}


def siglip() -> dict[str, Any]:
    """An encoder of pictures, and what prepares them."""
    config = t.SiglipVisionConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8
    )
    processor = t.SiglipImageProcessor(size={"height": 16, "width": 16})
    return {"image_encoder": lively(t.SiglipVisionModel(config)), "feature_extractor": processor}


# HunyuanVideo


def hunyuan_autoencoder() -> Any:
    return lively(
        d.AutoencoderKLHunyuanVideo(
            latent_channels=4,
            down_block_types=("HunyuanVideoDownBlock3D",) * 4,
            up_block_types=("HunyuanVideoUpBlock3D",) * 4,
            block_out_channels=(4, 4, 4, 4),
            layers_per_block=1,
            norm_num_groups=2,
        )
    )


def hunyuan_transformer(
    in_channels: int = 4, model: Any = d.HunyuanVideoTransformer3DModel, *, guidance: bool = True, **more: Any
) -> Any:
    transformer = model(
        in_channels=in_channels,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=10,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        guidance_embeds=guidance,
        text_embed_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        rope_axes_dim=(2, 4, 4),
        **more,
    )
    return lively(transformer)


def hunyuan(kind: Any, transformer: nn.Module | None = None, **more: Any) -> Any:
    parts = {"vae": hunyuan_autoencoder(), "scheduler": d.FlowMatchEulerDiscreteScheduler(shift=7.0)}
    return kind(**TEXTLESS_2, **parts, transformer=transformer or hunyuan_transformer(), **more)


def hunyuan_call(batch: int = 1, **more: Any) -> dict[str, Any]:
    return {
        "prompt_embeds": embeds(batch),
        "prompt_attention_mask": mask(batch),
        "pooled_prompt_embeds": random(batch, WIDTH, seed=3),
        **sized(**more),
    }


def hunyuan_negative(batch: int = 1) -> dict[str, Any]:
    return {
        "negative_prompt_embeds": embeds(batch, 4),
        "negative_prompt_attention_mask": mask(batch, 2),
        "negative_pooled_prompt_embeds": random(batch, WIDTH, seed=5),
        "true_cfg_scale": 4.0,
    }


def framepack() -> Any:
    transformer = hunyuan_transformer(
        model=d.HunyuanVideoFramepackTransformer3DModel,
        has_image_proj=True,
        image_proj_dim=8,
        has_clean_x_embedder=True,
    )
    return hunyuan(d.HunyuanVideoFramepackPipeline, transformer, **siglip())


def framepack_call(**more: Any) -> dict[str, Any]:
    return hunyuan_call(image=photograph(SIZE), latent_window_size=3, **more)


def hunyuan15(kind: Any, **more: Any) -> Any:
    transformer = d.HunyuanVideo15Transformer3DModel(
        in_channels=9,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        num_refiner_layers=1,
        mlp_ratio=2.0,
        text_embed_dim=WIDTH,
        text_embed_2_dim=WIDTH,
        image_embed_dim=8,
        rope_axes_dim=(2, 2, 4),
        target_size=16,
        task_type="i2v" if more else "t2v",
    )
    vae = d.AutoencoderKLHunyuanVideo15(
        latent_channels=4,
        block_out_channels=(16, 16),
        layers_per_block=1,
        spatial_compression_ratio=4,
        temporal_compression_ratio=2,
        downsample_match_channel=False,
        upsample_match_channel=False,
    )
    pipe = kind(
        **TEXTLESS_2,
        vae=lively(vae),
        transformer=lively(transformer),
        scheduler=d.FlowMatchEulerDiscreteScheduler(shift=7.0),
        guider=ClassifierFreeGuidance(guidance_scale=6.0),
        **more,
    )
    pipe.vision_num_semantic_tokens = 4
    return pipe


def hunyuan15_call(batch: int = 1, **more: Any) -> dict[str, Any]:
    return {
        "prompt_embeds": embeds(batch),
        "prompt_embeds_mask": mask(batch),
        "prompt_embeds_2": embeds(batch, 2),
        "prompt_embeds_mask_2": mask(batch),
        "negative_prompt_embeds": embeds(batch, 3),
        "negative_prompt_embeds_mask": mask(batch, 2),
        "negative_prompt_embeds_2": embeds(batch, 4),
        "negative_prompt_embeds_mask_2": mask(batch, 2),
        "num_frames": FRAMES,
        **more,
    }


HUNYUAN: dict[str, Case] = {
    "HunyuanVideo": Case(
        lambda: hunyuan(d.HunyuanVideoPipeline),
        hunyuan_call,
        (lambda: hunyuan_call(2), lambda: hunyuan_call(height=64), lambda: hunyuan_call(**hunyuan_negative())),
    ),
    "HunyuanVideo, true guidance": Case(
        lambda: hunyuan(d.HunyuanVideoPipeline),
        lambda: hunyuan_call(**hunyuan_negative()),
        (lambda: hunyuan_call(2, **hunyuan_negative(2)), hunyuan_call),
    ),
    "HunyuanVideoImageToVideo": Case(
        lambda: hunyuan(
            d.HunyuanVideoImageToVideoPipeline,
            hunyuan_transformer(9, guidance=False, image_condition_type="latent_concat"),
            image_processor=None,
        ),
        lambda: hunyuan_call(image=picture(SIZE)),
    ),
    "HunyuanVideoImageToVideo, token replacement": Case(
        lambda: hunyuan(
            d.HunyuanVideoImageToVideoPipeline,
            hunyuan_transformer(image_condition_type="token_replace"),
            image_processor=None,
        ),
        lambda: hunyuan_call(image=picture(SIZE)),
    ),
    "HunyuanSkyreelsImageToVideo": Case(
        lambda: hunyuan(d.HunyuanSkyreelsImageToVideoPipeline, hunyuan_transformer(8)),
        lambda: hunyuan_call(image=picture(SIZE), **hunyuan_negative()),
    ),
    "HunyuanVideoFramepack": Case(framepack, framepack_call, output_type="pt"),
    "HunyuanVideoFramepack, two sections": Case(framepack, lambda: framepack_call(num_frames=17), output_type="pt"),
    "HunyuanVideo15": Case(
        lambda: hunyuan15(d.HunyuanVideo15Pipeline),
        lambda: hunyuan15_call(height=16, width=16),
        (lambda: hunyuan15_call(2, height=16, width=16), lambda: hunyuan15_call(height=32, width=16)),
    ),
    "HunyuanVideo15ImageToVideo": Case(
        lambda: hunyuan15(d.HunyuanVideo15ImageToVideoPipeline, **siglip()),
        lambda: hunyuan15_call(image=photograph(16)),
    ),
}


# LTX

LTX_SHIFT = {
    "use_dynamic_shifting": True,
    "base_shift": 0.95,
    "max_shift": 2.05,
    "base_image_seq_len": 1024,
    "shift_terminal": 0.1,
}


def ltx(kind: Any, scheduler: Any = None, **text: Any) -> Any:
    transformer = d.LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        num_layers=2,
        caption_channels=WIDTH,
    )
    scaling = {"spatio_temporal_scaling": (True, True), "decoder_spatio_temporal_scaling": (True, True)}
    vae = d.AutoencoderKLLTXVideo(
        latent_channels=8,
        block_out_channels=(4, 4),
        decoder_block_out_channels=(4, 4),
        layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(1, 1, 1),
        decoder_inject_noise=(False, False, False),
        upsample_residual=(False, False),
        upsample_factor=(1, 1),
        down_block_types=("LTXVideoDownBlock3D",) * 2,
        patch_size=1,
        **scaling,
    )
    scheduler = scheduler or d.FlowMatchEulerDiscreteScheduler(**LTX_SHIFT)
    return kind(vae=lively(vae), transformer=lively(transformer), scheduler=scheduler, **(text or TEXTLESS))


def ltx_call(batch: int = 1, **more: Any) -> dict[str, Any]:
    return {**prompts(batch, masks=True), **sized(**more)}


def t5(width: int = WIDTH) -> dict[str, Any]:
    """A text encoder whose tokens are bytes."""
    config = t.T5Config(vocab_size=384, d_model=width, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    return {"text_encoder": lively(t.T5EncoderModel(config)), "tokenizer": t.ByT5Tokenizer(model_max_length=16)}


LTX: dict[str, Case] = {
    "LTX": Case(
        lambda: ltx(d.LTXPipeline),
        ltx_call,
        (lambda: ltx_call(2), lambda: ltx_call(height=64), lambda: ltx_call(guidance_scale=1.0)),
    ),
    "LTX, rescaled guidance": Case(lambda: ltx(d.LTXPipeline), lambda: ltx_call(guidance_rescale=0.7)),
    "LTXImageToVideo": Case(
        lambda: ltx(d.LTXImageToVideoPipeline),
        lambda: ltx_call(image=picture(SIZE)),
        (lambda: ltx_call(image=picture(SIZE), guidance_scale=1.0),),
    ),
    "LTXCondition": Case(
        lambda: ltx(d.LTXConditionPipeline, d.FlowMatchEulerDiscreteScheduler()),
        lambda: ltx_call(image=picture(SIZE)),
        (lambda: ltx_call(image=picture(SIZE), strength=0.5), ltx_call),
    ),
    "LTXCondition, video": Case(
        lambda: ltx(d.LTXConditionPipeline, d.FlowMatchEulerDiscreteScheduler()),
        lambda: ltx_call(video=[photograph(SIZE)] * FRAMES, denoise_strength=0.9),
    ),
    "LTXI2VLongMultiPrompt": Case(
        lambda: ltx(d.LTXI2VLongMultiPromptPipeline, d.LTXEulerAncestralRFScheduler(), **t5()),
        lambda: sized(prompt="a | b", negative_prompt="c", cond_image=photograph(SIZE), guidance_scale=3.0),
    ),
}


# LTX-2


def ltx2_autoencoder() -> Any:
    return lively(
        d.AutoencoderKLLTX2Video(
            latent_channels=4,
            block_out_channels=(4,) * 3,
            decoder_block_out_channels=(4,) * 3,
            layers_per_block=(1,) * 4,
            decoder_layers_per_block=(1,) * 4,
            down_block_types=("LTX2VideoDownBlock3D",) * 3,
            spatio_temporal_scaling=(True,) * 3,
            decoder_spatio_temporal_scaling=(True,) * 3,
            decoder_inject_noise=(False,) * 4,
            downsample_type=("spatial",) * 3,
            upsample_residual=(False,) * 3,
            upsample_factor=(1,) * 3,
            patch_size=1,
        )
    )


def ltx2(kind: Any, **more: Any) -> Any:
    """Video and audio in one transformer, behind connectors that take the text's layers in one."""
    transformer = d.LTX2VideoTransformer3DModel(
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
    heads = {"num_attention_heads": 2, "attention_head_dim": 4, "num_layers": 1, "num_learnable_registers": None}
    connectors = LTX2TextConnectors(
        caption_channels=WIDTH,
        text_proj_in_factor=2,
        **{f"{stream}_connector_{name}": value for stream in ("video", "audio") for name, value in heads.items()},
        connector_rope_base_seq_len=32,
        rope_theta=10000.0,
        rope_double_precision=False,
        causal_temporal_positioning=False,
        rope_type="split",
    )
    audio_vae = d.AutoencoderKLLTX2Audio(
        base_channels=4,
        output_channels=2,
        ch_mult=(1,),
        num_res_blocks=1,
        attn_resolutions=None,
        in_channels=2,
        resolution=32,
        latent_channels=2,
        norm_type="pixel",
        causality_axis="height",
        mid_block_add_attention=False,
        mel_bins=8,
    )
    return kind(
        **TEXTLESS,
        vae=ltx2_autoencoder(),
        audio_vae=lively(audio_vae),
        connectors=lively(connectors),
        transformer=lively(transformer),
        vocoder=None,
        scheduler=d.FlowMatchEulerDiscreteScheduler(**LTX_SHIFT),
        **more,
    )


def ltx2_call(batch: int = 1, **more: Any) -> dict[str, Any]:
    return {
        "prompt_embeds": embeds(batch, width=2 * WIDTH),
        "prompt_attention_mask": mask(batch),
        "negative_prompt_embeds": embeds(batch, 2, width=2 * WIDTH),
        "negative_prompt_attention_mask": mask(batch, 2),
        "height": SIZE,
        "width": SIZE,
        "num_frames": FRAMES,
        **more,
    }


BLOCKS: dict[str, Any] = {"spatio_temporal_guidance_blocks": [1]}
PLAIN_GUIDANCE: dict[str, Any] = {
    "stg_scale": 0.0,
    "modality_scale": 1.0,
    "guidance_rescale": 0.0,
    "spatio_temporal_guidance_blocks": None,
}
PLAIN_AUDIO: dict[str, Any] = {
    "audio_guidance_scale": 3.0,
    "audio_stg_scale": 0.0,
    "audio_modality_scale": 1.0,
    "audio_guidance_rescale": 0.0,
}

LTX2: dict[str, Case] = {
    "LTX2": Case(
        lambda: ltx2(d.LTX2Pipeline),
        lambda: ltx2_call(**BLOCKS),
        (
            lambda: ltx2_call(2, **BLOCKS),
            lambda: ltx2_call(**BLOCKS, height=64),
            lambda: ltx2_call(**PLAIN_GUIDANCE, **PLAIN_AUDIO),
        ),
    ),
    "LTX2, plain guidance": Case(lambda: ltx2(d.LTX2Pipeline), lambda: ltx2_call(**PLAIN_GUIDANCE, **PLAIN_AUDIO)),
    "LTX2ImageToVideo": Case(
        lambda: ltx2(d.LTX2ImageToVideoPipeline), lambda: ltx2_call(**BLOCKS, image=picture(SIZE), image_crf=0)
    ),
    "LTX2Condition": Case(
        lambda: ltx2(d.LTX2ConditionPipeline),
        lambda: ltx2_call(**BLOCKS, conditions=LTX2VideoCondition(frames=picture(SIZE), index=0, strength=1.0, crf=0)),
    ),
    "LTX2InContext": Case(
        lambda: ltx2(d.LTX2InContextPipeline),
        lambda: ltx2_call(**BLOCKS, conditions=LTX2VideoCondition(frames=picture(SIZE), index=0, strength=1.0, crf=0)),
    ),
    "LTX2HDR": Case(
        lambda: ltx2(d.LTX2HDRPipeline),
        lambda: ltx2_call(
            **PLAIN_GUIDANCE,
            guidance_scale=3.0,
            reference_conditions=LTX2HDRReferenceCondition(frames=picture(SIZE), strength=1.0),
        ),
    ),
}


# Wan and what is built on it

FLOW = {**UNIPC, "flow_shift": 8.0}


def clip_vision() -> dict[str, Any]:
    """An encoder of pictures whose tokens are WIDTH wide, and what prepares them."""
    config = t.CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=8,
        projection_dim=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
    )
    processor = t.CLIPImageProcessor(crop_size={"height": 16, "width": 16}, size={"shortest_edge": 16})
    return {"image_encoder": lively(t.CLIPVisionModel(config)), "image_processor": processor}


def wan_like(kind: Any, transformer: nn.Module, scheduler: Any = None, **more: Any) -> Any:
    parts = {"vae": wan_autoencoder(), "scheduler": scheduler or d.UniPCMultistepScheduler(**UNIPC)}
    return kind(**TEXTLESS, **parts, transformer=transformer, **more)


def wan_options(in_channels: int = 4, **more: Any) -> dict[str, Any]:
    return {
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "in_channels": in_channels,
        "out_channels": 4,
        "text_dim": WIDTH,
        "freq_dim": 16,
        "ffn_dim": 32,
        "num_layers": 2,
        "rope_max_seq_len": 32,
        **more,
    }


def frames(count: int, size: int = 16) -> list[Any]:
    return [photograph(size)] * count


def wan_animate() -> Any:
    options = wan_options(
        12,
        latent_channels=4,
        image_dim=WIDTH,
        motion_encoder_channel_sizes={"4": 8, "8": 8, "16": 8},
        motion_encoder_size=16,
        motion_style_dim=8,
        motion_dim=4,
        motion_encoder_dim=8,
        face_encoder_hidden_dim=8,
        face_encoder_num_heads=2,
        inject_face_latents_blocks=2,
    )
    vae = d.AutoencoderKLWan(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[True, True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
        scale_factor_temporal=4,
        scale_factor_spatial=4,
    )
    parts = {"vae": lively(vae), "transformer": lively(d.WanAnimateTransformer3DModel(**options))}
    return d.WanAnimatePipeline(**TEXTLESS, **parts, **clip_vision(), scheduler=d.UniPCMultistepScheduler(**UNIPC))


def wan_animate_call(count: int = 5, **more: Any) -> dict[str, Any]:
    given = {"image": photograph(16), "pose_video": frames(count), "face_video": frames(count)}
    call = video_call(**given, segment_frame_length=5, prev_segment_conditioning_frames=1, **more)
    del call["num_frames"]
    return call


def from_video(**more: Any) -> dict[str, Any]:
    """A call of what takes its length from a video."""
    call = video_call(video=frames(5), **more)
    del call["num_frames"]
    return call


def skyreels(kind: Any, in_channels: int = 4, image_dim: int | None = None, **more: Any) -> Any:
    transformer = d.SkyReelsV2Transformer3DModel(**wan_options(in_channels, image_dim=image_dim))
    return wan_like(kind, lively(transformer), d.UniPCMultistepScheduler(**FLOW), **more)


def anyflow(kind: Any, transformer: nn.Module) -> Any:
    return wan_like(kind, lively(transformer), d.FlowMapEulerDiscreteScheduler(shift=5.0))


def anyflow_far(*chunks: int) -> Any:
    """What samples chunk after chunk of the video, each of so many latent frames."""
    transformer = d.AnyFlowFARTransformer3DModel(
        **wan_options(), compressed_patch_size=(1, 4, 4), full_chunk_limit=len(chunks), chunk_partition=chunks
    )
    return anyflow(d.AnyFlowFARPipeline, transformer)


def chrono_edit() -> Any:
    transformer = d.ChronoEditTransformer3DModel(**wan_options(10, image_dim=WIDTH))
    return wan_like(d.ChronoEditPipeline, lively(transformer), **clip_vision())


WAN: dict[str, Case] = {
    "WanVideoToVideo": Case(
        lambda: wan_like(d.WanVideoToVideoPipeline, wan_transformer()),
        lambda: from_video(strength=0.9),
        (lambda: from_video(strength=0.9, guidance_scale=1.0), lambda: from_video(strength=0.5)),
    ),
    "WanVideoToVideo, from the third step": Case(
        lambda: wan_like(d.WanVideoToVideoPipeline, wan_transformer()), lambda: from_video(strength=0.8)
    ),
    "WanVACE": Case(
        lambda: wan_like(
            d.WanVACEPipeline, lively(d.WanVACETransformer3DModel(**wan_options(vace_layers=[0], vace_in_channels=12)))
        ),
        lambda: video_call(video=frames(5), mask=frames(5)),
        (video_call,),
    ),
    "WanAnimate": Case(wan_animate, wan_animate_call, (lambda: wan_animate_call(guidance_scale=1.0),)),
    "WanAnimate, two segments": Case(wan_animate, lambda: wan_animate_call(9), output_type="pt"),
    "ChronoEdit": Case(
        chrono_edit,
        lambda: video_call(image=photograph(16)),
        (lambda: video_call(image=photograph(16), guidance_scale=1.0),),
    ),
    "LucyEdit": Case(
        lambda: wan_like(d.LucyEditPipeline, lively(d.WanTransformer3DModel(**wan_options(8))), expand_timesteps=True),
        lambda: video_call(video=frames(5)),
        (lambda: video_call(video=frames(5), guidance_scale=1.0),),
    ),
    "AnyFlow": Case(
        lambda: anyflow(d.AnyFlowPipeline, d.AnyFlowTransformer3DModel(**wan_options())),
        video_call,
        (lambda: video_call(guidance_scale=1.0), lambda: video_call(height=32)),
    ),
    "AnyFlowFAR": Case(lambda: anyflow_far(3), video_call, (lambda: video_call(height=32),)),
    "AnyFlowFAR, three chunks": Case(lambda: anyflow_far(1, 1, 1), video_call),
    "SkyReelsV2": Case(
        lambda: skyreels(d.SkyReelsV2Pipeline),
        video_call,
        (
            lambda: video_call(guidance_scale=1.0),
            lambda: video_call(num_videos_per_prompt=2),
            lambda: video_call(height=32),
        ),
    ),
    "SkyReelsV2ImageToVideo": Case(
        lambda: skyreels(d.SkyReelsV2ImageToVideoPipeline, 10, WIDTH, **clip_vision()),
        lambda: video_call(image=photograph(16)),
    ),
    "SkyReelsV2DiffusionForcing": Case(
        lambda: skyreels(d.SkyReelsV2DiffusionForcingPipeline), lambda: video_call(prompt=None)
    ),
    "SkyReelsV2DiffusionForcing, one after the other": Case(
        lambda: skyreels(d.SkyReelsV2DiffusionForcingPipeline),
        lambda: video_call(prompt=None, ar_step=2, causal_block_size=1),
    ),
    "SkyReelsV2DiffusionForcingImageToVideo": Case(
        lambda: skyreels(d.SkyReelsV2DiffusionForcingImageToVideoPipeline),
        lambda: video_call(image=photograph(16)),
    ),
    "SkyReelsV2DiffusionForcingVideoToVideo": Case(
        lambda: skyreels(d.SkyReelsV2DiffusionForcingVideoToVideoPipeline),
        lambda: video_call(video=frames(5), num_frames=9, overlap_history=3, base_num_frames=7),
    ),
}


# CogVideoX


def cogvideox_as(kind: Any, *, control: bool = False) -> Any:
    parts = cogvideox(d.CogVideoXDDIMScheduler(**COGVIDEOX), from_image=control)
    return kind(**parts.components)


def control_call() -> dict[str, Any]:
    call = video_call(control_video=frames(5))
    del call["num_frames"]
    return call


COGVIDEO: dict[str, Case] = {
    "CogVideoXVideoToVideo": Case(
        lambda: cogvideox_as(d.CogVideoXVideoToVideoPipeline), lambda: from_video(strength=0.9)
    ),
    "CogVideoXFunControl": Case(lambda: cogvideox_as(d.CogVideoXFunControlPipeline, control=True), control_call),
}


# Mochi, Allegro, EasyAnimate, Latte

DIFFUSION = {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear"}


def mochi() -> Any:
    transformer = d.MochiTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        pooled_projection_dim=8,
        in_channels=4,
        text_embed_dim=WIDTH,
        time_embed_dim=4,
        max_sequence_length=TOKENS,
    )
    vae = d.AutoencoderKLMochi(
        latent_channels=4,
        encoder_block_out_channels=(32, 32, 32, 32),
        decoder_block_out_channels=(32, 32, 32, 32),
        layers_per_block=(1, 1, 1, 1, 1),
    )
    parts = {"vae": vae.eval(), "scheduler": d.FlowMatchEulerDiscreteScheduler(invert_sigmas=True)}
    return d.MochiPipeline(**TEXTLESS, **parts, transformer=lively(transformer))


def mochi_call(batch: int = 1, **more: Any) -> dict[str, Any]:
    call = {**prompts(batch, masks=True), **sized(num_frames=7, **more)}
    call["prompt_attention_mask"] = call["prompt_attention_mask"].bool()
    call["negative_prompt_attention_mask"] = call["negative_prompt_attention_mask"].bool()
    return call


def allegro() -> Any:
    transformer = d.AllegroTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        cross_attention_dim=24,
        sample_width=8,
        sample_height=8,
        sample_frames=8,
        caption_channels=WIDTH,
    )
    vae = d.AutoencoderKLAllegro(
        down_block_types=("AllegroDownBlock3D",) * 4,
        up_block_types=("AllegroUpBlock3D",) * 4,
        block_out_channels=(4, 4, 4, 4),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
    )
    parts = {"vae": vae.eval(), "scheduler": d.EulerAncestralDiscreteScheduler(**DIFFUSION)}
    return d.AllegroPipeline(**TEXTLESS, **parts, transformer=lively(transformer))


def allegro_call(batch: int = 1, **more: Any) -> dict[str, Any]:
    return {**prompts(batch, masks=True), "negative_prompt": None, **sized(num_frames=8, **more)}


def easyanimate() -> Any:
    transformer = d.EasyAnimateTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        time_embed_dim=4,
        text_embed_dim=WIDTH,
        num_layers=2,
        sample_width=16,
        sample_height=16,
        patch_size=2,
    )
    vae = d.AutoencoderKLMagvit(
        down_block_types=("SpatialDownBlock3D", *("SpatialTemporalDownBlock3D",) * 3),
        up_block_types=("SpatialUpBlock3D", *("SpatialTemporalUpBlock3D",) * 3),
        block_out_channels=(4, 4, 4, 4),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        spatial_group_norm=False,
    )
    parts = {"vae": vae.eval(), "scheduler": d.FlowMatchEulerDiscreteScheduler(shift=5.0)}
    return d.EasyAnimatePipeline(**TEXTLESS, **parts, transformer=lively(transformer))


def easyanimate_call(batch: int = 1, **more: Any) -> dict[str, Any]:
    return {**prompts(batch, masks=True), **sized(num_frames=5, **more)}


def latte() -> Any:
    transformer = d.LatteTransformer3DModel(
        sample_size=8,
        num_layers=2,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=2,
        caption_channels=WIDTH,
        in_channels=4,
        cross_attention_dim=16,
        out_channels=8,
        attention_bias=True,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
        video_length=2,
    )
    vae = d.AutoencoderKL(
        block_out_channels=(4, 4),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=2,
    )
    scheduler = d.DDIMScheduler(**DIFFUSION, clip_sample=False)
    return d.LattePipeline(**TEXTLESS, vae=vae.eval(), scheduler=scheduler, transformer=lively(transformer))


def latte_call(batch: int = 1, **more: Any) -> dict[str, Any]:
    return {**prompts(batch), "negative_prompt": None, "height": 16, "width": 16, "video_length": 2, **more}


SMALL: dict[str, Case] = {
    "Mochi": Case(
        mochi,
        mochi_call,
        (lambda: mochi_call(2), lambda: mochi_call(height=64), lambda: mochi_call(guidance_scale=1.0)),
    ),
    "Allegro": Case(
        allegro,
        allegro_call,
        (lambda: allegro_call(2), lambda: allegro_call(height=64), lambda: allegro_call(guidance_scale=1.0)),
    ),
    "EasyAnimate": Case(
        easyanimate,
        easyanimate_call,
        (
            lambda: easyanimate_call(2),
            lambda: easyanimate_call(height=64),
            lambda: easyanimate_call(guidance_scale=1.0),
        ),
    ),
    "Latte": Case(
        latte,
        latte_call,
        (lambda: latte_call(2), lambda: latte_call(height=32), lambda: latte_call(guidance_scale=1.0)),
    ),
}


# Cosmos


class Guardrail(nn.Module):
    """In the place of Cosmos' own, which would be downloaded; it is asked about prompts and pixels only."""

    device = torch.device("cpu")


def cosmos(kind: Any, scheduler: Any, in_channels: int = 4, *, old: bool = False) -> Any:
    transformer = d.CosmosTransformer3DModel(
        in_channels=in_channels,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=2,
        mlp_ratio=2,
        text_embed_dim=WIDTH,
        adaln_lora_dim=4,
        max_size=(4, 32, 32),
        patch_size=(1, 2, 2),
        rope_scale=(2.0, 1.0, 1.0),
        concat_padding_mask=False,  # scaled with torchvision, which is not installed
    )
    vae = d.AutoencoderKLCosmos(
        latent_channels=4,
        encoder_block_out_channels=(4, 4, 4, 4),
        decode_block_out_channels=(4, 4, 4, 4),
        attention_resolutions=(8,),
        resolution=64,
        num_layers=1,
        patch_size=4,
        scaling_factor=1.0,
        spatial_compression_ratio=4,
        temporal_compression_ratio=4,
        latents_mean=None,
        latents_std=None,
    )
    parts = {"vae": lively(vae) if old else wan_autoencoder(), "scheduler": scheduler, "safety_checker": Guardrail()}
    return kind(**TEXTLESS, **parts, transformer=lively(transformer))


def cosmos_call(batch: int = 1, **more: Any) -> dict[str, Any]:
    return {**prompts(batch), "height": 16, "width": 16, "num_frames": 5, **more}


def edm() -> Any:
    return d.EDMEulerScheduler(
        sigma_min=0.002, sigma_max=80.0, sigma_data=0.5, sigma_schedule="karras", final_sigmas_type="sigma_min"
    )


def cosmos2_scheduler() -> Any:
    return d.FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True)


def cosmos25_scheduler() -> Any:
    return d.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, use_karras_sigmas=True, sigma_max=200.0, sigma_min=0.01
    )


def still_call(**more: Any) -> dict[str, Any]:
    call = cosmos_call(**more)
    del call["num_frames"]
    return call


COSMOS: dict[str, Case] = {
    "CosmosTextToWorld": Case(
        lambda: cosmos(d.CosmosTextToWorldPipeline, edm(), old=True),
        cosmos_call,
        (lambda: cosmos_call(2), lambda: cosmos_call(guidance_scale=1.0)),
    ),
    "CosmosVideoToWorld": Case(
        lambda: cosmos(d.CosmosVideoToWorldPipeline, edm(), 5, old=True),
        lambda: cosmos_call(image=photograph(16)),
    ),
    "Cosmos2TextToImage": Case(
        lambda: cosmos(d.Cosmos2TextToImagePipeline, cosmos2_scheduler()),
        still_call,
        (lambda: still_call(batch=2), lambda: still_call(height=32), lambda: still_call(guidance_scale=1.0)),
    ),
    "Cosmos2VideoToWorld": Case(
        lambda: cosmos(d.Cosmos2VideoToWorldPipeline, cosmos2_scheduler(), 5),
        lambda: cosmos_call(image=photograph(16)),
    ),
    "Cosmos2_5_PredictBase": Case(
        lambda: cosmos(d.Cosmos2_5_PredictBasePipeline, cosmos25_scheduler(), 5),
        cosmos_call,
        (lambda: cosmos_call(2), lambda: cosmos_call(guidance_scale=1.0)),
    ),
}


# Sana video, Kandinsky, Motif, Helios


def sana_video(kind: Any, scheduler: Any) -> Any:
    transformer = d.SanaVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=12,
        cross_attention_dim=24,
        caption_channels=WIDTH,
        mlp_ratio=2.5,
        sample_size=8,
        patch_size=(1, 2, 2),
        rope_max_seq_len=32,
    )
    return kind(**TEXTLESS, vae=wan_autoencoder(), transformer=lively(transformer), scheduler=scheduler)


def sana_call(batch: int = 1, **more: Any) -> dict[str, Any]:
    size = {"height": SIZE, "width": SIZE, "frames": 5, "use_resolution_binning": False}
    return {**prompts(batch, masks=True), "negative_prompt": None, **size, **more}


def kandinsky(kind: Any) -> Any:
    transformer = d.Kandinsky5Transformer3DModel(
        in_visual_dim=4,
        in_text_dim=WIDTH,
        in_text_dim2=WIDTH,
        time_dim=16,
        out_visual_dim=4,
        patch_size=(1, 2, 2),
        model_dim=16,
        ff_dim=32,
        num_text_blocks=1,
        num_visual_blocks=2,
        axes_dims=(4, 2, 2),
        visual_cond=True,
        attention_type="regular",
    )
    parts = {"vae": hunyuan_autoencoder(), "scheduler": d.FlowMatchEulerDiscreteScheduler(shift=5.0)}
    return kind(**TEXTLESS_2, **parts, transformer=lively(transformer))


def kandinsky_call(batch: int = 1, **more: Any) -> dict[str, Any]:
    ends = torch.arange(batch + 1, dtype=torch.int32) * TOKENS
    return {
        "prompt_embeds_qwen": embeds(batch),
        "prompt_embeds_clip": random(batch, WIDTH, seed=2),
        "prompt_cu_seqlens": ends,
        "negative_prompt_embeds_qwen": embeds(batch, 3),
        "negative_prompt_embeds_clip": random(batch, WIDTH, seed=4),
        "negative_prompt_cu_seqlens": ends,
        **sized(**more),
    }


def motif(kind: Any) -> Any:
    transformer = d.MotifVideoTransformer3DModel(
        in_channels=9,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=1,
        num_single_layers=1,
        text_embed_dim=WIDTH,
        rope_axes_dim=(4, 4, 4),
    )
    parts = {"vae": wan_autoencoder(), "scheduler": d.FlowMatchEulerDiscreteScheduler(shift=7.0)}
    guider = AdaptiveProjectedGuidance(guidance_scale=6.0)
    return kind(**TEXTLESS, **parts, transformer=lively(transformer), guider=guider, feature_extractor=None)


def motif_call(batch: int = 1, **more: Any) -> dict[str, Any]:
    return {**prompts(batch, masks=True), "height": 16, "width": 16, "num_frames": 5, **more}


def helios() -> Any:
    transformer = d.HeliosTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=WIDTH,
        freq_dim=16,
        ffn_dim=32,
        num_layers=2,
        rope_dim=(4, 4, 4),
    )
    scheduler = d.HeliosScheduler(stage_range=[0, 1], stages=1, use_dynamic_shifting=True)
    return d.HeliosPipeline(**TEXTLESS, vae=wan_autoencoder(), scheduler=scheduler, transformer=lively(transformer))


def helios_call(**more: Any) -> dict[str, Any]:
    return video_call(history_sizes=[4, 2, 1], num_latent_frames_per_chunk=3, **more)


def sana_wm() -> Any:
    transformer = d.SanaWMTransformer3DModel(
        in_channels=4,
        num_layers=2,
        hidden_size=32,
        num_attention_heads=2,
        softmax_every_n=2,
        linear_head_dim=16,
        chunk_plucker_post_attn_blocks=2,
        image_size=SIZE,
        caption_channels=WIDTH,
        mlp_ratio=2.0,
    )
    scheduler = d.FlowMatchEulerDiscreteScheduler(shift=8.0)
    return d.SanaWMPipeline(**TEXTLESS, vae=ltx2_autoencoder(), transformer=lively(transformer), scheduler=scheduler)


def sana_wm_call(**more: Any) -> dict[str, Any]:
    given = prompts(masks=True)
    given |= {name: given[name][:, None] for name in ("prompt_embeds", "negative_prompt_embeds")}
    camera = {"action": "w-20", "intrinsics": [32.0, 32.0, 16.0, 16.0]}
    return {"prompt": "", "image": photograph(SIZE), **given, **camera, **sized(**more)}


OTHERS: dict[str, Case] = {
    "SanaVideo": Case(
        lambda: sana_video(d.SanaVideoPipeline, d.DPMSolverMultistepScheduler(**FLOW)),
        sana_call,
        (lambda: sana_call(2), lambda: sana_call(height=64), lambda: sana_call(guidance_scale=1.0)),
    ),
    "SanaImageToVideo": Case(
        lambda: sana_video(d.SanaImageToVideoPipeline, d.FlowMatchEulerDiscreteScheduler(shift=8.0)),
        lambda: sana_call(image=photograph(SIZE)),
    ),
    "SanaWM": Case(sana_wm, sana_wm_call, (lambda: sana_wm_call(guidance_scale=1.0),)),
    "Kandinsky5T2V": Case(
        lambda: kandinsky(d.Kandinsky5T2VPipeline),
        kandinsky_call,
        (lambda: kandinsky_call(2), lambda: kandinsky_call(height=64), lambda: kandinsky_call(guidance_scale=1.0)),
    ),
    "Kandinsky5I2V": Case(
        lambda: kandinsky(d.Kandinsky5I2VPipeline), lambda: kandinsky_call(image=photograph(SIZE), num_frames=17)
    ),
    "MotifVideo": Case(
        lambda: motif(d.MotifVideoPipeline), motif_call, (lambda: motif_call(2), lambda: motif_call(height=32))
    ),
    "MotifVideoImage2Video": Case(
        lambda: motif(d.MotifVideoImage2VideoPipeline), lambda: motif_call(prompt=None, image=photograph(16))
    ),
    "Helios": Case(helios, helios_call, (lambda: helios_call(guidance_scale=1.0),)),
}


# Sound


def stable_audio() -> Any:
    transformer = d.StableAudioDiTModel(
        sample_size=16,
        in_channels=3,
        num_layers=2,
        attention_head_dim=4,
        num_attention_heads=4,
        num_key_value_attention_heads=2,
        out_channels=3,
        cross_attention_dim=4,
        time_proj_dim=8,
        global_states_input_dim=8,
        cross_attention_input_dim=4,
    )
    projection = StableAudioProjectionModel(text_encoder_dim=WIDTH, conditioning_dim=4, min_value=0, max_value=32)
    return d.StableAudioPipeline(
        **t5(),
        vae=oobleck(3),
        projection_model=lively(projection),
        transformer=lively(transformer),
        scheduler=d.EDMDPMSolverMultistepScheduler(  # its own needs torchsde, and draws noise
            prediction_type="v_prediction", sigma_data=1.0, sigma_schedule="exponential", sigma_min=0.3, sigma_max=500.0
        ),
    )


def oobleck(channels: int) -> Any:
    return lively(
        d.AutoencoderOobleck(
            encoder_hidden_size=6,
            downsampling_ratios=[1, 2],
            decoder_channels=3,
            decoder_input_channels=channels,
            audio_channels=2,
            channel_multiples=[2, 4],
            sampling_rate=4,
        )
    )


def stable_audio3(**options: Any) -> Any:
    transformer = d.StableAudio3DiTModel(
        io_channels=8,
        patch_size=1,
        embed_dim=16,
        depth=2,
        num_heads=2,
        cond_token_dim=WIDTH,
        global_cond_dim=WIDTH,
        local_add_cond_dim=5,
        timestep_features_dim=16,
        ff_mult=2,
        num_memory_tokens=3,
        use_differential_attention=False,
    )
    vae = d.AutoencoderSAME(
        audio_channels=2,
        patch_size=2,
        encoder_channels=8,
        encoder_c_mults=(2,),
        encoder_strides=(2,),
        encoder_transformer_depths=(1,),
        latent_dim=8,
        use_differential_attention=False,
        dim_heads=4,
        ff_mult=2,
        sampling_rate=16,
    )
    return d.StableAudio3Pipeline(
        **TEXTLESS,
        vae=vae.eval(),
        duration_embedder=lively(StableAudio3DurationEmbedder(output_dim=WIDTH, fourier_dim=16)),
        transformer=lively(transformer),
        scheduler=d.FlowMatchEulerDiscreteScheduler(num_train_timesteps=1, **options),
    )


def stable_audio3_call(**more: Any) -> dict[str, Any]:
    return {
        "prompt_embeds": embeds(),
        "encoder_attention_mask": mask().bool(),
        "negative_prompt_embeds": embeds(seed=2),
        "negative_encoder_attention_mask": mask(padding=2).bool(),
        "duration": 1.0,
        "silence_padding_duration": 0.0,
        "guidance_scale": 4.0,
        **more,
    }


def spoken() -> dict[str, Any]:
    """The parts that the pipelines of spectrograms share."""
    vae = d.AutoencoderKL(
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=8,
    )
    config = t.SpeechT5HifiGanConfig(
        model_in_dim=8,
        upsample_initial_channel=16,
        upsample_rates=[2, 2],
        upsample_kernel_sizes=[4, 4],
        resblock_kernel_sizes=[3],
        resblock_dilation_sizes=[[1, 3]],
        normalize_before=False,
    )
    scheduler = d.DDIMScheduler(
        beta_start=0.0015,
        beta_end=0.0195,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    parts = {"vae": lively(vae), "vocoder": t.SpeechT5HifiGan(config).eval(), "feature_extractor": None}
    return {**parts, "scheduler": scheduler, "tokenizer": None, "text_encoder": None}


UNET = {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 8, "sample_size": 16}


def audioldm2() -> Any:
    unet = AudioLDM2UNet2DConditionModel(
        **UNET,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=(WIDTH, WIDTH),
        attention_head_dim=4,
    )
    language = t.GPT2LMHeadModel(t.GPT2Config(n_embd=8, n_head=1, n_layer=1, vocab_size=8, n_positions=8))
    more = {"text_encoder_2": t5()["text_encoder"], "tokenizer_2": None, "language_model": language}
    return d.AudioLDM2Pipeline(**spoken(), **more, projection_model=None, unet=lively(unet))


def audioldm2_call(batch: int = 1, **more: Any) -> dict[str, Any]:
    return {
        **prompts(batch),
        "generated_prompt_embeds": embeds(batch, 3),
        "negative_generated_prompt_embeds": embeds(batch, 4),
        "attention_mask": mask(batch),
        "negative_attention_mask": mask(batch, 2),
        "audio_length_in_s": 0.008,
        **more,
    }


def musicldm() -> Any:
    unet = d.UNet2DConditionModel(
        **UNET,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=4,
        class_embed_type="simple_projection",
        projection_class_embeddings_input_dim=WIDTH,
        class_embeddings_concat=True,
    )
    text = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 1, "num_hidden_layers": 1}
    sound = {"spec_size": 8, "window_size": 4, "num_mel_bins": 8, "depths": [1, 1], "num_attention_heads": [1, 1]}
    sound |= {"hidden_size": 16, "patch_size": 2, "patch_stride": 2, "patch_embeds_hidden_size": 8}
    clap = t.ClapModel(t.ClapConfig(text_config={**text, "vocab_size": 8}, audio_config=sound, projection_dim=WIDTH))
    return d.MusicLDMPipeline(**{**spoken(), "text_encoder": clap.eval()}, unet=lively(unet))


def musicldm_call(**more: Any) -> dict[str, Any]:
    given = {"prompt_embeds": random(1, WIDTH, seed=1), "negative_prompt_embeds": random(1, WIDTH, seed=2)}
    return {**given, "audio_length_in_s": 0.008, **more}


def ace_step() -> Any:
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "sliding_window": 16}
    sizes = {"hidden_size": 16, "intermediate_size": 32, **heads}
    transformer = d.AceStepTransformer1DModel(
        **sizes, num_hidden_layers=2, in_channels=24, audio_acoustic_hidden_dim=8, patch_size=2
    )
    config = t.Qwen3Config(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        vocab_size=384,
    )
    condition = AceStepConditionEncoder(
        **sizes,
        text_hidden_dim=16,
        timbre_hidden_dim=8,
        num_lyric_encoder_hidden_layers=1,
        num_timbre_encoder_hidden_layers=1,
    )
    return d.AceStepPipeline(
        vae=oobleck(8),
        text_encoder=lively(t.Qwen3Model(config)),
        tokenizer=t.ByT5Tokenizer(model_max_length=16),
        condition_encoder=lively(condition),
        transformer=lively(transformer),
        scheduler=d.FlowMatchEulerDiscreteScheduler(num_train_timesteps=1),
    )


def ace_step_call(**more: Any) -> dict[str, Any]:
    return {"prompt": "piano", "lyrics": "la", "audio_duration": 4.0, "max_text_length": 16, **more}


def longcat() -> Any:
    transformer = d.LongCatAudioDiTTransformer(
        dit_dim=16, dit_depth=2, dit_heads=2, dit_text_dim=WIDTH, latent_dim=8, text_conv=False
    )
    vae = d.LongCatAudioDiTVae(
        in_channels=1,
        channels=16,
        c_mults=[1, 2],
        strides=[2],
        latent_dim=8,
        encoder_latent_dim=16,
        downsampling_ratio=2,
        sample_rate=24000,
    )
    config = t.UMT5Config(vocab_size=384, d_model=WIDTH, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    return d.LongCatAudioDiTPipeline(
        vae=vae.eval(),
        text_encoder=lively(t.UMT5EncoderModel(config)),
        tokenizer=t.ByT5Tokenizer(model_max_length=16),
        transformer=lively(transformer),
        scheduler=d.FlowMatchEulerDiscreteScheduler(invert_sigmas=True),
    )


def longcat_call(**more: Any) -> dict[str, Any]:
    return {"prompt": "sea", "negative_prompt": "noise", "audio_duration_s": 0.002, "guidance_scale": 4.0, **more}


SOUND: dict[str, Case] = {
    "StableAudio": Case(
        stable_audio,
        lambda: {"prompt": "a hammer", "negative_prompt": "noise", "guidance_scale": 6.0},
        (lambda: {"prompt": "a hammer", "num_waveforms_per_prompt": 2}, lambda: {"prompt": "a", "guidance_scale": 1.0}),
    ),
    "StableAudio3": Case(
        stable_audio3,
        stable_audio3_call,
        (lambda: stable_audio3_call(duration=2.0), lambda: stable_audio3_call(guidance_scale=1.0)),
    ),
    "StableAudio3, distilled": Case(
        lambda: stable_audio3(stochastic_sampling=True), lambda: stable_audio3_call(guidance_scale=1.0)
    ),
    "AceStep": Case(ace_step, ace_step_call, (lambda: ace_step_call(guidance_scale=1.0),)),
    "LongCatAudioDiT": Case(
        longcat,
        longcat_call,
        (lambda: longcat_call(guidance_scale=1.0), lambda: longcat_call(audio_duration_s=0.004)),
    ),
    "AudioLDM2": Case(
        audioldm2,
        audioldm2_call,
        (
            lambda: audioldm2_call(2),
            lambda: audioldm2_call(audio_length_in_s=0.016),
            lambda: audioldm2_call(guidance_scale=1.0),
        ),
    ),
    "MusicLDM": Case(musicldm, musicldm_call, (lambda: musicldm_call(guidance_scale=1.0),)),
}


# Kandinsky 6: video and sound


def kandinsky6() -> Any:
    transformer = d.Kandinsky6Transformer3DModel(
        in_visual_dim=4,
        out_visual_dim=4,
        in_text_dim=WIDTH,
        in_text_dim2=WIDTH,
        time_dim=16,
        model_dim=16,
        ff_dim=32,
        num_text_blocks=1,
        num_visual_blocks=2,
        axes_dims=(4, 2, 2),
        in_audio_dim=4,
        out_audio_dim=4,
        visual_token_type_num_embeddings=2,
    )
    parts = {"vae": hunyuan_autoencoder(), "scheduler": d.FlowMatchEulerDiscreteScheduler(shift=5.0)}
    audio_vae = d.MMAudioVAE(mel_bins=8, latent_channels=4, hidden_channels=8, channel_multipliers=(1, 1))
    vocoder = d.MMAudioVocoder(8, 4, (2,), (4,), (3,), ((1,),))
    sound = {"audio_vae": audio_vae.eval(), "vocoder": vocoder.eval()}
    return d.Kandinsky6TI2VAPipeline(**TEXTLESS_2, **parts, **sound, transformer=lively(transformer))


def kandinsky6_call(batch: int = 1, **more: Any) -> dict[str, Any]:
    pooled = {"pooled_prompt_embeds": random(batch, WIDTH, seed=3)}
    pooled["negative_pooled_prompt_embeds"] = random(batch, WIDTH, seed=4)
    return {**prompts(batch), **pooled, **sized(**more)}


SILENT: dict[str, Any] = {"sample_audio": False}
KANDINSKY6: dict[str, Case] = {
    "Kandinsky6TI2VA": Case(kandinsky6, kandinsky6_call),
    "Kandinsky6TI2VA, without sound": Case(
        kandinsky6,
        lambda: kandinsky6_call(**SILENT),
        (lambda: kandinsky6_call(2, **SILENT), lambda: kandinsky6_call(**SILENT, guidance_scale=1.0)),
    ),
    "Kandinsky6TI2VA, from a picture": Case(kandinsky6, lambda: kandinsky6_call(**SILENT, image=photograph(SIZE))),
}


SPECIAL: dict[str, Case] = {
    "LTX2Condition, a scheduler for sound": Case(
        lambda: ltx2(d.LTX2ConditionPipeline, audio_scheduler=d.FlowMatchEulerDiscreteScheduler(**LTX_SHIFT)),
        lambda: ltx2_call(**BLOCKS),
    ),
    "ChronoEdit, temporal reasoning": Case(
        chrono_edit,
        lambda: video_call(
            image=photograph(16), num_frames=9, enable_temporal_reasoning=True, num_temporal_reasoning_steps=4
        ),
    ),
}


CASES: dict[str, Case] = {
    **HUNYUAN,
    **LTX,
    **LTX2,
    **WAN,
    **COGVIDEO,
    **SMALL,
    **COSMOS,
    **OTHERS,
    **SOUND,
    **KANDINSKY6,
    **SPECIAL,
}
