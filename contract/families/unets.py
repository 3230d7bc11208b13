"""U-Nets: Stable Diffusion and XL, AnimateDiff and other video, Kandinsky, IF, cascades, depth, older pipelines."""

from __future__ import annotations

from typing import Any

import diffusers as d
import torch
from diffusers.pipelines.deprecated.paint_by_example import PaintByExampleImageEncoder
from diffusers.pipelines.deprecated.vq_diffusion import LearnedClassifierFreeSamplingEmbeddings
from diffusers.pipelines.deprecated.wuerstchen import PaellaVQModel, WuerstchenDiffNeXt, WuerstchenPrior
from diffusers.pipelines.kandinsky.text_encoder import MCLIPConfig, MultilingualCLIP
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer
from torch import Tensor, nn
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    SpeechT5HifiGan,
    SpeechT5HifiGanConfig,
)

from contract.case import Call, Case
from contract.parts import lively, photograph, picture, random

SIZE, FRAMES = 16, 3
GROUPS = {"norm_num_groups": 2}
DOWN, UP = ("CrossAttnDownBlock2D", "DownBlock2D"), ("UpBlock2D", "UpBlock2D")
SD_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SD = {**SD_BETAS, "steps_offset": 1, "timestep_spacing": "leading"}
SD_DDIM = {**SD, "clip_sample": False, "set_alpha_to_one": False}
SD_PNDM = {**SD, "skip_prk_steps": True, "set_alpha_to_one": False}


def autoencoder(**more: Any) -> Any:
    options: dict[str, Any] = {"block_out_channels": (4, 4), "latent_channels": 4, "mid_block_add_attention": False}
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    return lively(d.AutoencoderKL(**{**options, **GROUPS, **blocks, **more}))


def certain(vae: Any) -> Any:
    """Encodes to the mean: some pipelines sample the encoding without their generator."""
    encode = vae.encode

    def encode_to_mean(pixels: Tensor) -> Any:
        encoded = encode(pixels)
        encoded.latent_dist.std.zero_()
        return encoded

    vae.encode = encode_to_mean
    return vae


def unet(in_channels: int = 4, **more: Any) -> Any:
    options: dict[str, Any] = {
        "in_channels": in_channels,
        "out_channels": 4,
        "sample_size": SIZE // 2,
        "block_out_channels": (4, 8),
        "layers_per_block": 1,
        "cross_attention_dim": 8,
        "attention_head_dim": 2,
        "down_block_types": DOWN,
        "up_block_types": UP,
    }
    return lively(d.UNet2DConditionModel(**{**options, **GROUPS, **more}))


def text() -> dict[str, Any]:
    return {"prompt_embeds": random(1, 4, 8, seed=1), "negative_prompt_embeds": random(1, 4, 8, seed=2)}


def mask(size: int = SIZE) -> Tensor:
    """The left half of a picture."""
    return (torch.arange(size) < size // 2).float().expand(1, 1, size, size)


# Stable Diffusion.


def sd(scheduler: Any, denoiser: nn.Module | None = None) -> Any:
    return d.StableDiffusionPipeline(
        vae=autoencoder(),
        text_encoder=None,
        tokenizer=None,
        unet=denoiser or unet(),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sd_as(kind: Any, in_channels: int = 4, *, scheduler: Any = None, options: Any = None, **more: Any) -> Any:
    """Stable Diffusion's components in another of its pipelines."""
    base = sd(scheduler or d.DDIMScheduler(**SD_DDIM), unet(in_channels, **(options or {})))
    return kind.from_pipe(base, **more)


def sd_call(**more: Any) -> dict[str, Any]:
    return {**text(), "guidance_scale": 7.5, **more}


def sd_others(**more: Any) -> tuple[Call, ...]:
    return (
        lambda: sd_call(**more, num_images_per_prompt=2),
        lambda: sd_call(**more, height=2 * SIZE, width=SIZE),
        lambda: sd_call(**more, guidance_scale=1.0),
    )


def controlnet(**more: Any) -> Any:
    options: dict[str, Any] = {
        "in_channels": 4,
        "block_out_channels": (4, 8),
        "layers_per_block": 1,
        "cross_attention_dim": 8,
        "attention_head_dim": 2,
        "down_block_types": DOWN,
        "conditioning_embedding_out_channels": (4, 4),
    }
    return lively(d.ControlNetModel(**{**options, **GROUPS, **more}))


def adapter(kind: str, downscale_factor: int) -> Any:
    options: dict[str, Any] = {"channels": [4, 8], "num_res_blocks": 1, "downscale_factor": downscale_factor}
    return lively(d.T2IAdapter(adapter_type=kind, **options))


def image_encoder() -> Any:
    """CLIP for pictures of ``SIZE``."""
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPVisionConfig(**sizes, projection_dim=8, image_size=SIZE, patch_size=SIZE // 2)
    return lively(CLIPVisionModelWithProjection(config))


def sd_depth() -> Any:
    return d.StableDiffusionDepth2ImgPipeline(
        vae=autoencoder(),
        text_encoder=None,
        tokenizer=None,
        unet=unet(5),
        scheduler=d.DDIMScheduler(**SD_DDIM),
        depth_estimator=None,
        feature_extractor=None,
    )


def sd_variation() -> Any:
    return d.StableDiffusionImageVariationPipeline(
        vae=autoencoder(),
        image_encoder=image_encoder(),
        unet=unet(),
        scheduler=d.DDIMScheduler(**SD_DDIM),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sd_upscale() -> Any:
    return d.StableDiffusionUpscalePipeline(
        vae=autoencoder(),
        text_encoder=None,
        tokenizer=None,
        unet=unet(7, num_class_embeds=1000),
        low_res_scheduler=d.DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        scheduler=d.DDIMScheduler(beta_schedule="scaled_linear", prediction_type="v_prediction", clip_sample=False),
    )


def sd_latent_upscale() -> Any:
    denoiser = unet(
        8,
        out_channels=5,
        act_fn="gelu",
        norm_num_groups=None,
        block_out_channels=(32, 32, 64, 64),
        attention_head_dim=8,
        time_cond_proj_dim=16 + 128,
        conv_in_kernel=1,
        conv_out_kernel=1,
        down_block_types=("KDownBlock2D", *("KCrossAttnDownBlock2D",) * 3),
        up_block_types=(*("KCrossAttnUpBlock2D",) * 3, "KUpBlock2D"),
        mid_block_type=None,
        resnet_time_scale_shift="scale_shift",
        time_embedding_type="fourier",
        timestep_post_act="gelu",
    )
    parts = {"vae": autoencoder(), "text_encoder": None, "tokenizer": None}
    scheduler = d.EulerDiscreteScheduler(prediction_type="sample", **SD_BETAS)
    return d.StableDiffusionLatentUpscalePipeline(**parts, unet=denoiser, scheduler=scheduler)


def sd_latent_upscale_call() -> dict[str, Any]:
    pooled = {"pooled_prompt_embeds": random(1, 16, seed=3), "negative_pooled_prompt_embeds": random(1, 16, seed=4)}
    return {**text(), **pooled, "image": random(1, 4, 8, 8), "guidance_scale": 7.5}


def lcm(kind: Any) -> Any:
    return sd_as(kind, scheduler=d.LCMScheduler(**SD_DDIM), options={"time_cond_proj_dim": 8})


def lcm_call(**more: Any) -> dict[str, Any]:
    return {"prompt_embeds": random(1, 4, 8, seed=1), "guidance_scale": 8.5, **more}


STABLE_DIFFUSION: dict[str, Case] = {
    "StableDiffusion": Case(lambda: sd(d.PNDMScheduler(**SD_PNDM)), sd_call),
    "StableDiffusion, DDIM": Case(lambda: sd(d.DDIMScheduler(**SD_DDIM)), sd_call, sd_others()),
    "StableDiffusion, DDIM, v-prediction": Case(
        lambda: sd(d.DDIMScheduler(**SD_DDIM, prediction_type="v_prediction")), sd_call
    ),
    "StableDiffusion, DPMSolverMultistep": Case(lambda: sd(d.DPMSolverMultistepScheduler(**SD)), sd_call),
    "StableDiffusion, Euler": Case(lambda: sd(d.EulerDiscreteScheduler(**SD)), lambda: sd_call(guidance_rescale=0.7)),
    "StableDiffusionImg2Img": Case(
        lambda: sd_as(d.StableDiffusionImg2ImgPipeline), lambda: sd_call(image=picture(SIZE), strength=0.9)
    ),
    "StableDiffusionInpaint": Case(
        lambda: sd_as(d.StableDiffusionInpaintPipeline, 9), lambda: sd_call(image=picture(SIZE), mask_image=mask())
    ),
    "StableDiffusionInpaint, a text-to-image model": Case(
        lambda: sd_as(d.StableDiffusionInpaintPipeline), lambda: sd_call(image=picture(SIZE), mask_image=mask())
    ),
    "StableDiffusionControlNet": Case(
        lambda: sd_as(d.StableDiffusionControlNetPipeline, controlnet=controlnet()),
        lambda: sd_call(image=picture(SIZE)),
        (lambda: sd_call(image=picture(SIZE), guess_mode=True), lambda: sd_call(image=picture(2 * SIZE))),
    ),
    "StableDiffusionControlNetImg2Img": Case(
        lambda: sd_as(d.StableDiffusionControlNetImg2ImgPipeline, controlnet=controlnet()),
        lambda: sd_call(image=picture(SIZE), control_image=picture(SIZE), strength=0.9),
    ),
    "StableDiffusionControlNetInpaint": Case(
        lambda: sd_as(d.StableDiffusionControlNetInpaintPipeline, controlnet=controlnet()),
        lambda: sd_call(image=picture(SIZE), mask_image=mask(), control_image=picture(SIZE)),
    ),
    "StableDiffusionPAG": Case(
        lambda: sd_as(d.StableDiffusionPAGPipeline), sd_call, (lambda: sd_call(pag_scale=0.0), *sd_others())
    ),
    "StableDiffusionInstructPix2Pix": Case(
        lambda: sd_as(d.StableDiffusionInstructPix2PixPipeline, 8),
        lambda: sd_call(image=picture(SIZE)),
        (lambda: sd_call(image=picture(SIZE), num_images_per_prompt=2), lambda: sd_call(image=picture(2 * SIZE))),
    ),
    "StableDiffusionAdapter": Case(
        lambda: sd_as(d.StableDiffusionAdapterPipeline, adapter=adapter("full_adapter", 2)),
        lambda: sd_call(image=picture(SIZE)),
    ),
    "StableDiffusionDepth2Img": Case(
        sd_depth, lambda: sd_call(image=picture(SIZE), depth_map=random(1, SIZE, SIZE), strength=0.9)
    ),
    "StableDiffusionImageVariation": Case(
        sd_variation, lambda: {"image": picture(SIZE), "height": SIZE, "width": SIZE, "guidance_scale": 7.5}
    ),
    "StableDiffusionUpscale": Case(sd_upscale, lambda: sd_call(image=picture(SIZE // 2))),
    "StableDiffusionLatentUpscale": Case(sd_latent_upscale, sd_latent_upscale_call),
    "LatentConsistencyModel": Case(
        lambda: lcm(d.LatentConsistencyModelPipeline), lcm_call, (lambda: lcm_call(num_images_per_prompt=2),)
    ),
    "LatentConsistencyModelImg2Img": Case(
        lambda: lcm(d.LatentConsistencyModelImg2ImgPipeline), lambda: lcm_call(image=picture(SIZE), strength=0.9)
    ),
}


# Stable Diffusion XL.

XL: dict[str, Any] = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 4,
    "projection_class_embeddings_input_dim": 32,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
}


def xl(scheduler: Any = None, in_channels: int = 4) -> Any:
    parts = {
        "vae": autoencoder(),
        "unet": unet(in_channels, **XL),
        "scheduler": scheduler or d.EulerDiscreteScheduler(**SD),
    }
    return d.StableDiffusionXLPipeline(
        **parts, text_encoder=None, text_encoder_2=None, tokenizer=None, tokenizer_2=None, add_watermarker=False
    )


def xl_as(kind: Any, in_channels: int = 4, **more: Any) -> Any:
    """Stable Diffusion XL's components in another of its pipelines."""
    return kind.from_pipe(xl(in_channels=in_channels), **more)


def xl_call(**more: Any) -> dict[str, Any]:
    pooled = {"pooled_prompt_embeds": random(1, 8, seed=3), "negative_pooled_prompt_embeds": random(1, 8, seed=4)}
    return {**text(), **pooled, "guidance_scale": 5.0, **more}


def xl_from_image(**more: Any) -> dict[str, Any]:
    return xl_call(image=picture(SIZE), **more)


def xl_others(**more: Any) -> tuple[Call, ...]:
    return (
        lambda: xl_call(**more, num_images_per_prompt=2),
        lambda: xl_call(**more, height=2 * SIZE, width=SIZE),
        lambda: xl_call(**more, guidance_scale=1.0),
    )


def xl_union() -> Any:
    options: dict[str, Any] = {
        "in_channels": 4,
        "block_out_channels": (4, 8),
        "layers_per_block": 1,
        "cross_attention_dim": 8,
        "attention_head_dim": 2,
        "transformer_layers_per_block": 1,
        "conditioning_embedding_out_channels": (4, 4),
        "num_control_type": 2,
        "num_trans_channel": 4,
        "num_trans_head": 2,
        "num_proj_channel": 4,
    }
    return lively(d.ControlNetUnionModel(**{**options, **GROUPS, **XL}))


STABLE_DIFFUSION_XL: dict[str, Case] = {
    "StableDiffusionXL": Case(xl, xl_call, xl_others()),
    "StableDiffusionXL, DPMSolverMultistep": Case(
        lambda: xl(d.DPMSolverMultistepScheduler(**SD, use_karras_sigmas=True)), xl_call
    ),
    "StableDiffusionXL, denoising_end": Case(xl, lambda: xl_call(denoising_end=0.8)),
    "StableDiffusionXLImg2Img": Case(
        lambda: xl_as(d.StableDiffusionXLImg2ImgPipeline), lambda: xl_from_image(strength=0.9)
    ),
    "StableDiffusionXLImg2Img, denoising_start": Case(
        lambda: xl_as(d.StableDiffusionXLImg2ImgPipeline),
        lambda: xl_call(image=random(1, 4, SIZE // 2, SIZE // 2), denoising_start=0.2),
    ),
    "StableDiffusionXLInpaint": Case(
        lambda: xl_as(d.StableDiffusionXLInpaintPipeline, 9), lambda: xl_from_image(mask_image=mask())
    ),
    "StableDiffusionXLControlNet": Case(
        lambda: xl_as(d.StableDiffusionXLControlNetPipeline, controlnet=controlnet(**XL)),
        xl_from_image,
        (lambda: xl_from_image(num_images_per_prompt=2), lambda: xl_from_image(control_guidance_end=0.5)),
    ),
    "StableDiffusionXLControlNetImg2Img": Case(
        lambda: xl_as(d.StableDiffusionXLControlNetImg2ImgPipeline, controlnet=controlnet(**XL)),
        lambda: xl_from_image(control_image=picture(SIZE), strength=0.9),
    ),
    "StableDiffusionXLControlNetInpaint": Case(
        lambda: xl_as(d.StableDiffusionXLControlNetInpaintPipeline, controlnet=controlnet(**XL)),
        lambda: xl_from_image(mask_image=mask(), control_image=picture(SIZE)),
    ),
    "StableDiffusionXLControlNetUnion": Case(
        lambda: xl_as(d.StableDiffusionXLControlNetUnionPipeline, controlnet=xl_union()),
        lambda: xl_call(control_image=[picture(SIZE)], control_mode=[0]),
    ),
    "StableDiffusionXLPAG": Case(lambda: xl_as(d.StableDiffusionXLPAGPipeline), xl_call, xl_others()),
    "StableDiffusionXLPAG, adaptive scale": Case(
        lambda: xl_as(d.StableDiffusionXLPAGPipeline), lambda: xl_call(pag_adaptive_scale=6.0)
    ),
    "StableDiffusionXLPAGImg2Img": Case(
        lambda: xl_as(d.StableDiffusionXLPAGImg2ImgPipeline), lambda: xl_from_image(strength=0.9)
    ),
    "StableDiffusionXLPAGInpaint": Case(
        lambda: xl_as(d.StableDiffusionXLPAGInpaintPipeline), lambda: xl_from_image(mask_image=mask())
    ),
    "StableDiffusionXLControlNetPAG": Case(
        lambda: xl_as(d.StableDiffusionXLControlNetPAGPipeline, controlnet=controlnet(**XL)), xl_from_image
    ),
    "StableDiffusionXLInstructPix2Pix": Case(
        lambda: xl_as(d.StableDiffusionXLInstructPix2PixPipeline, 8),
        lambda: xl_from_image(height=SIZE, width=SIZE),
    ),
    "StableDiffusionXLAdapter": Case(
        lambda: xl_as(d.StableDiffusionXLAdapterPipeline, adapter=adapter("full_adapter_xl", 4)),
        lambda: xl_from_image(height=SIZE, width=SIZE),
    ),
}


# AnimateDiff.

ANIMATE = {"beta_schedule": "linear", "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False, "steps_offset": 1}


def motion() -> Any:
    layers = {"block_out_channels": (4, 8), "motion_layers_per_block": 1, "motion_mid_block_layers_per_block": 1}
    return lively(d.MotionAdapter(**layers, motion_norm_num_groups=2, motion_num_attention_heads=2))


def animate(kind: Any, **more: Any) -> Any:
    parts = {"vae": autoencoder(), "text_encoder": None, "tokenizer": None, "unet": unet()}
    pipe = kind(**parts, motion_adapter=motion(), scheduler=d.DDIMScheduler(**ANIMATE), **more)
    lively(pipe.unet)
    return pipe


def animate_xl() -> Any:
    parts = {"vae": autoencoder(), "unet": unet(**XL, use_linear_projection=True), "motion_adapter": motion()}
    texts = {"text_encoder": None, "tokenizer": None, "text_encoder_2": None, "tokenizer_2": None}
    pipe = d.AnimateDiffSDXLPipeline(**parts, **texts, scheduler=d.DDIMScheduler(**ANIMATE))
    lively(pipe.unet)
    return pipe


def sparse_controlnet() -> Any:
    return lively(
        d.SparseControlNetModel(
            block_out_channels=(4, 8),
            layers_per_block=1,
            in_channels=4,
            conditioning_channels=3,
            down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
            cross_attention_dim=8,
            attention_head_dim=2,
            motion_num_attention_heads=2,
            conditioning_embedding_out_channels=(4, 4),
            norm_num_groups=2,
            use_simplified_condition_embedding=False,
        )
    )


def frames() -> list[Any]:
    return [photograph(SIZE)] * FRAMES


def animate_call(**more: Any) -> dict[str, Any]:
    return {**text(), "guidance_scale": 7.5, **more}


def animate_new(**more: Any) -> dict[str, Any]:
    return animate_call(num_frames=FRAMES, height=SIZE, width=SIZE, **more)


ANIMATEDIFF: dict[str, Case] = {
    "AnimateDiff": Case(
        lambda: animate(d.AnimateDiffPipeline),
        animate_new,
        (lambda: animate_call(num_frames=2), lambda: animate_new(guidance_scale=1.0)),
    ),
    "AnimateDiffVideoToVideo": Case(
        lambda: animate(d.AnimateDiffVideoToVideoPipeline), lambda: animate_call(video=frames(), strength=0.9)
    ),
    "AnimateDiffControlNet": Case(
        lambda: animate(d.AnimateDiffControlNetPipeline, controlnet=controlnet()),
        lambda: animate_new(conditioning_frames=frames()),
    ),
    "AnimateDiffSparseControlNet": Case(
        lambda: animate(d.AnimateDiffSparseControlNetPipeline, controlnet=sparse_controlnet()),
        lambda: animate_new(conditioning_frames=frames()[:1], controlnet_frame_indices=[0]),
    ),
    "AnimateDiffPAG": Case(lambda: animate(d.AnimateDiffPAGPipeline, pag_applied_layers="mid"), animate_new),
    "AnimateDiffSDXL": Case(animate_xl, lambda: xl_call(num_frames=FRAMES, height=SIZE, width=SIZE)),
}


# Other video.

MODELSCOPE = {**SD_BETAS, "steps_offset": 1, "clip_sample": False, "set_alpha_to_one": False}
SVD = {
    **SD,
    "interpolation_type": "linear",
    "prediction_type": "v_prediction",
    "sigma_max": 700.0,
    "sigma_min": 0.002,
    "timestep_type": "continuous",
    "use_karras_sigmas": True,
}


def svd() -> Any:
    denoiser = d.UNetSpatioTemporalConditionModel(
        sample_size=SIZE // 2,
        in_channels=8,
        block_out_channels=(32, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        cross_attention_dim=8,
        num_attention_heads=2,
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=12,
    )
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "block_out_channels": (32, 32)}
    return d.StableVideoDiffusionPipeline(
        vae=lively(d.AutoencoderKLTemporalDecoder(latent_channels=4, **blocks)),
        image_encoder=image_encoder(),
        unet=lively(denoiser),
        scheduler=d.EulerDiscreteScheduler(**SVD),
        feature_extractor=CLIPImageProcessor(size=SIZE, crop_size=SIZE),
    )


def svd_call(**more: Any) -> dict[str, Any]:
    return {"image": picture(SIZE), "height": SIZE, "width": SIZE, "num_frames": FRAMES, "fps": 7, **more}


def modelscope(kind: Any) -> Any:
    denoiser = d.UNet3DConditionModel(
        sample_size=SIZE // 2,
        block_out_channels=(4, 8),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        cross_attention_dim=8,
        attention_head_dim=4,
        norm_num_groups=2,
    )
    parts = {"vae": autoencoder(), "text_encoder": None, "tokenizer": None, "unet": lively(denoiser)}
    return kind(**parts, scheduler=d.DDIMScheduler(**MODELSCOPE))


def i2vgen() -> Any:
    denoiser = d.I2VGenXLUNet(
        sample_size=SIZE // 2,
        block_out_channels=(4, 8),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        cross_attention_dim=8,
        attention_head_dim=4,
        num_attention_heads=None,
        norm_num_groups=2,
    )
    return d.I2VGenXLPipeline(
        vae=certain(autoencoder()),
        text_encoder=None,
        tokenizer=None,
        image_encoder=image_encoder(),
        feature_extractor=CLIPImageProcessor(size=SIZE, crop_size=SIZE),
        unet=lively(denoiser),
        scheduler=d.DDIMScheduler(beta_schedule="squaredcos_cap_v2", clip_sample=False, rescale_betas_zero_snr=True),
    )


VIDEO: dict[str, Case] = {
    "StableVideoDiffusion": Case(
        svd, svd_call, (lambda: svd_call(num_frames=2), lambda: svd_call(max_guidance_scale=1.0))
    ),
    "TextToVideoSD": Case(
        lambda: modelscope(d.TextToVideoSDPipeline), animate_new, (lambda: animate_new(guidance_scale=1.0),)
    ),
    "VideoToVideoSD": Case(
        lambda: modelscope(d.VideoToVideoSDPipeline), lambda: animate_call(video=frames(), strength=0.9)
    ),
    "I2VGenXL": Case(i2vgen, lambda: animate_new(image=photograph(SIZE))),
}


# Text encoders, where embeddings are not taken.

WORDS = 6


def tokenizer() -> Any:
    """CLIP's, of letters."""
    letters = [letter + end for letter in "abcdefghijklmnopqrstuvwxyz" for end in ("", "</w>")]
    names = ["<|startoftext|>", "<|pad|>", "<|endoftext|>", *letters]
    return CLIPTokenizer(vocab={name: i for i, name in enumerate(names)}, merges=[], model_max_length=WORDS)


def text_model(kind: Any = CLIPTextModel) -> Any:
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    ends = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
    config = CLIPTextConfig(**sizes, **ends, projection_dim=8, vocab_size=64)
    return lively(kind(config))


def sd_with_words(kind: Any, **options: Any) -> Any:
    """A pipeline of Stable Diffusion that wants a prompt."""
    return kind(
        vae=autoencoder(),
        text_encoder=text_model(),
        tokenizer=tokenizer(),
        unet=unet(**options),
        scheduler=d.DDIMScheduler(**SD_DDIM),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


# Other guidance and control of Stable Diffusion.


def panorama() -> Any:
    """Its views have 64 latents a side, and it takes the autoencoder to make eight pixels of one."""
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    vae = autoencoder(block_out_channels=(4,) * 4, **blocks)
    plain = {"down_block_types": ("DownBlock2D",) * 4, "up_block_types": ("UpBlock2D",) * 4}
    return sd_as(d.StableDiffusionPanoramaPipeline, options={**plain, "block_out_channels": (4, 4, 4, 8)}, vae=vae)


def ledits() -> Any:
    """With a picture inverted already."""
    deep = {"block_out_channels": (4, 4, 8), "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D")}
    down = ("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D")
    pipe = sd_with_words(d.LEditsPPPipelineStableDiffusion, **deep, down_block_types=down)
    pipe.scheduler = d.DPMSolverMultistepScheduler(**SD, algorithm_type="sde-dpmsolver++", solver_order=2)
    pipe.set_progress_bar_config(disable=True)
    pipe.invert(photograph(2 * SIZE), num_inversion_steps=8, skip=0.0, generator=torch.Generator().manual_seed(3))
    return pipe


def ledits_call(**more: Any) -> dict[str, Any]:
    return {"editing_prompt": ["blue"], "edit_guidance_scale": 5.0, "edit_threshold": 0.7, **more}


def unclip_from_image() -> Any:
    projection: dict[str, Any] = {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 16}
    return d.StableUnCLIPImg2ImgPipeline(
        feature_extractor=CLIPImageProcessor(size=SIZE, crop_size=SIZE),
        image_encoder=image_encoder(),
        image_normalizer=StableUnCLIPImageNormalizer(embedding_dim=8),
        image_noising_scheduler=d.DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        tokenizer=None,
        text_encoder=None,
        unet=unet(**projection),
        scheduler=d.DDIMScheduler(**SD_DDIM, prediction_type="v_prediction"),
        vae=autoencoder(),
    )


def prior(**more: Any) -> Any:
    options: dict[str, Any] = {"num_attention_heads": 2, "attention_head_dim": 4, "embedding_dim": 8, "num_layers": 1}
    return lively(d.PriorTransformer(**{**options, "num_embeddings": WORDS, **more}))


def unclip() -> Any:
    image = unclip_from_image()
    kept = ("image_normalizer", "image_noising_scheduler", "unet", "scheduler", "vae")
    return d.StableUnCLIPPipeline(
        prior_tokenizer=tokenizer(),
        prior_text_encoder=text_model(CLIPTextModelWithProjection),
        prior=prior(),
        prior_scheduler=d.UnCLIPScheduler(variance_type="fixed_small_log", prediction_type="sample"),
        tokenizer=tokenizer(),
        text_encoder=text_model(),
        **{name: image.components[name] for name in kept},
    )


def paint_by_example() -> Any:
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 5, "num_attention_heads": 2}
    config = CLIPVisionConfig(**sizes, projection_dim=8, image_size=SIZE, patch_size=SIZE // 2)
    return d.PaintByExamplePipeline(
        vae=autoencoder(),
        image_encoder=lively(PaintByExampleImageEncoder(config)),
        unet=unet(9),
        scheduler=d.DDIMScheduler(**SD_DDIM),
        safety_checker=None,
        feature_extractor=CLIPImageProcessor(size=SIZE, crop_size=SIZE),
    )


def controlnet_xs(base: nn.Module) -> Any:
    embedding = {"conditioning_embedding_out_channels": (4, 4)}
    return lively(
        d.ControlNetXSAdapter.from_unet(base, block_out_channels=[4, 8], num_attention_heads=[2, 2], **embedding)
    )


def sd_controlnet_xs() -> Any:
    base = sd(d.DDIMScheduler(**SD_DDIM), unet(layers_per_block=2))
    parts = {name: part for name, part in base.components.items() if name != "image_encoder"}
    control = controlnet_xs(base.unet)
    pipe = d.StableDiffusionControlNetXSPipeline(**parts, controlnet=control, requires_safety_checker=False)
    lively(pipe.unet)
    return pipe


def gligen_call() -> dict[str, Any]:
    return sd_call(gligen_phrases=["star"], gligen_boxes=[[0.1, 0.1, 0.6, 0.6]], gligen_scheduled_sampling_beta=0.5)


def prompted(**more: Any) -> dict[str, Any]:
    return {"prompt": "star", "negative_prompt": "red", "guidance_scale": 7.5, **more}


GUIDED: dict[str, Case] = {
    "StableDiffusionPanorama": Case(panorama, lambda: sd_call(height=512, width=576, view_batch_size=2)),
    "StableDiffusionGLIGEN": Case(
        lambda: sd_with_words(d.StableDiffusionGLIGENPipeline, attention_type="gated"), gligen_call
    ),
    "StableDiffusionControlNetXS": Case(sd_controlnet_xs, lambda: sd_call(image=picture(SIZE))),
    "SemanticStableDiffusion": Case(
        lambda: sd_with_words(d.SemanticStableDiffusionPipeline),
        lambda: prompted(editing_prompt=["blue"], edit_warmup_steps=2),
    ),
    "LEditsPPStableDiffusion, without masks of attention": Case(ledits, lambda: ledits_call(use_intersect_mask=False)),
    "StableUnCLIPImg2Img": Case(unclip_from_image, lambda: sd_call(image=picture(SIZE), noise_level=2)),
    "StableUnCLIP": Case(unclip, lambda: prompted(prior_num_inference_steps=2)),
    "PaintByExample": Case(
        paint_by_example,
        lambda: {
            "example_image": picture(SIZE),
            "image": picture(SIZE) * 2 - 1,
            "mask_image": mask(),
            "guidance_scale": 5.0,
        },
    ),
}


# Kandinsky.

KANDINSKY = {"beta_schedule": "linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
KANDINSKY_DDIM = {**KANDINSKY, "clip_sample": False, "set_alpha_to_one": False}
KANDINSKY_DDPM = {
    **KANDINSKY,
    "variance_type": "learned_range",
    "clip_sample_range": 2.0,
    "thresholding": True,
    "sample_max_value": 2.0,
}
SIMPLE: dict[str, Any] = {
    "out_channels": 8,
    "block_out_channels": (4, 8),
    "attention_head_dim": 4,
    "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
    "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "resnet_time_scale_shift": "scale_shift",
    "encoder_hid_dim": 8,
}


def movq(norm: str = "spatial") -> Any:
    options: dict[str, Any] = {
        "block_out_channels": (32, 32),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "latent_channels": 4,
        "vq_embed_dim": 4,
        "num_vq_embeddings": 12,
        "norm_num_groups": 8,
    }
    return lively(d.VQModel(**options, norm_type=norm, mid_block_add_attention=False))


def kandinsky22(kind: Any, in_channels: int = 4, embedding: str = "image", *, scheduler: Any = None) -> Any:
    denoiser = unet(in_channels, **SIMPLE, addition_embed_type=embedding, encoder_hid_dim_type="image_proj")
    return kind(unet=denoiser, scheduler=scheduler or d.DDIMScheduler(**KANDINSKY_DDIM), movq=movq())


def embedded(**more: Any) -> dict[str, Any]:
    pair = {"image_embeds": random(1, 8, seed=1), "negative_image_embeds": random(1, 8, seed=2)}
    return {**pair, "height": SIZE, "width": SIZE, "guidance_scale": 4.0, **more}


def kandinsky21(kind: Any) -> Any:
    denoiser = unet(**SIMPLE, addition_embed_type="text_image", encoder_hid_dim_type="text_image_proj")
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    words = MultilingualCLIP(MCLIPConfig(numDims=8, transformerDimensions=8, vocab_size=64, **sizes))
    scheduler = d.DDIMScheduler(**KANDINSKY_DDIM)
    return kind(text_encoder=lively(words), tokenizer=tokenizer(), unet=denoiser, scheduler=scheduler, movq=movq())


def kandinsky22_prior() -> Any:
    return d.KandinskyV22PriorPipeline(
        prior=prior(),
        image_encoder=image_encoder(),
        text_encoder=text_model(CLIPTextModelWithProjection),
        tokenizer=tokenizer(),
        scheduler=d.UnCLIPScheduler(
            variance_type="fixed_small_log", prediction_type="sample", clip_sample=True, clip_sample_range=5.0
        ),
        image_processor=CLIPImageProcessor(size=SIZE, crop_size=SIZE),
    )


def kandinsky3(kind: Any) -> Any:
    denoiser = d.Kandinsky3UNet(
        in_channels=4,
        time_embedding_dim=4,
        groups=2,
        attention_head_dim=4,
        layers_per_block=2,
        block_out_channels=(8, 16),
        cross_attention_dim=8,
        encoder_hid_dim=8,
    )
    scheduler = d.DDPMScheduler(beta_schedule="squaredcos_cap_v2", clip_sample=False)
    return kind(tokenizer=None, text_encoder=None, unet=lively(denoiser), scheduler=scheduler, movq=movq())


def kandinsky3_call(**more: Any) -> dict[str, Any]:
    masks = {"attention_mask": torch.ones(1, 4), "negative_attention_mask": torch.ones(1, 4)}
    return {**text(), **masks, "guidance_scale": 3.0, **more}


KANDINSKY_CASES: dict[str, Case] = {
    "KandinskyV22": Case(
        lambda: kandinsky22(d.KandinskyV22Pipeline),
        embedded,
        (lambda: embedded(num_images_per_prompt=2), lambda: embedded(guidance_scale=1.0), lambda: embedded(height=32)),
    ),
    "KandinskyV22, DDPM": Case(
        lambda: kandinsky22(d.KandinskyV22Pipeline, scheduler=d.DDPMScheduler(**KANDINSKY_DDPM)), embedded
    ),
    "KandinskyV22Img2Img": Case(
        lambda: kandinsky22(d.KandinskyV22Img2ImgPipeline), lambda: embedded(image=picture(SIZE), strength=0.9)
    ),
    "KandinskyV22Inpaint": Case(
        lambda: kandinsky22(d.KandinskyV22InpaintPipeline, 9),
        lambda: embedded(image=photograph(SIZE), mask_image=mask()[0, 0].numpy()),
    ),
    "KandinskyV22Prior": Case(
        kandinsky22_prior, lambda: {"prompt": "star", "negative_prompt": "red"}, output_type="pt"
    ),
    "Kandinsky3": Case(
        lambda: kandinsky3(d.Kandinsky3Pipeline),
        lambda: kandinsky3_call(height=SIZE, width=SIZE),
        (
            lambda: kandinsky3_call(height=SIZE, width=SIZE, guidance_scale=1.0),
            lambda: kandinsky3_call(height=32, width=SIZE),
        ),
    ),
    "Kandinsky3Img2Img": Case(
        lambda: kandinsky3(d.Kandinsky3Img2ImgPipeline), lambda: kandinsky3_call(image=photograph(SIZE), strength=0.9)
    ),
}


# DeepFloyd IF.

IF_DDPM = {
    "beta_schedule": "squaredcos_cap_v2",
    "variance_type": "learned_range",
    "thresholding": True,
    "dynamic_thresholding_ratio": 0.95,
    "sample_max_value": 1.5,
}


def floyd(kind: Any, in_channels: int = 3, scheduler: Any = None, **more: Any) -> Any:
    options = {"sample_size": SIZE, "addition_embed_type": "text", "addition_embed_type_num_heads": 2, "act_fn": "gelu"}
    classes = {"class_embed_type": "timestep"} if in_channels == 6 else {}
    return kind(
        tokenizer=None,
        text_encoder=None,
        unet=unet(in_channels, **{**SIMPLE, "out_channels": 6}, **options, **classes),
        scheduler=scheduler or d.DDPMScheduler(**IF_DDPM),
        safety_checker=None,
        feature_extractor=None,
        watermarker=None,
        requires_safety_checker=False,
        **more,
    )


def floyd_enlarging() -> Any:
    noising = d.DDPMScheduler(beta_schedule="squaredcos_cap_v2")
    return floyd(d.IFSuperResolutionPipeline, 6, image_noising_scheduler=noising)


FLOYD: dict[str, Case] = {
    "IF": Case(lambda: floyd(d.IFPipeline), sd_call, output_type="pt"),
    "IF, DPMSolverMultistep": Case(
        lambda: floyd(d.IFPipeline, scheduler=d.DPMSolverMultistepScheduler(beta_schedule="squaredcos_cap_v2")),
        sd_call,
        (lambda: sd_call(num_images_per_prompt=2), lambda: sd_call(guidance_scale=1.0), lambda: sd_call(height=32)),
        output_type="pt",
    ),
    "IFImg2Img": Case(
        lambda: floyd(d.IFImg2ImgPipeline), lambda: sd_call(image=picture(SIZE), strength=0.9), output_type="pt"
    ),
    "IFInpainting": Case(
        lambda: floyd(d.IFInpaintingPipeline),
        lambda: sd_call(image=picture(SIZE), mask_image=mask(), strength=1.0),
        output_type="pt",
    ),
    "IFSuperResolution": Case(
        floyd_enlarging, lambda: sd_call(image=picture(SIZE // 2), height=SIZE, width=SIZE), output_type="pt"
    ),
}


# Cascades.


def cascade_unet(**more: Any) -> Any:
    options: dict[str, Any] = {
        "timestep_ratio_embedding_dim": 4,
        "conditioning_dim": 8,
        "block_out_channels": (8, 8),
        "num_attention_heads": (2, 2),
        "down_num_layers_per_block": (1, 1),
        "up_num_layers_per_block": (1, 1),
        "clip_text_pooled_in_channels": 8,
        "dropout": (0.0, 0.0),
    }
    return lively(d.models.StableCascadeUNet(**{**options, **more}))


def cascade_prior() -> Any:
    denoiser = cascade_unet(
        in_channels=4, out_channels=4, clip_text_in_channels=8, clip_image_in_channels=8, switch_level=(False,)
    )
    parts = {"tokenizer": None, "text_encoder": text_model(), "prior": denoiser}
    return d.StableCascadePriorPipeline(**parts, scheduler=d.DDPMWuerstchenScheduler(), resolution_multiple=4.0)


def paella() -> Any:
    return lively(PaellaVQModel(bottleneck_blocks=1, num_vq_embeddings=4, embed_dim=8, levels=1))


def cascade_decoder() -> Any:
    denoiser = cascade_unet(in_channels=4, out_channels=4, effnet_in_channels=4)
    parts = {"tokenizer": None, "text_encoder": None, "decoder": denoiser, "vqgan": paella()}
    return d.StableCascadeDecoderPipeline(**parts, scheduler=d.DDPMWuerstchenScheduler(), latent_dim_scale=2.0)


def cascade_call(**more: Any) -> dict[str, Any]:
    pooled = {"prompt_embeds_pooled": random(1, 1, 8, seed=3), "negative_prompt_embeds_pooled": random(1, 1, 8, seed=4)}
    return {**text(), **pooled, "guidance_scale": 4.0, **more}


def wuerstchen_prior() -> Any:
    denoiser = WuerstchenPrior(c_in=2, c=8, c_cond=8, c_r=4, depth=1, nhead=2, dropout=0.0)
    parts = {"tokenizer": None, "text_encoder": text_model(), "prior": lively(denoiser)}
    return d.WuerstchenPriorPipeline(**parts, scheduler=d.DDPMWuerstchenScheduler(), resolution_multiple=4.0)


def wuerstchen_decoder() -> Any:
    denoiser = WuerstchenDiffNeXt(
        c_r=4,
        c_cond=8,
        c_hidden=[8, 8],
        nhead=[-1, 2],
        blocks=[1, 1],
        level_config=["CT", "CTA"],
        inject_effnet=[False, True],
        effnet_embd=4,
        clip_embd=8,
        dropout=0.0,
    )
    parts = {"tokenizer": tokenizer(), "text_encoder": text_model(), "decoder": lively(denoiser), "vqgan": paella()}
    return d.WuerstchenDecoderPipeline(**parts, scheduler=d.DDPMWuerstchenScheduler(), latent_dim_scale=2.0)


CASCADES: dict[str, Case] = {
    "StableCascadePrior": Case(cascade_prior, lambda: cascade_call(height=SIZE, width=SIZE), output_type="pt"),
    "StableCascadeDecoder": Case(cascade_decoder, lambda: cascade_call(image_embeddings=random(1, 4, 4, 4))),
    "WuerstchenPrior": Case(
        wuerstchen_prior, lambda: {**text(), "height": SIZE, "width": SIZE, "guidance_scale": 4.0}, output_type="pt"
    ),
    "WuerstchenDecoder": Case(wuerstchen_decoder, lambda: prompted(image_embeddings=random(1, 4, 4, 4))),
}


# Marigold.


def marigold(kind: Any, modalities: int = 1, **more: Any) -> Any:
    spacing = {"prediction_type": "v_prediction", "timestep_spacing": "trailing", "rescale_betas_zero_snr": True}
    pipe = kind(
        unet=unet(4 + 4 * modalities, out_channels=4 * modalities),
        vae=autoencoder(),
        scheduler=d.DDIMScheduler(**SD_BETAS, **spacing, clip_sample=False),
        text_encoder=None,
        tokenizer=None,
        default_denoising_steps=4,
        default_processing_resolution=0,
        **more,
    )
    pipe.empty_text_embedding = random(1, 2, 8)
    return pipe


def marigold_call() -> dict[str, Any]:
    return {"image": picture(SIZE)}


# Older pipelines.


def pixels(in_channels: int = 3, **more: Any) -> Any:
    """A U-Net without text."""
    options: dict[str, Any] = {
        "sample_size": SIZE // 2,
        "in_channels": in_channels,
        "out_channels": 3,
        "block_out_channels": (4, 8),
        "layers_per_block": 1,
        "attention_head_dim": 4,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    }
    return lively(d.UNet2DModel(**{**options, **GROUPS, **more}))


def unconditional(kind: Any, scheduler: Any, **options: Any) -> Any:
    return kind(unet=pixels(**options), scheduler=scheduler)


def ldm() -> Any:
    parts = {"vqvae": autoencoder(), "bert": text_model(), "tokenizer": tokenizer(), "unet": unet()}
    return d.LDMTextToImagePipeline(**parts, scheduler=d.DDIMScheduler(**SD_BETAS, clip_sample=False))


def ldm_enlarging() -> Any:
    options: dict[str, Any] = {"block_out_channels": (4, 4), "latent_channels": 3, "num_vq_embeddings": 12}
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    vqvae = lively(d.VQModel(**options, **blocks, **GROUPS, vq_embed_dim=3, mid_block_add_attention=False))
    scheduler = d.DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.0015, beta_end=0.0195, clip_sample=False)
    return d.LDMSuperResolutionPipeline(vqvae=vqvae, unet=pixels(6), scheduler=scheduler)


def shap_e() -> Any:
    denoiser = prior(
        embedding_proj_dim=8,
        time_embed_dim=8,
        num_embeddings=4,
        clip_embed_dim=16,
        additional_embeddings=0,
        time_embed_act_fn="gelu",
        norm_in_type="layer",
        encoder_hid_proj_type=None,
        added_emb_type=None,
    )
    scheduler = d.HeunDiscreteScheduler(
        beta_schedule="exp", prediction_type="sample", use_karras_sigmas=True, clip_sample=True, clip_sample_range=1.0
    )
    words = text_model(CLIPTextModelWithProjection)
    parts = {"prior": denoiser, "text_encoder": words, "tokenizer": tokenizer(), "shap_e_renderer": None}
    return d.ShapEPipeline(**parts, scheduler=scheduler)


def amused() -> Any:
    denoiser = d.UVit2DModel(
        hidden_size=8,
        cond_embed_dim=8,
        micro_cond_encode_dim=2,
        micro_cond_embed_dim=10,
        encoder_hidden_size=8,
        vocab_size=32,
        codebook_size=24,
        in_channels=8,
        block_out_channels=8,
        num_res_blocks=1,
        block_num_heads=2,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        sample_size=SIZE // 2,
    )
    parts = {"vqvae": movq("group"), "tokenizer": None, "text_encoder": None, "transformer": lively(denoiser)}
    return d.AmusedPipeline(**parts, scheduler=d.AmusedScheduler(mask_token_id=31))


def amused_call() -> dict[str, Any]:
    pooled = {"prompt_embeds": random(1, 8, seed=1), "negative_prompt_embeds": random(1, 8, seed=2)}
    states = {
        "encoder_hidden_states": random(1, 4, 8, seed=3),
        "negative_encoder_hidden_states": random(1, 4, 8, seed=4),
    }
    return {**pooled, **states, "guidance_scale": 4.0}


def vq_diffusion() -> Any:
    denoiser = d.Transformer2DModel(
        num_attention_heads=2,
        attention_head_dim=4,
        cross_attention_dim=8,
        sample_size=SIZE // 2,
        num_vector_embeds=13,
        num_embeds_ada_norm=100,
        norm_type="ada_norm",
        activation_fn="geglu-approximate",
    )
    return d.VQDiffusionPipeline(
        vqvae=movq("group"),
        text_encoder=text_model(),
        tokenizer=tokenizer(),
        transformer=lively(denoiser),
        scheduler=d.VQDiffusionScheduler(num_vec_classes=13),
        learned_classifier_free_sampling_embeddings=LearnedClassifierFreeSamplingEmbeddings(learnable=False),
    )


def audio() -> Any:
    concatenated: dict[str, Any] = {
        "class_embed_type": "simple_projection",
        "projection_class_embeddings_input_dim": 8,
        "class_embeddings_concat": True,
        "cross_attention_dim": (4, 8),
        "down_block_types": DOWN,
    }
    sizes = {"model_in_dim": 8, "sampling_rate": 16000, "upsample_initial_channel": 8}
    rates = {"upsample_rates": [2, 2], "upsample_kernel_sizes": [4, 4]}
    kernels = {"resblock_kernel_sizes": [3], "resblock_dilation_sizes": [[1, 3, 5]], "normalize_before": False}
    return d.AudioLDMPipeline(
        vae=autoencoder(in_channels=1, out_channels=1),
        text_encoder=text_model(),
        tokenizer=None,
        unet=unet(**concatenated),
        scheduler=d.DDIMScheduler(**SD_DDIM),
        vocoder=lively(SpeechT5HifiGan(SpeechT5HifiGanConfig(**sizes, **rates, **kernels))),
    )


def audio_call() -> dict[str, Any]:
    pair = {"prompt_embeds": random(1, 8, seed=1), "negative_prompt_embeds": random(1, 8, seed=2)}
    return {**pair, "guidance_scale": 2.5, "audio_length_in_s": 0.01}


OLDER: dict[str, Case] = {
    "DDPM": Case(
        lambda: unconditional(d.DDPMPipeline, d.DDPMScheduler()),
        lambda: {},
        (lambda: {"batch_size": 2},),
        output_type="np",
    ),
    "DDIM": Case(
        lambda: unconditional(d.DDIMPipeline, d.DDIMScheduler()),
        lambda: {},
        (lambda: {"batch_size": 2},),
        output_type="np",
    ),
    "DDIM, without clipping": Case(
        lambda: unconditional(d.DDIMPipeline, d.DDIMScheduler(clip_sample=False)), lambda: {}, output_type="np"
    ),
    "PNDM": Case(lambda: unconditional(d.PNDMPipeline, d.PNDMScheduler()), lambda: {}, output_type="np"),
    "ScoreSdeVe": Case(
        lambda: unconditional(d.ScoreSdeVePipeline, d.ScoreSdeVeScheduler()), lambda: {}, output_type="np"
    ),
    "KarrasVe": Case(lambda: unconditional(d.KarrasVePipeline, d.KarrasVeScheduler()), lambda: {}, output_type="np"),
    "ConsistencyModel": Case(
        lambda: unconditional(d.ConsistencyModelPipeline, d.CMStochasticIterativeScheduler(), num_class_embeds=10),
        lambda: {"class_labels": 3},
        output_type="pt",
    ),
    "LDMTextToImage": Case(
        ldm, lambda: {"prompt": "star", "guidance_scale": 6.0, "height": 64, "width": 64}, output_type="np"
    ),
    "LDMSuperResolution": Case(ldm_enlarging, lambda: {"image": picture(SIZE // 2)}, output_type="np"),
    "AudioLDM": Case(audio, audio_call, output_type="np"),
    "ShapE": Case(shap_e, lambda: {"prompt": "star", "guidance_scale": 4.0}),
}


SPECIAL: dict[str, Case] = {
    "StableDiffusionImg2Img, at the first step": Case(
        lambda: sd_as(d.StableDiffusionImg2ImgPipeline), lambda: sd_call(image=picture(SIZE), strength=0.8)
    ),
    "StableDiffusionSAG": Case(lambda: sd_as(d.StableDiffusionSAGPipeline), sd_call, (lambda: sd_call(sag_scale=0.0),)),
    "StableDiffusionAttendAndExcite": Case(
        lambda: sd_with_words(d.StableDiffusionAttendAndExcitePipeline),
        lambda: prompted(token_indices=[1, 2], attn_res=(4, 4), thresholds={}),
    ),
    "LEditsPPStableDiffusion": Case(ledits, ledits_call),
    "StableDiffusionPanorama, several views": Case(panorama, lambda: sd_call(height=512, width=576)),
    "StableDiffusionLDM3D": Case(
        lambda: sd_as(d.StableDiffusionLDM3DPipeline, vae=autoencoder(in_channels=6, out_channels=6)),
        sd_call,
        output_type="np",
    ),
    "KandinskyV22Controlnet": Case(
        lambda: kandinsky22(d.KandinskyV22ControlnetPipeline, 8, "image_hint"),
        lambda: embedded(hint=picture(64)),
        output_type="np",
    ),
    "Kandinsky": Case(lambda: kandinsky21(d.KandinskyPipeline), lambda: embedded(prompt="star"), output_type="np"),
    "MarigoldDepth": Case(
        lambda: marigold(d.MarigoldDepthPipeline, prediction_type="depth"),
        marigold_call,
        (lambda: {"image": picture(2 * SIZE)}, lambda: {"image": picture(SIZE).repeat(2, 1, 1, 1)}),
        output_type="pt",
    ),
    "MarigoldNormals": Case(
        lambda: marigold(d.MarigoldNormalsPipeline, prediction_type="normals"), marigold_call, output_type="pt"
    ),
    "MarigoldIntrinsics": Case(
        lambda: marigold(
            d.MarigoldIntrinsicsPipeline,
            2,
            prediction_type="intrinsics",
            target_properties={"target_names": ["albedo", "material"]},
        ),
        marigold_call,
        output_type="pt",
    ),
    "IF, DDPM without thresholding": Case(
        lambda: floyd(d.IFPipeline, scheduler=d.DDPMScheduler(**{**IF_DDPM, "thresholding": False}, clip_sample=False)),
        sd_call,
        (lambda: sd_call(num_images_per_prompt=2), lambda: sd_call(guidance_scale=1.0), lambda: sd_call(height=32)),
        output_type="pt",
    ),
    "Amused": Case(amused, amused_call),
    "VQDiffusion": Case(vq_diffusion, lambda: {"prompt": "star", "guidance_scale": 5.0}, output_type="np"),
}


CASES: dict[str, Case] = {
    **STABLE_DIFFUSION,
    **STABLE_DIFFUSION_XL,
    **ANIMATEDIFF,
    **VIDEO,
    **GUIDED,
    **KANDINSKY_CASES,
    **FLOYD,
    **CASCADES,
    **OLDER,
    **SPECIAL,
}
