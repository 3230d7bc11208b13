"""FLUX and FLUX.2, Wan, CogVideoX, Open-Sora: the paper's families, in the variants that their users run."""

from __future__ import annotations

from typing import Any

import diffusers as d
import torch

from contract.case import Case
from contract.parts import lively, photograph, picture, random
from ertacache.opensora import (
    AutoencoderOpenSora,
    OpenSoraPipeline,
    OpenSoraRectifiedFlowScheduler,
    STDiT3Transformer3DModel,
)

FLUX_SIZE, VIDEO_SIZE, FRAMES = 16, 16, 5
COGVIDEOX = {
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "snr_shift_scale": 1.0,
    "timestep_spacing": "trailing",
    "beta_schedule": "scaled_linear",
}
DYNAMIC = {"use_dynamic_shifting": True, "base_image_seq_len": 16, "max_image_seq_len": 64}
UNIPC = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}


def flux_autoencoder() -> Any:
    options = {"block_out_channels": (4, 4), "latent_channels": 4, "norm_num_groups": 2, "shift_factor": 0.0}
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    return lively(d.AutoencoderKL(**options, **blocks, mid_block_add_attention=False))


def flux_model(kind: Any = d.FluxTransformer2DModel, in_channels: int = 16, seed: int = 0, **more: Any) -> Any:
    return lively(
        kind(
            in_channels=in_channels,
            num_layers=1,
            num_single_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=8,
            pooled_projection_dim=8,
            axes_dims_rope=(2, 2, 4),
            **more,
        ),
        seed,
    )


def flux(kind: Any, in_channels: int = 16, *, guidance: bool = False, **options: Any) -> Any:
    return kind(
        scheduler=d.FlowMatchEulerDiscreteScheduler(**options),
        vae=flux_autoencoder(),
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        transformer=flux_model(in_channels=in_channels, out_channels=16, guidance_embeds=guidance),
    )


def flux_call(**more: Any) -> dict[str, Any]:
    return {
        "prompt_embeds": random(1, 4, 8, seed=1),
        "pooled_prompt_embeds": random(1, 8, seed=2),
        "height": FLUX_SIZE,
        "width": FLUX_SIZE,
        **more,
    }


def true_guidance() -> dict[str, Any]:
    return {
        "true_cfg_scale": 4.0,
        "negative_prompt_embeds": random(1, 4, 8, seed=3),
        "negative_pooled_prompt_embeds": random(1, 8, seed=4),
    }


def flux2_transformer(**more: Any) -> Any:
    return lively(
        d.Flux2Transformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=8,
            timestep_guidance_channels=16,
            axes_dims_rope=(4, 4, 4, 4),
            **more,
        )
    )


def flux2_autoencoder() -> Any:
    return lively(
        d.AutoencoderKLFlux2(
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(4, 4),
            latent_channels=4,
            norm_num_groups=2,
            mid_block_add_attention=False,
        )
    )


def flux2(kind: Any = d.Flux2Pipeline, *, guidance: bool = True, shift: float = 1.0, **more: Any) -> Any:
    return kind(
        scheduler=d.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=shift),
        vae=flux2_autoencoder(),
        text_encoder=None,
        tokenizer=None,
        transformer=flux2_transformer(guidance_embeds=guidance),
        **more,
    )


def flux2_call(**more: Any) -> dict[str, Any]:
    return {"prompt_embeds": random(1, 4, 8), "height": FLUX_SIZE, "width": FLUX_SIZE, **more}


def wan_autoencoder() -> Any:
    return lively(
        d.AutoencoderKLWan(
            base_dim=4,
            z_dim=4,
            dim_mult=[1, 1],
            num_res_blocks=1,
            temperal_downsample=[True],
            latents_mean=[0.0] * 4,
            latents_std=[1.0] * 4,
            scale_factor_temporal=2,
            scale_factor_spatial=2,
        )
    )


def wan_transformer(in_channels: int = 4, seed: int = 0) -> Any:
    return lively(
        d.WanTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=in_channels,
            out_channels=4,
            text_dim=8,
            freq_dim=16,
            ffn_dim=32,
            num_layers=2,
            rope_max_seq_len=32,
        ),
        seed,
    )


def wan(scheduler: Any, **more: Any) -> Any:
    parts = {"vae": wan_autoencoder(), "scheduler": scheduler, "tokenizer": None, "text_encoder": None}
    return d.WanPipeline(**parts, transformer=wan_transformer(), **more)


def video_call(**more: Any) -> dict[str, Any]:
    return {
        "prompt_embeds": random(1, 6, 8, seed=1),
        "negative_prompt_embeds": random(1, 6, 8, seed=2),
        "height": VIDEO_SIZE,
        "width": VIDEO_SIZE,
        "num_frames": FRAMES,
        "guidance_scale": 4.0,
        **more,
    }


def wan_from_image() -> Any:
    parts = {"vae": wan_autoencoder(), "tokenizer": None, "text_encoder": None}
    transformer = wan_transformer(4 + 2 + 4)
    return d.WanImageToVideoPipeline(**parts, scheduler=d.UniPCMultistepScheduler(**UNIPC), transformer=transformer)


def cogvideox(scheduler: Any, *, from_image: bool = False, temporal_patch: int | None = None) -> Any:
    vae = d.AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 2,
        up_block_types=("CogVideoXUpBlock3D",) * 2,
        block_out_channels=(4, 4),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        temporal_compression_ratio=2,
        sample_height=VIDEO_SIZE,
        sample_width=VIDEO_SIZE,
    )
    transformer = d.CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=8 if from_image else 4,
        out_channels=4,
        time_embed_dim=8,
        text_embed_dim=8,
        num_layers=2,
        sample_width=8,
        sample_height=8,
        sample_frames=FRAMES,
        temporal_compression_ratio=2,
        max_text_seq_length=6,
        patch_size_t=temporal_patch,
        use_rotary_positional_embeddings=temporal_patch is not None,
        patch_bias=temporal_patch is None,
    )
    kind = d.CogVideoXImageToVideoPipeline if from_image else d.CogVideoXPipeline
    parts = {"vae": lively(vae), "transformer": lively(transformer), "scheduler": scheduler}
    return kind(tokenizer=None, text_encoder=None, **parts)


def opensora() -> Any:
    vae = AutoencoderOpenSora(
        latent_channels=4,
        spatial_channels=(4, 4),
        spatial_layers=1,
        spatial_norm_groups=2,
        temporal_channels=(4, 4),
        temporal_layers=1,
        temporal_halves=(True,),
        temporal_norm_groups=2,
        micro_frame_size=FRAMES,
    )
    transformer = STDiT3Transformer3DModel(
        num_layers=2, num_attention_heads=2, attention_head_dim=12, caption_channels=8, caption_length=6, sample_side=16
    )
    transformer.null_caption.copy_(random(*transformer.null_caption.shape, seed=8))
    parts = {"vae": lively(vae), "transformer": lively(transformer), "scheduler": OpenSoraRectifiedFlowScheduler()}
    return OpenSoraPipeline(tokenizer=None, text_encoder=None, **parts)


def opensora_call() -> dict[str, Any]:
    mask = torch.tensor([[1, 1, 1, 1, 0, 0]])
    return video_call(prompt_attention_mask=mask, negative_prompt_attention_mask=mask)


CASES: dict[str, Case] = {
    "FLUX": Case(
        lambda: flux(d.FluxPipeline, **DYNAMIC, guidance=True),
        lambda: flux_call(guidance_scale=3.5),
        (
            lambda: flux_call(guidance_scale=3.5, num_images_per_prompt=2),
            lambda: flux_call(guidance_scale=3.5, height=32),
        ),
    ),
    "FLUX, true guidance": Case(
        lambda: flux(d.FluxPipeline, shift=3.0),
        lambda: flux_call(**true_guidance()),
        (lambda: flux_call(**true_guidance(), width=32), flux_call),
    ),
    "FLUX Kontext": Case(
        lambda: flux(d.FluxKontextPipeline, shift=3.0),
        lambda: flux_call(image=picture(FLUX_SIZE), max_area=FLUX_SIZE**2, _auto_resize=False),
    ),
    "FLUX control": Case(
        lambda: flux(d.FluxControlPipeline, 32, shift=3.0), lambda: flux_call(control_image=picture(FLUX_SIZE))
    ),
    "FLUX.2": Case(
        flux2,
        lambda: flux2_call(),
        (lambda: flux2_call(num_images_per_prompt=2), lambda: flux2_call(height=32)),
    ),
    "FLUX.2, reference image": Case(flux2, lambda: flux2_call(height=64, width=64, image=photograph(64))),
    "Wan, UniPC": Case(
        lambda: wan(d.UniPCMultistepScheduler(**UNIPC)),
        video_call,
        (
            lambda: video_call(guidance_scale=1.0),
            lambda: video_call(num_videos_per_prompt=2),
            lambda: video_call(height=32),
        ),
    ),
    "Wan, Euler": Case(lambda: wan(d.FlowMatchEulerDiscreteScheduler(shift=3.0)), video_call),
    "Wan, image to video": Case(wan_from_image, lambda: video_call(image=picture(VIDEO_SIZE))),
    "Wan 2.2": Case(
        lambda: wan(d.UniPCMultistepScheduler(**UNIPC), transformer_2=wan_transformer(seed=1), boundary_ratio=0.8),
        lambda: video_call(guidance_scale_2=3.0),
    ),
    "CogVideoX, DDIM": Case(
        lambda: cogvideox(d.CogVideoXDDIMScheduler(**COGVIDEOX)),
        video_call,
        (lambda: video_call(guidance_scale=1.0), lambda: video_call(num_frames=9)),
    ),
    "CogVideoX, DPM": Case(
        lambda: cogvideox(d.CogVideoXDPMScheduler(**COGVIDEOX)), lambda: video_call(use_dynamic_cfg=True)
    ),
    "CogVideoX 1.5": Case(lambda: cogvideox(d.CogVideoXDPMScheduler(**COGVIDEOX), temporal_patch=2), video_call),
    "CogVideoX, image to video": Case(
        lambda: cogvideox(d.CogVideoXDPMScheduler(**COGVIDEOX), from_image=True),
        lambda: video_call(image=picture(VIDEO_SIZE)),
    ),
    "Open-Sora 1.2": Case(opensora, opensora_call),
}
