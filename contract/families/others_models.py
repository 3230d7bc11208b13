"""Older pipelines of other models: unCLIP, Versatile Diffusion, UniDiffuser, BLIP, and those without text."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import diffusers as d
import torch
from diffusers.pipelines.deprecated.blip_diffusion.blip_image_processing import BlipImageProcessor
from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel
from diffusers.pipelines.deprecated.unidiffuser import UniDiffuserModel, UniDiffuserTextDecoder
from diffusers.pipelines.deprecated.versatile_diffusion.modeling_text_unet import UNetFlatConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModelWithProjection, CLIPVisionModel

from contract.case import STEPS, Case
from contract.families.images import sibling
from contract.families.others_older import LATENT, image_processor
from contract.families.unets import (
    GROUPS,
    SD,
    SD_DDIM,
    SIZE,
    WORDS,
    amused,
    amused_call,
    autoencoder,
    controlnet,
    image_encoder,
    mask,
    movq,
    pixels,
    prior,
    shap_e,
    text_model,
    tokenizer,
    unconditional,
    unet,
)
from contract.parts import lively, photograph, picture, random


def ldm_unconditional() -> Any:
    scheduler = d.DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.0015, beta_end=0.0195, clip_sample=False)
    return d.LDMPipeline(vqvae=movq("group"), unet=pixels(4, out_channels=4), scheduler=scheduler)


def dance() -> Any:
    denoiser = d.UNet1DModel(
        block_out_channels=(32, 32, 64),
        extra_in_channels=64,
        sample_size=64,
        sample_rate=64,
        in_channels=2,
        out_channels=2,
        flip_sin_to_cos=True,
        use_timestep_embedding=False,
        time_embedding_type="fourier",
        mid_block_type="UNetMidBlock1D",
        down_block_types=("DownBlock1DNoSkip", "DownBlock1D", "AttnDownBlock1D"),
        up_block_types=("AttnUpBlock1D", "UpBlock1D", "UpBlock1DNoSkip"),
    )
    return d.DanceDiffusionPipeline(unet=lively(denoiser), scheduler=d.IPNDMScheduler())


def repaint_call(**more: Any) -> dict[str, Any]:
    return {"image": picture(LATENT), "mask_image": mask(LATENT), "jump_length": 2, "jump_n_sample": 2, **more}


def shap_e_from_picture() -> Any:
    base = shap_e()
    encoder = lively(CLIPVisionModel(image_encoder().config))
    return sibling(d.ShapEImg2ImgPipeline, base, image_encoder=encoder, image_processor=image_processor())


def unclip_parts() -> dict[str, Any]:
    """A decoder of small pictures, and two models that make them larger."""
    decoder: dict[str, Any] = {
        "out_channels": 6,
        "sample_size": LATENT,
        "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
        "attention_head_dim": 4,
        "resnet_time_scale_shift": "scale_shift",
        "class_embed_type": "identity",
    }
    larger: dict[str, Any] = {
        "sample_size": SIZE,
        "down_block_types": ("ResnetDownsampleBlock2D",) * 2,
        "up_block_types": ("ResnetUpsampleBlock2D",) * 2,
    }
    options = {"clip_embeddings_dim": 8, "time_embed_dim": 16, "cross_attention_dim": 8}
    noise = {"variance_type": "learned_range", "prediction_type": "epsilon", "num_train_timesteps": 1000}
    return {
        "decoder": unet(3, **decoder),
        "text_proj": lively(UnCLIPTextProjModel(**options)),
        "text_encoder": text_model(CLIPTextModelWithProjection),
        "tokenizer": tokenizer(),
        "super_res_first": pixels(6, **larger),
        "super_res_last": lively(pixels(6, **larger), 1),
        "decoder_scheduler": d.UnCLIPScheduler(**noise),
        "super_res_scheduler": d.UnCLIPScheduler(**{**noise, "variance_type": "fixed_small_log"}),
    }


def unclip() -> Any:
    scheduler = d.UnCLIPScheduler(variance_type="fixed_small_log", prediction_type="sample")
    return d.UnCLIPPipeline(**unclip_parts(), prior=prior(), prior_scheduler=scheduler)


def unclip_variation() -> Any:
    more = {"feature_extractor": image_processor(), "image_encoder": image_encoder()}
    return d.UnCLIPImageVariationPipeline(**unclip_parts(), **more)


def unclip_call(**more: Any) -> dict[str, Any]:
    return {"decoder_num_inference_steps": STEPS, "super_res_num_inference_steps": STEPS, **more}


def versatile(kind: Any) -> Any:
    flat = UNetFlatConditionModel(
        sample_size=LATENT,
        in_channels=4,
        out_channels=4,
        block_out_channels=(4, 8),
        layers_per_block=1,
        cross_attention_dim=8,
        attention_head_dim=2,
        down_block_types=("CrossAttnDownBlockFlat", "DownBlockFlat"),
        up_block_types=("UpBlockFlat", "CrossAttnUpBlockFlat"),
        **GROUPS,
    )
    up = ("UpBlock2D", "CrossAttnUpBlock2D")
    parts = {
        "tokenizer": tokenizer(),
        "text_encoder": text_model(CLIPTextModelWithProjection),
        "image_encoder": image_encoder(),
        "image_feature_extractor": image_processor(),
        "image_unet": unet(up_block_types=up),
        "text_unet": lively(flat, 1),
        "vae": autoencoder(),
        "scheduler": d.DDIMScheduler(**SD_DDIM),
    }
    taken = kind.__init__.__code__.co_varnames
    return kind(**{name: part for name, part in parts.items() if name in taken})


def versatile_call(**more: Any) -> dict[str, Any]:
    return {"height": SIZE, "width": SIZE, "guidance_scale": 7.5, **more}


def unidiffuser() -> Any:
    denoiser = UniDiffuserModel(
        text_dim=8,
        clip_img_dim=8,
        num_text_tokens=4,
        num_attention_heads=2,
        attention_head_dim=4,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        sample_size=LATENT,
        patch_size=2,
        norm_num_groups=2,
    )
    sizes = {"n_embd": 8, "n_head": 2, "n_layer": 1, "vocab_size": 8, "n_positions": 8}
    return d.UniDiffuserPipeline(
        vae=autoencoder(),
        text_encoder=text_model(),
        image_encoder=image_encoder(),
        clip_image_processor=image_processor(),
        clip_tokenizer=tokenizer(),
        text_decoder=lively(UniDiffuserTextDecoder(prefix_length=4, prefix_inner_dim=8, **sizes)),
        text_tokenizer=None,
        unet=lively(denoiser),
        scheduler=d.DPMSolverMultistepScheduler(**SD),
    )


def unidiffuser_call(**more: Any) -> dict[str, Any]:
    return {"prompt_embeds": random(1, 4, 8, seed=1), "guidance_scale": 8.0, **more}


class Words(nn.Module):
    """In place of a text encoder that also takes what a picture is encoded to."""

    device, dtype = torch.device("cpu"), torch.float32
    text_model = SimpleNamespace(config=SimpleNamespace(max_position_embeddings=WORDS))

    def forward(self, **_: Any) -> tuple[Tensor]:
        return (random(1, 4, 8, seed=2),)


def blip(kind: Any, **more: Any) -> Any:
    """It takes no embeddings: what it encodes a picture and a prompt to is put in."""
    pipe = kind(
        tokenizer=tokenizer(),
        text_encoder=Words(),
        vae=autoencoder(),
        unet=unet(),
        scheduler=d.DDIMScheduler(**SD_DDIM),
        qformer=None,
        image_processor=BlipImageProcessor(size={"height": SIZE, "width": SIZE}),
        **more,
    )
    pipe.get_query_embeddings = lambda *_: random(1, 2, 8, seed=3)
    pipe.encode_prompt = lambda *_: random(1, 4, 8, seed=1)
    return pipe


def blip_call(**more: Any) -> dict[str, Any]:
    names = {"source_subject_category": "dog", "target_subject_category": "cat"}
    size = {"height": SIZE, "width": SIZE}
    return {"prompt": "star", "reference_image": photograph(SIZE), **names, **size, **more}


CASES: dict[str, Case] = {
    "LDM": Case(ldm_unconditional, lambda: {}, (lambda: {"batch_size": 2},), output_type="np"),
    "DanceDiffusion": Case(dance, lambda: {}, (lambda: {"batch_size": 2},), output_type=""),
    "RePaint": Case(lambda: unconditional(d.RePaintPipeline, d.RePaintScheduler()), repaint_call, output_type="np"),
    "AmusedImg2Img": Case(
        lambda: sibling(d.AmusedImg2ImgPipeline, amused()),
        lambda: {**amused_call(), "image": picture(SIZE), "strength": 0.9},
    ),
    "AmusedInpaint": Case(
        lambda: sibling(d.AmusedInpaintPipeline, amused()),
        lambda: {**amused_call(), "image": picture(SIZE), "mask_image": mask(SIZE)},
    ),
    "ShapEImg2Img": Case(shap_e_from_picture, lambda: {"image": photograph(SIZE), "guidance_scale": 4.0}),
    "UnCLIP": Case(unclip, lambda: unclip_call(prompt="star", prior_num_inference_steps=STEPS), output_type="np"),
    "UnCLIPImageVariation": Case(unclip_variation, lambda: unclip_call(image=photograph(SIZE)), output_type="np"),
    "VersatileDiffusionTextToImage": Case(
        lambda: versatile(d.VersatileDiffusionTextToImagePipeline),
        lambda: versatile_call(prompt="star"),
        (lambda: versatile_call(prompt="star", guidance_scale=1.0),),
    ),
    "VersatileDiffusionImageVariation": Case(
        lambda: versatile(d.VersatileDiffusionImageVariationPipeline), lambda: versatile_call(image=photograph(SIZE))
    ),
    "UniDiffuser": Case(unidiffuser, unidiffuser_call, (lambda: unidiffuser_call(guidance_scale=1.0),)),
    "BlipDiffusion": Case(lambda: blip(d.BlipDiffusionPipeline), blip_call, output_type="np"),
    "BlipDiffusionControlNet": Case(
        lambda: blip(d.BlipDiffusionControlNetPipeline, controlnet=controlnet()),
        lambda: blip_call(condtioning_image=photograph(SIZE)),
        output_type="np",
    ),
}
