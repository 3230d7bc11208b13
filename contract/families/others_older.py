"""Older pipelines of Stable Diffusion, and of video made with it without training."""

from __future__ import annotations

from typing import Any

import diffusers as d
import torch
from diffusers.pipelines.stable_diffusion.clip_image_project_model import CLIPImageProjection
from transformers import CLIPImageProcessor, CLIPTextModelWithProjection

from contract.case import STEPS, Case
from contract.families.images import sibling
from contract.families.unets import (
    FRAMES,
    SD,
    SD_DDIM,
    SIZE,
    XL,
    autoencoder,
    image_encoder,
    mask,
    prompted,
    sd_as,
    sd_call,
    sd_with_words,
    text_model,
    tokenizer,
    unet,
    xl_as,
    xl_call,
)
from contract.parts import lively, photograph, picture, random

LATENT = SIZE // 2


def image_processor() -> Any:
    return CLIPImageProcessor(size=SIZE, crop_size=SIZE)


def gligen_with_pictures() -> Any:
    base = sd_with_words(d.StableDiffusionGLIGENPipeline, attention_type="gated-text-image")
    more = {"processor": image_processor(), "image_encoder": image_encoder()}
    more["image_project"] = lively(CLIPImageProjection(hidden_size=8))
    return sibling(d.StableDiffusionGLIGENTextImagePipeline, base, **more, requires_safety_checker=False)


def gligen_call() -> dict[str, Any]:
    phrases = {"gligen_phrases": ["star"], "gligen_images": [photograph(SIZE)], "gligen_boxes": [[0.1, 0.1, 0.6, 0.6]]}
    return sd_call(**phrases, gligen_scheduled_sampling_beta=0.5)


def pix2pix_zero() -> Any:
    base = sd_with_words(d.StableDiffusionPipeline)
    unused = {"inverse_scheduler": None, "caption_generator": None, "caption_processor": None}
    return sibling(d.StableDiffusionPix2PixZeroPipeline, base, **unused, requires_safety_checker=False)


def diffedit() -> Any:
    return sd_as(d.StableDiffusionDiffEditPipeline, inverse_scheduler=d.DDIMInverseScheduler(**SD_DDIM))


def diffedit_call(**more: Any) -> dict[str, Any]:
    inverted = random(1, STEPS, 4, LATENT, LATENT, seed=7)
    return sd_call(mask_image=mask(LATENT)[0], image_latents=inverted, inpaint_strength=1.0, **more)


def ledits_xl() -> Any:
    """With a picture inverted already."""
    deep: dict[str, Any] = {
        "block_out_channels": (4, 4, 8),
        "down_block_types": ("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    }
    pipe = d.LEditsPPPipelineStableDiffusionXL(
        vae=autoencoder(),
        text_encoder=text_model(),
        text_encoder_2=text_model(CLIPTextModelWithProjection),
        tokenizer=tokenizer(),
        tokenizer_2=tokenizer(),
        unet=unet(**{**XL, **deep, "cross_attention_dim": 16}),
        scheduler=d.DPMSolverMultistepScheduler(**SD, algorithm_type="sde-dpmsolver++", solver_order=2),
        add_watermarker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    pipe.invert(photograph(2 * SIZE), num_inversion_steps=8, skip=0.0, generator=torch.Generator().manual_seed(3))
    return pipe


def ledits_call(**more: Any) -> dict[str, Any]:
    return {"editing_prompt": ["blue"], "edit_guidance_scale": 5.0, "edit_threshold": 0.7, **more}


def zero_call(**more: Any) -> dict[str, Any]:
    """The frames part at the next to last step but four."""
    return {"video_length": FRAMES, "t0": 5, "t1": 6, "guidance_scale": 7.5, **more}


CASES: dict[str, Case] = {
    "AltDiffusion": Case(lambda: sd_as(d.AltDiffusionPipeline), sd_call, (lambda: sd_call(guidance_scale=1.0),)),
    "AltDiffusionImg2Img": Case(
        lambda: sd_as(d.AltDiffusionImg2ImgPipeline), lambda: sd_call(image=picture(SIZE), strength=0.9)
    ),
    "StableDiffusionInpaintPipelineLegacy": Case(
        lambda: sd_as(d.StableDiffusionInpaintPipelineLegacy),
        lambda: sd_call(image=2 * picture(SIZE) - 1, mask_image=mask(), strength=0.9),
    ),
    "StableDiffusionModelEditing": Case(
        lambda: sd_with_words(d.StableDiffusionModelEditingPipeline), sd_call, (lambda: sd_call(guidance_scale=1.0),)
    ),
    "StableDiffusionPipelineSafe": Case(
        lambda: sd_with_words(d.StableDiffusionPipelineSafe), lambda: prompted(return_dict=False), output_type="np"
    ),
    "StableDiffusionParadigms": Case(
        lambda: sd_as(d.StableDiffusionParadigmsPipeline, scheduler=d.DDIMParallelScheduler(**SD_DDIM)),
        lambda: sd_call(parallel=3),
    ),
    "StableDiffusionPix2PixZero": Case(
        pix2pix_zero,
        lambda: sd_call(source_embeds=random(1, 4, 8, seed=5), target_embeds=random(1, 4, 8, seed=6)),
    ),
    "StableDiffusionDiffEdit": Case(diffedit, diffedit_call, (lambda: diffedit_call(guidance_scale=1.0),)),
    "CycleDiffusion": Case(
        lambda: sd_with_words(d.CycleDiffusionPipeline),
        lambda: {"prompt": "star", "source_prompt": "red", "image": picture(SIZE), "strength": 0.9},
    ),
    "StableDiffusionGLIGENTextImage": Case(gligen_with_pictures, gligen_call),
    "LEditsPPPipelineStableDiffusionXL": Case(ledits_xl, ledits_call),
    "TextToVideoZero": Case(
        lambda: sd_with_words(d.TextToVideoZeroPipeline), lambda: zero_call(prompt="star", negative_prompt="red")
    ),
    "TextToVideoZeroSDXL": Case(
        lambda: xl_as(d.TextToVideoZeroSDXLPipeline), lambda: xl_call(**zero_call(), prompt=None)
    ),
}
