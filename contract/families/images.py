"""Pipelines for images beside the paper's: from text, from images, inpainting, editing, with a ControlNet, with PAG."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import diffusers as d
import torch
from torch import Tensor, nn

from contract.case import Case
from contract.families.paper import (
    DYNAMIC,
    flux,
    flux2,
    flux2_autoencoder,
    flux2_call,
    flux_autoencoder,
    flux_call,
    flux_model,
    true_guidance,
    wan_autoencoder,
)
from contract.parts import lively, photograph, picture, random

SIZE = 16


def mask(size: int = SIZE) -> Tensor:
    """The left half of a picture."""
    half = torch.zeros(1, 1, size, size)
    half[..., : size // 2] = 1.0
    return half


def seeded(call: dict[str, Any]) -> dict[str, Any]:
    """The same call, of a pipeline that encodes images with noise of the global generator."""
    torch.manual_seed(0)
    return call


def autoencoder(latent_channels: int = 4, blocks: int = 2, **options: Any) -> Any:
    """It makes pictures smaller by a factor of two for each block but one."""
    return lively(
        d.AutoencoderKL(
            block_out_channels=(4,) * blocks,
            down_block_types=("DownEncoderBlock2D",) * blocks,
            up_block_types=("UpDecoderBlock2D",) * blocks,
            latent_channels=latent_channels,
            norm_num_groups=2,
            mid_block_add_attention=False,
            **options,
        )
    )


def sibling(kind: Any, pipe: Any, **more: Any) -> Any:
    """Another pipeline of the same components, as far as it takes them."""
    taken = inspect.signature(kind.__init__).parameters
    return kind(**{name: part for name, part in pipe.components.items() if name in taken}, **more)


SD3 = {
    "in_channels": 16,
    "out_channels": 16,
    "sample_size": 8,
    "patch_size": 2,
    "num_layers": 2,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "caption_projection_dim": 16,
    "joint_attention_dim": 8,
    "pooled_projection_dim": 8,
    "pos_embed_max_size": 16,
}


def sd3(kind: Any = d.StableDiffusion3Pipeline, **more: Any) -> Any:
    encoders = {f"{part}{number}": None for part in ("text_encoder", "tokenizer") for number in ("", "_2", "_3")}
    return kind(
        transformer=lively(d.SD3Transformer2DModel(**SD3)),
        scheduler=d.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=autoencoder(16, scaling_factor=1.5305, shift_factor=0.0609),
        **encoders,
        **more,
    )


def sd3_controlnet(kind: Any, **options: Any) -> Any:
    return sd3(kind, controlnet=lively(d.SD3ControlNetModel(**SD3, **options), 1))


def sd3_call(prompts: int = 1, **more: Any) -> dict[str, Any]:
    return {
        "prompt_embeds": random(prompts, 4, 8, seed=1),
        "pooled_prompt_embeds": random(prompts, 8, seed=2),
        "negative_prompt_embeds": random(prompts, 4, 8, seed=3),
        "negative_pooled_prompt_embeds": random(prompts, 8, seed=4),
        "height": SIZE,
        "width": SIZE,
        **more,
    }


def sd3_control_call(**more: Any) -> dict[str, Any]:
    return seeded(sd3_call(control_image=picture(SIZE), **more))


STABLE_DIFFUSION_3 = {
    "StableDiffusion3": Case(
        sd3,
        sd3_call,
        (
            lambda: sd3_call(prompts=2),
            lambda: sd3_call(height=32),
            lambda: sd3_call(guidance_scale=1.0),
        ),
    ),
    "StableDiffusion3, skip layer guidance": Case(
        sd3,
        lambda: sd3_call(skip_guidance_layers=[1], skip_layer_guidance_start=0.2, skip_layer_guidance_stop=0.6),
    ),
    "StableDiffusion3Img2Img": Case(
        lambda: sd3(d.StableDiffusion3Img2ImgPipeline),
        lambda: sd3_call(image=picture(SIZE), strength=0.8),
        (lambda: sd3_call(image=picture(SIZE), strength=1.0),),
    ),
    "StableDiffusion3Inpaint": Case(
        lambda: sd3(d.StableDiffusion3InpaintPipeline),
        lambda: sd3_call(image=picture(SIZE), mask_image=mask(), strength=0.8),
    ),
    "StableDiffusion3ControlNet": Case(
        lambda: sd3_controlnet(d.StableDiffusion3ControlNetPipeline),
        sd3_control_call,
        (lambda: sd3_control_call(control_guidance_end=0.5),),
    ),
    "StableDiffusion3ControlNetInpainting": Case(
        lambda: sd3_controlnet(d.StableDiffusion3ControlNetInpaintingPipeline, extra_conditioning_channels=1),
        lambda: sd3_control_call(control_mask=mask()),
    ),
    "StableDiffusion3PAG": Case(
        lambda: sd3(d.StableDiffusion3PAGPipeline),
        sd3_call,
        (
            lambda: sd3_call(guidance_scale=1.0),
            lambda: sd3_call(pag_scale=0.0),
            lambda: sd3_call(pag_adaptive_scale=8.0),
        ),
    ),
    "StableDiffusion3PAGImg2Img": Case(
        lambda: sd3(d.StableDiffusion3PAGImg2ImgPipeline), lambda: sd3_call(image=picture(SIZE), strength=0.8)
    ),
}


def flux_controlnet(kind: Any) -> Any:
    return sibling(kind, flux(d.FluxPipeline, shift=3.0), controlnet=flux_model(d.FluxControlNetModel, seed=1))


def flux2_klein(kind: Any, **more: Any) -> Any:
    return flux2(kind, guidance=False, shift=3.0, **more)


def flux2_klein_call(**more: Any) -> dict[str, Any]:
    return flux2_call(negative_prompt_embeds=random(1, 4, 8, seed=3), **more)


FLUX = {
    "FluxImg2Img": Case(
        lambda: flux(d.FluxImg2ImgPipeline, **DYNAMIC, guidance=True),
        lambda: flux_call(image=picture(SIZE), strength=0.8, **true_guidance()),
    ),
    "FluxInpaint": Case(
        lambda: flux(d.FluxInpaintPipeline, **DYNAMIC, guidance=True),
        lambda: flux_call(image=picture(SIZE), mask_image=mask(), strength=0.8),
    ),
    "FluxFill": Case(
        lambda: flux(d.FluxFillPipeline, 48, **DYNAMIC, guidance=True),
        lambda: flux_call(image=picture(SIZE), mask_image=mask()),
        (lambda: flux_call(image=picture(SIZE), mask_image=mask(), num_images_per_prompt=2),),
    ),
    "FluxControlNet": Case(
        lambda: flux_controlnet(d.FluxControlNetPipeline),
        lambda: flux_call(control_image=picture(SIZE)),
        (lambda: flux_call(control_image=picture(SIZE), **true_guidance()),),
    ),
    "FluxControlNetImg2Img": Case(
        lambda: flux_controlnet(d.FluxControlNetImg2ImgPipeline),
        lambda: flux_call(control_image=picture(SIZE), image=picture(SIZE), strength=0.8),
    ),
    "FluxControlImg2Img": Case(
        lambda: flux(d.FluxControlImg2ImgPipeline, 32, shift=3.0),
        lambda: flux_call(control_image=picture(SIZE), image=picture(SIZE), strength=0.8),
    ),
    "FluxControlInpaint": Case(
        lambda: flux(d.FluxControlInpaintPipeline, 32, shift=3.0),
        lambda: flux_call(control_image=picture(SIZE), image=picture(SIZE), mask_image=mask(), strength=0.8),
    ),
    "FluxKontextInpaint": Case(
        lambda: flux(d.FluxKontextInpaintPipeline, shift=3.0),
        lambda: flux_call(image=picture(SIZE), mask_image=mask(), max_area=SIZE**2, _auto_resize=False),
    ),
    "Flux2Klein": Case(
        lambda: flux2_klein(d.Flux2KleinPipeline),
        flux2_klein_call,
        (
            lambda: flux2_klein_call(num_images_per_prompt=2),
            lambda: flux2_klein_call(height=32),
            lambda: flux2_klein_call(guidance_scale=1.0),
        ),
    ),
    "Flux2Klein, distilled, reference image": Case(
        lambda: flux2_klein(d.Flux2KleinPipeline, is_distilled=True),
        lambda: flux2_call(height=64, width=64, image=photograph(64)),
    ),
    "Flux2KleinInpaint": Case(
        lambda: flux2_klein(d.Flux2KleinInpaintPipeline),
        lambda: flux2_klein_call(image=photograph(64), mask_image=mask(64)),
    ),
    "Flux2KleinKV": Case(
        lambda: flux2_klein(d.Flux2KleinKVPipeline),
        flux2_call,
        (lambda: flux2_call(num_images_per_prompt=2),),
    ),
    "Flux2KleinKV, reference image": Case(
        lambda: flux2_klein(d.Flux2KleinKVPipeline),
        lambda: flux2_call(height=64, width=64, image=photograph(64)),
    ),
}


def qwen_autoencoder(halvings: int = 2, channels: int = 3, latent_channels: int = 4) -> Any:
    return lively(
        d.AutoencoderKLQwenImage(
            base_dim=4,
            z_dim=latent_channels,
            dim_mult=[1] * (halvings + 1),
            num_res_blocks=1,
            temperal_downsample=[False] * halvings,
            input_channels=channels,
            latents_mean=[0.0] * latent_channels,
            latents_std=[1.0] * latent_channels,
        )
    )


QWEN = {
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 4,
    "num_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 8,
    "axes_dims_rope": (8, 4, 4),
}
QWEN_SHIFT = {
    "use_dynamic_shifting": True,
    "base_image_seq_len": 16,
    "max_image_seq_len": 64,
    "max_shift": 0.9,
    "shift_terminal": 0.02,
}
QWEN_SIZE, EDIT_SIZE = 32, 256


def qwen(kind: Any = d.QwenImagePipeline, **more: Any) -> Any:
    return kind(
        scheduler=d.FlowMatchEulerDiscreteScheduler(**QWEN_SHIFT),
        vae=qwen_autoencoder(),
        text_encoder=None,
        tokenizer=None,
        transformer=lively(d.QwenImageTransformer2DModel(**QWEN)),
        **more,
    )


def qwen_controlnet(kind: Any, **options: Any) -> Any:
    return qwen(kind, controlnet=lively(d.QwenImageControlNetModel(**QWEN, **options), 1))


class Averaging(nn.Module):
    """An encoder that takes no time for large pictures, and makes them smaller by a factor of 64."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor, **_: Any) -> Tensor:
        *others, height, width = x.shape
        small = x.reshape(*others, height // 64, 64, width // 64, 64).mean((-3, -1))
        return torch.cat([small] * self.channels, 1)[:, : self.channels]


class Enlarging(nn.Module):
    """A decoder that takes no time for large pictures."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor, **_: Any) -> Tensor:
        return 0.1 * x[:, : self.channels].repeat_interleave(64, -1).repeat_interleave(64, -2)


def shrinking_autoencoder(channels: int = 3, latent_channels: int = 4) -> Any:
    """It makes pictures much smaller, for pipelines that bring all of them to a large size."""
    vae = qwen_autoencoder(6, channels, latent_channels)
    vae.encoder, vae.decoder = Averaging(2 * latent_channels), Enlarging(channels)
    return vae


def qwen_edit(kind: Any, **options: Any) -> Any:
    return kind(
        scheduler=d.FlowMatchEulerDiscreteScheduler(**QWEN_SHIFT),
        vae=shrinking_autoencoder(),
        text_encoder=None,
        tokenizer=None,
        processor=None,
        transformer=lively(d.QwenImageTransformer2DModel(**QWEN, **options)),
    )


class NoEncoder(nn.Module):
    """In place of a text encoder that is only asked where it is, and of what type."""

    device, dtype = torch.device("cpu"), torch.float32


def qwen_layered() -> Any:
    options = {"in_channels": 32, "out_channels": 8, "use_additional_t_cond": True, "use_layer3d_rope": True}
    return d.QwenImageLayeredPipeline(
        scheduler=d.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=shrinking_autoencoder(4, 8),
        text_encoder=NoEncoder(),
        tokenizer=None,
        processor=None,
        transformer=lively(d.QwenImageTransformer2DModel(**{**QWEN, **options})),
    )


def qwen_text() -> dict[str, Any]:
    return {
        "prompt_embeds": random(1, 4, 8, seed=1),
        "prompt_embeds_mask": torch.ones(1, 4, dtype=torch.long),
        "negative_prompt_embeds": random(1, 5, 8, seed=2),
        "negative_prompt_embeds_mask": torch.tensor([[1, 1, 1, 1, 0]]),
    }


def qwen_call(**more: Any) -> dict[str, Any]:
    return {**qwen_text(), "height": QWEN_SIZE, "width": QWEN_SIZE, **more}


def qwen_edit_call(**more: Any) -> dict[str, Any]:
    return {**qwen_text(), "height": EDIT_SIZE, "width": EDIT_SIZE, "image": photograph(64), **more}


QWEN_IMAGE = {
    "QwenImage": Case(
        qwen,
        qwen_call,
        (
            lambda: qwen_call(num_images_per_prompt=2),
            lambda: qwen_call(height=64),
            lambda: qwen_call(true_cfg_scale=1.0),
        ),
    ),
    "QwenImageImg2Img": Case(
        lambda: qwen(d.QwenImageImg2ImgPipeline), lambda: qwen_call(image=picture(QWEN_SIZE), strength=0.8)
    ),
    "QwenImageInpaint": Case(
        lambda: qwen(d.QwenImageInpaintPipeline),
        lambda: qwen_call(image=picture(QWEN_SIZE), mask_image=mask(QWEN_SIZE), strength=0.8),
    ),
    "QwenImageControlNet": Case(
        lambda: qwen_controlnet(d.QwenImageControlNetPipeline), lambda: qwen_call(control_image=picture(QWEN_SIZE))
    ),
    "QwenImageControlNetInpaint": Case(
        lambda: qwen_controlnet(d.QwenImageControlNetInpaintPipeline, extra_condition_channels=4),
        lambda: seeded(qwen_call(control_image=picture(QWEN_SIZE), control_mask=mask(QWEN_SIZE))),
    ),
    "QwenImageEdit": Case(lambda: qwen_edit(d.QwenImageEditPipeline), qwen_edit_call),
    "QwenImageEditPlus": Case(
        lambda: qwen_edit(d.QwenImageEditPlusPipeline, zero_cond_t=True),
        qwen_edit_call,
        (lambda: qwen_edit_call(image=[photograph(64), photograph(32)]), lambda: qwen_edit_call(true_cfg_scale=1.0)),
    ),
    "QwenImageEditInpaint": Case(
        lambda: qwen_edit(d.QwenImageEditInpaintPipeline),
        lambda: qwen_edit_call(mask_image=mask(EDIT_SIZE), strength=0.8),
    ),
}


def z_image(kind: Any = d.ZImagePipeline, *, siglip_channels: int | None = None, **more: Any) -> Any:
    transformer = d.ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=8,
        siglip_feat_dim=siglip_channels,
        axes_dims=[8, 4, 4],
        axes_lens=[256, 32, 32],
    )
    return kind(
        scheduler=d.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=autoencoder(scaling_factor=0.3611, shift_factor=0.1159),
        text_encoder=None,
        tokenizer=None,
        transformer=lively(transformer),
        **more,
    )


def z_image_controlnet() -> Any:
    controlnet = d.ZImageControlNetModel(
        control_layers_places=[0],
        control_refiner_layers_places=[0],
        control_in_dim=4,
        dim=32,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
    )
    return z_image(d.ZImageControlNetPipeline, controlnet=lively(controlnet, 1))


def z_image_call(**more: Any) -> dict[str, Any]:
    return {
        "prompt_embeds": [random(4, 8, seed=1)],
        "negative_prompt_embeds": [random(5, 8, seed=2)],
        "height": SIZE,
        "width": SIZE,
        **more,
    }


Z_IMAGE = {
    "ZImage": Case(
        z_image,
        z_image_call,
        (
            lambda: z_image_call(num_images_per_prompt=2),
            lambda: z_image_call(height=32),
            lambda: z_image_call(guidance_scale=0.0),
        ),
    ),
    "ZImage, guidance truncated": Case(z_image, lambda: z_image_call(cfg_truncation=0.5, cfg_normalization=True)),
    "ZImageImg2Img": Case(
        lambda: z_image(d.ZImageImg2ImgPipeline), lambda: z_image_call(image=picture(SIZE), strength=0.8)
    ),
    "ZImageInpaint": Case(
        lambda: z_image(d.ZImageInpaintPipeline), lambda: z_image_call(image=picture(SIZE), mask_image=mask())
    ),
    "ZImageControlNet": Case(z_image_controlnet, lambda: z_image_call(control_image=picture(SIZE))),
    "ZImageOmni": Case(
        lambda: z_image(d.ZImageOmniPipeline, siglip_channels=8, siglip=None, siglip_processor=None),
        lambda: z_image_call(prompt_embeds=[[random(4, 8, seed=1)]], negative_prompt_embeds=[[random(5, 8, seed=2)]]),
    ),
}


def chroma(kind: Any = d.ChromaPipeline) -> Any:
    transformer = d.ChromaTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=8,
        axes_dims_rope=(2, 2, 4),
        approximator_num_channels=16,
        approximator_hidden_dim=16,
        approximator_layers=1,
    )
    transformer.register_to_config(guidance_embeds=False)
    return kind(
        scheduler=d.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=flux_autoencoder(),
        text_encoder=None,
        tokenizer=None,
        transformer=lively(transformer),
    )


def chroma_call(prompts: int = 1, **more: Any) -> dict[str, Any]:
    return {
        "prompt_embeds": random(prompts, 4, 8, seed=1),
        "prompt_attention_mask": torch.tensor([[True, True, True, False]] * prompts),
        "negative_prompt_embeds": random(prompts, 4, 8, seed=2),
        "negative_prompt_attention_mask": torch.tensor([[True, True, False, False]] * prompts),
        "height": SIZE,
        "width": SIZE,
        **more,
    }


CHROMA = {
    "Chroma": Case(
        chroma,
        chroma_call,
        (
            lambda: chroma_call(prompts=2),
            lambda: chroma_call(height=32),
            lambda: chroma_call(guidance_scale=1.0),
        ),
    ),
    "ChromaImg2Img": Case(lambda: chroma(d.ChromaImg2ImgPipeline), lambda: chroma_call(image=picture(SIZE))),
    "ChromaInpaint": Case(
        lambda: chroma(d.ChromaInpaintPipeline),
        lambda: chroma_call(image=picture(SIZE), mask_image=mask(), strength=0.8, true_cfg_scale=4.0),
    ),
}

SANA_SIZE = 32
SANA_SOLVER = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
SANA = {
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 2,
    "num_attention_heads": 2,
    "attention_head_dim": 4,
    "num_cross_attention_heads": 2,
    "cross_attention_head_dim": 4,
    "cross_attention_dim": 8,
    "caption_channels": 8,
    "sample_size": 8,
}


def sana_autoencoder() -> Any:
    return lively(
        d.AutoencoderDC(
            latent_channels=4,
            attention_head_dim=2,
            encoder_block_types=("ResBlock",) * 3,
            decoder_block_types=("ResBlock",) * 3,
            encoder_block_out_channels=(4, 4, 4),
            decoder_block_out_channels=(4, 4, 4),
            encoder_qkv_multiscales=((), (), ()),
            decoder_qkv_multiscales=((), (), ()),
            encoder_layers_per_block=(1, 1, 1),
            decoder_layers_per_block=(1, 1, 1),
            scaling_factor=0.41407,
        )
    )


def sana(kind: Any = d.SanaPipeline, scheduler: Any = None, **more: Any) -> Any:
    options = {} if scheduler is None else {"guidance_embeds": True, "qk_norm": "rms_norm_across_heads"}
    return kind(
        tokenizer=None,
        text_encoder=None,
        vae=sana_autoencoder(),
        transformer=lively(d.SanaTransformer2DModel(**SANA, **options)),
        scheduler=scheduler or d.DPMSolverMultistepScheduler(**SANA_SOLVER),
        **more,
    )


def sana_text(**more: Any) -> dict[str, Any]:
    return {
        "prompt_embeds": random(1, 4, 8, seed=1),
        "prompt_attention_mask": torch.tensor([[1, 1, 1, 0]]),
        "height": SANA_SIZE,
        "width": SANA_SIZE,
        "use_resolution_binning": False,
        **more,
    }


def sana_call(**more: Any) -> dict[str, Any]:
    return sana_text(
        negative_prompt=None,
        negative_prompt_embeds=random(1, 4, 8, seed=2),
        negative_prompt_attention_mask=torch.tensor([[1, 1, 0, 0]]),
        **more,
    )


SANAS = {
    "Sana": Case(
        sana,
        sana_call,
        (
            lambda: sana_call(num_images_per_prompt=2),
            lambda: sana_call(height=64),
            lambda: sana_call(guidance_scale=1.0),
        ),
    ),
    "SanaPAG": Case(lambda: sana(d.SanaPAGPipeline), sana_call, (lambda: sana_call(pag_scale=0.0),)),
    "SanaControlNet": Case(
        lambda: sana(
            d.SanaControlNetPipeline, controlnet=lively(d.SanaControlNetModel(**{**SANA, "num_layers": 1}), 1)
        ),
        lambda: sana_call(control_image=picture(SANA_SIZE)),
    ),
    "SanaSprint": Case(
        lambda: sana(d.SanaSprintPipeline, d.SCMScheduler()),
        lambda: sana_text(intermediate_timesteps=None),
        (lambda: sana_text(intermediate_timesteps=None, num_images_per_prompt=2),),
    ),
    "SanaSprintImg2Img": Case(
        lambda: sana(d.SanaSprintImg2ImgPipeline, d.SCMScheduler()),
        lambda: sana_text(intermediate_timesteps=None, image=picture(SANA_SIZE)),
    ),
}


def pixart(kind: Any, scheduler: Any) -> Any:
    transformer = d.PixArtTransformer2DModel(
        sample_size=8,
        num_layers=2,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=2,
        caption_channels=8,
        in_channels=4,
        out_channels=8,
        cross_attention_dim=16,
        interpolation_scale=1.0,
        use_additional_conditions=False,
    )
    return kind(
        tokenizer=None, text_encoder=None, vae=autoencoder(), transformer=lively(transformer), scheduler=scheduler
    )


def pixart_scheduler() -> Any:
    return d.DPMSolverMultistepScheduler(algorithm_type="dpmsolver++", solver_order=2)


def masked_text(prompts: int = 1) -> dict[str, Any]:
    """Embeddings of prompts and of what they are guided away from, with masks."""
    return {
        "prompt_embeds": random(prompts, 4, 8, seed=1),
        "prompt_attention_mask": torch.tensor([[1, 1, 1, 0]] * prompts),
        "negative_prompt_embeds": random(prompts, 4, 8, seed=2),
        "negative_prompt_attention_mask": torch.tensor([[1, 1, 0, 0]] * prompts),
    }


def plain_text(prompts: int = 1) -> dict[str, Any]:
    """Embeddings of prompts and of what they are guided away from."""
    return {
        "prompt_embeds": random(prompts, 4, 8, seed=1),
        "negative_prompt_embeds": random(prompts, 4, 8, seed=2),
    }


def sized(**more: Any) -> dict[str, Any]:
    return {"height": SIZE, "width": SIZE, **more}


def pixart_call(**more: Any) -> dict[str, Any]:
    return {**masked_text(), **sized(negative_prompt=None, use_resolution_binning=False), **more}


PIXART = {
    "PixArtAlpha": Case(
        lambda: pixart(d.PixArtAlphaPipeline, pixart_scheduler()),
        pixart_call,
        (
            lambda: pixart_call(num_images_per_prompt=2),
            lambda: pixart_call(height=32),
            lambda: pixart_call(guidance_scale=1.0),
        ),
    ),
    "PixArtAlpha, LCM": Case(
        lambda: pixart(d.PixArtAlphaPipeline, d.LCMScheduler()), lambda: pixart_call(guidance_scale=0.0)
    ),
    "PixArtSigma": Case(
        lambda: pixart(d.PixArtSigmaPipeline, pixart_scheduler()),
        pixart_call,
        (lambda: pixart_call(num_images_per_prompt=2),),
    ),
    "PixArtSigmaPAG": Case(
        lambda: pixart(d.PixArtSigmaPAGPipeline, pixart_scheduler()), pixart_call, (lambda: pixart_call(pag_scale=0.0),)
    ),
}


def hidream() -> Any:
    transformer = d.HiDreamImageTransformer2DModel(
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        caption_channels=[8, 8],
        text_emb_dim=8,
        num_routed_experts=4,
        num_activated_experts=2,
        axes_dims_rope=(4, 2, 2),
        max_resolution=(8, 16),
        llama_layers=[0, 1],
    )
    encoders = {f"{part}{number}": None for part in ("text_encoder", "tokenizer") for number in ("", "_2", "_3", "_4")}
    pipe = d.HiDreamImagePipeline(
        scheduler=d.UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
        vae=autoencoder(scaling_factor=0.3611, shift_factor=0.1159),
        transformer=lively(transformer),
        **encoders,
    )
    pipe.default_sample_size = SIZE // 2
    return pipe


def hidream_call(**more: Any) -> dict[str, Any]:
    return sized(
        prompt_embeds_t5=random(1, 4, 8, seed=1),
        prompt_embeds_llama3=random(2, 1, 4, 8, seed=2),
        pooled_prompt_embeds=random(1, 8, seed=3),
        negative_prompt_embeds_t5=random(1, 4, 8, seed=4),
        negative_prompt_embeds_llama3=random(2, 1, 4, 8, seed=5),
        negative_pooled_prompt_embeds=random(1, 8, seed=6),
        **more,
    )


HIDREAM = {
    "HiDreamImage": Case(
        hidream,
        hidream_call,
        (lambda: hidream_call(num_images_per_prompt=2), lambda: hidream_call(guidance_scale=1.0)),
    ),
}

HUNYUAN_IMAGE = {
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "num_layers": 1,
    "num_single_layers": 2,
    "num_refiner_layers": 1,
    "text_embed_dim": 8,
}


def hunyuan_image(*, distilled: bool = False) -> Any:
    vae = d.AutoencoderKLHunyuanImage(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=(32, 32),
        layers_per_block=1,
        spatial_compression_ratio=2,
        sample_size=SIZE,
        scaling_factor=0.75289,
    )
    transformer = d.HunyuanImageTransformer2DModel(
        in_channels=4,
        out_channels=4,
        patch_size=(1, 1),
        text_embed_2_dim=8,
        rope_axes_dim=(4, 4),
        guidance_embeds=distilled,
        use_meanflow=distilled,
        **HUNYUAN_IMAGE,
    )
    guiders = {
        name: None
        if distilled
        else d.AdaptiveProjectedMixGuidance(guidance_scale=3.5, adaptive_projected_guidance_start_step=start)
        for name, start in (("guider", 3), ("ocr_guider", 5))
    }
    return d.HunyuanImagePipeline(
        scheduler=d.FlowMatchEulerDiscreteScheduler(shift=4.0 if distilled else 5.0),
        vae=vae,
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        transformer=lively(transformer),
        **guiders,
    )


def hunyuan_image_call(**more: Any) -> dict[str, Any]:
    text = {}
    for number, (prefix, suffix) in enumerate((("", ""), ("", "_2"), ("negative_", ""), ("negative_", "_2"))):
        text[f"{prefix}prompt_embeds{suffix}"] = random(1, 4, 8, seed=number)
        text[f"{prefix}prompt_embeds_mask{suffix}"] = torch.tensor([[1, 1, 1, 0]])
    return sized(**text, **more)


def hunyuan_image_refiner() -> Any:
    vae = d.AutoencoderKLHunyuanImageRefiner(
        latent_channels=4,
        block_out_channels=(4, 4),
        layers_per_block=1,
        spatial_compression_ratio=2,
        temporal_compression_ratio=1,
    )
    transformer = d.HunyuanImageTransformer2DModel(
        in_channels=8,
        out_channels=4,
        patch_size=(1, 1, 1),
        rope_axes_dim=(4, 2, 2),
        guidance_embeds=True,
        **HUNYUAN_IMAGE,
    )
    return d.HunyuanImageRefinerPipeline(
        scheduler=d.FlowMatchEulerDiscreteScheduler(shift=4.0),
        vae=vae,
        text_encoder=None,
        tokenizer=None,
        transformer=lively(transformer),
    )


def hunyuan_image_refiner_call(**more: Any) -> dict[str, Any]:
    """The image comes from the other pipeline, as latents."""
    mask = torch.tensor([[1, 1, 1, 0]])
    image = random(1, 4, 1, SIZE // 2, SIZE // 2, seed=2)
    return sized(prompt_embeds=random(1, 4, 8, seed=1), prompt_embeds_mask=mask, image=image, **more)


HUNYUAN = {
    "HunyuanImage": Case(
        hunyuan_image,
        hunyuan_image_call,
        (lambda: hunyuan_image_call(num_images_per_prompt=2), lambda: hunyuan_image_call(height=32)),
    ),
    "HunyuanImage, distilled": Case(lambda: hunyuan_image(distilled=True), hunyuan_image_call),
    "HunyuanImageRefiner": Case(
        hunyuan_image_refiner,
        hunyuan_image_refiner_call,
        (lambda: hunyuan_image_refiner_call(num_images_per_prompt=2),),
    ),
}

HUNYUAN_DIT = {
    "sample_size": 8,
    "patch_size": 2,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "in_channels": 4,
    "hidden_size": 16,
    "cross_attention_dim": 8,
    "cross_attention_dim_t5": 8,
    "pooled_projection_dim": 8,
    "text_len": 4,
    "text_len_t5": 4,
    "activation_fn": "gelu-approximate",
}
HUNYUAN_DIT_NOISE = {"beta_schedule": "scaled_linear", "beta_end": 0.03, "prediction_type": "v_prediction"}
HUNYUAN_DIT_SIZE = 64


def hunyuan_dit(kind: Any = d.HunyuanDiTPipeline, **more: Any) -> Any:
    return kind(
        vae=autoencoder(blocks=4),
        text_encoder=None,
        tokenizer=None,
        transformer=lively(d.HunyuanDiT2DModel(num_layers=4, mlp_ratio=2.0, **HUNYUAN_DIT)),
        scheduler=d.DDPMScheduler(steps_offset=1, clip_sample=False, **HUNYUAN_DIT_NOISE),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        **more,
    )


def hunyuan_dit_controlnet() -> Any:
    controlnet = d.HunyuanDiT2DControlNetModel(transformer_num_layers=4, mlp_ratio=2.0, **HUNYUAN_DIT)
    return hunyuan_dit(d.HunyuanDiTControlNetPipeline, controlnet=lively(controlnet, 1))


def hunyuan_dit_call(prompts: int = 1, **more: Any) -> dict[str, Any]:
    text = masked_text(prompts)
    second = {f"{name}_2": value for name, value in text.items()}
    size = {"height": HUNYUAN_DIT_SIZE, "width": HUNYUAN_DIT_SIZE, "use_resolution_binning": False}
    return {**text, **second, **size, **more}


HUNYUANS_DIT = {
    "HunyuanDiT": Case(
        hunyuan_dit,
        hunyuan_dit_call,
        (
            lambda: hunyuan_dit_call(prompts=2),
            lambda: hunyuan_dit_call(height=128),
            lambda: hunyuan_dit_call(guidance_scale=1.0),
        ),
    ),
    "HunyuanDiTPAG": Case(
        lambda: hunyuan_dit(d.HunyuanDiTPAGPipeline), hunyuan_dit_call, (lambda: hunyuan_dit_call(pag_scale=0.0),)
    ),
    "HunyuanDiTControlNet": Case(
        hunyuan_dit_controlnet, lambda: seeded(hunyuan_dit_call(control_image=picture(HUNYUAN_DIT_SIZE)))
    ),
}


def cogview4(kind: Any = d.CogView4Pipeline, in_channels: int = 4) -> Any:
    transformer = d.CogView4Transformer2DModel(
        patch_size=2,
        in_channels=in_channels,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        text_embed_dim=8,
        time_embed_dim=8,
        condition_dim=4,
        rope_axes_dim=(16, 16),
    )
    scheduler = d.FlowMatchEulerDiscreteScheduler(
        base_shift=0.25,
        max_shift=0.75,
        base_image_seq_len=256,
        use_dynamic_shifting=True,
        time_shift_type="linear",
    )
    parts = {"vae": autoencoder(scaling_factor=1.0), "transformer": lively(transformer), "scheduler": scheduler}
    return kind(tokenizer=None, text_encoder=None, **parts)


def cogview3() -> Any:
    transformer = d.CogView3PlusTransformer2DModel(
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        text_embed_dim=8,
        time_embed_dim=8,
        condition_dim=4,
        pos_embed_max_size=16,
        sample_size=8,
    )
    scheduler = d.CogVideoXDDIMScheduler(
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        snr_shift_scale=4.0,
        timestep_spacing="trailing",
        beta_schedule="scaled_linear",
    )
    parts = {"vae": autoencoder(scaling_factor=1.0), "transformer": lively(transformer), "scheduler": scheduler}
    return d.CogView3PlusPipeline(tokenizer=None, text_encoder=None, **parts)


def cogview_call(prompts: int = 1, **more: Any) -> dict[str, Any]:
    return {**plain_text(prompts), **sized(), **more}


COGVIEW = {
    "CogView4": Case(
        cogview4,
        cogview_call,
        (
            lambda: cogview_call(num_images_per_prompt=2),
            lambda: cogview_call(height=32),
            lambda: cogview_call(guidance_scale=1.0),
        ),
    ),
    "CogView4Control": Case(
        lambda: cogview4(d.CogView4ControlPipeline, 8), lambda: seeded(cogview_call(control_image=picture(SIZE)))
    ),
    "CogView3Plus": Case(
        cogview3,
        cogview_call,
        (lambda: cogview_call(prompts=2), lambda: cogview_call(guidance_scale=1.0)),
    ),
}


LUMINA_SIZE = 64


def lumina2() -> Any:
    transformer = d.Lumina2Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        hidden_size=16,
        num_layers=2,
        num_refiner_layers=1,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=16,
        axes_dim_rope=(4, 2, 2),
        axes_lens=(32, 32, 32),
        cap_feat_dim=8,
    )
    parts = {"vae": autoencoder(scaling_factor=0.3611, shift_factor=0.1159), "transformer": lively(transformer)}
    scheduler = d.FlowMatchEulerDiscreteScheduler(shift=6.0)
    return d.Lumina2Pipeline(text_encoder=None, tokenizer=None, scheduler=scheduler, **parts)


def lumina() -> Any:
    transformer = d.LuminaNextDiT2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        hidden_size=16,
        num_layers=2,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=16,
        cross_attention_dim=8,
    )
    parts = {"vae": autoencoder(scaling_factor=0.13025), "transformer": lively(transformer)}
    scheduler = d.FlowMatchEulerDiscreteScheduler()
    return d.LuminaPipeline(text_encoder=None, tokenizer=None, scheduler=scheduler, **parts)


def lumina_call(prompts: int = 1, **more: Any) -> dict[str, Any]:
    return {**masked_text(prompts), "height": LUMINA_SIZE, "width": LUMINA_SIZE, **more}


def aura_flow() -> Any:
    transformer = d.AuraFlowTransformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_mmdit_layers=1,
        num_single_dit_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        caption_projection_dim=16,
        joint_attention_dim=8,
        pos_embed_max_size=64,
    )
    parts = {"vae": autoencoder(scaling_factor=0.13025), "transformer": lively(transformer)}
    scheduler = d.FlowMatchEulerDiscreteScheduler(shift=1.73)
    return d.AuraFlowPipeline(tokenizer=None, text_encoder=None, scheduler=scheduler, **parts)


def aura_flow_call(**more: Any) -> dict[str, Any]:
    return {**masked_text(), **sized(), **more}


LUMINA = {
    "Lumina2": Case(
        lumina2,
        lumina_call,
        (
            lambda: lumina_call(prompts=2),
            lambda: lumina_call(height=128),
            lambda: lumina_call(guidance_scale=1.0),
        ),
    ),
    "Lumina2, guidance truncated": Case(lumina2, lambda: lumina_call(cfg_trunc_ratio=0.5)),
    "Lumina": Case(lumina, lumina_call, (lambda: lumina_call(height=128), lambda: lumina_call(guidance_scale=1.0))),
    "AuraFlow": Case(
        aura_flow,
        aura_flow_call,
        (
            lambda: aura_flow_call(num_images_per_prompt=2),
            lambda: aura_flow_call(height=32),
            lambda: aura_flow_call(guidance_scale=1.0),
        ),
    ),
}


BRIA = {
    "in_channels": 16,
    "num_layers": 1,
    "num_single_layers": 2,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "axes_dims_rope": (0, 4, 4),
}


def bria() -> Any:
    return d.BriaPipeline(
        transformer=lively(d.BriaTransformer2DModel(joint_attention_dim=8, **BRIA)),
        scheduler=d.FlowMatchEulerDiscreteScheduler(**DYNAMIC),
        vae=autoencoder(shift_factor=0.0, scaling_factor=0.13025),
        text_encoder=None,
        tokenizer=None,
    )


def bria_call(prompts: int = 1, **more: Any) -> dict[str, Any]:
    return {**plain_text(prompts), **sized(), **more}


def bria_fibo() -> Any:
    """It takes no embeddings: what it encodes a prompt to is put in."""
    pipe = d.BriaFiboPipeline(
        transformer=lively(d.BriaFiboTransformer2DModel(joint_attention_dim=16, text_encoder_dim=8, **BRIA)),
        scheduler=d.FlowMatchEulerDiscreteScheduler(**DYNAMIC),
        vae=wan_autoencoder(),
        text_encoder=None,
        tokenizer=None,
    )

    def encode_prompt(num_images_per_prompt: int, **_: Any) -> tuple[Any, ...]:
        images = num_images_per_prompt
        embeds = [random(1, 4, 16, seed=seed).repeat(images, 1, 1) for seed in (1, 2)]
        masks = [torch.tensor([[1.0, 1.0, 1.0, kept]] * images) for kept in (1.0, 0.0)]
        layers = [[random(1, 4, 8, seed=seed + i).repeat(images, 1, 1) for i in range(3)] for seed in (3, 6)]
        return *embeds, torch.zeros(4, 3), *masks, *layers

    pipe.encode_prompt = encode_prompt
    return pipe


def bria_fibo_call(**more: Any) -> dict[str, Any]:
    return {"prompt": "{}", "height": 64, "width": 64, **more}


def bria_fibo2() -> Any:
    transformer = d.BriaFibo2Transformer2DModel(
        in_channels=4,
        patch_size=2,
        dim=32,
        n_layers=3,
        n_refiner_layers=1,
        n_heads=2,
        cap_feat_dim=8,
        injection_layer_ids=(1,),
        perceiver_num_layers=1,
        min_num_gist_tokens=2,
        max_num_gist_tokens=4,
        gist_step=2,
        gist_min_text_len=2,
        gist_max_text_len=8,
        axes_dims=(8, 4, 4),
        axes_lens=(64, 32, 32),
    )
    return d.BriaFibo2Pipeline(
        transformer=lively(transformer),
        scheduler=d.FlowMatchEulerDiscreteScheduler(**DYNAMIC),
        vae=flux2_autoencoder(),
        text_encoder=None,
        processor=None,
    )


def embedded_text(prompts: int = 1) -> dict[str, Any]:
    """The same as masked text, with other names for the masks."""
    text = masked_text(prompts)
    return {name.replace("attention_mask", "embeds_mask"): value for name, value in text.items()}


def bria_fibo2_call(**more: Any) -> dict[str, Any]:
    """One bundle of embeddings for the gist, one for the layer into which they are injected."""
    return sized(
        prompt_embeds=random(1, 2, 4, 8, seed=1),
        prompt_embeds_mask=torch.tensor([[True, True, True, False]]),
        negative_prompt_embeds=random(1, 2, 4, 8, seed=2),
        negative_prompt_embeds_mask=torch.tensor([[True, True, False, False]]),
        **more,
    )


BRIAS = {
    "BriaFibo": Case(
        bria_fibo,
        bria_fibo_call,
        (
            lambda: bria_fibo_call(num_images_per_prompt=2),
            lambda: bria_fibo_call(height=128),
            lambda: bria_fibo_call(guidance_scale=1.0),
        ),
    ),
    "BriaFibo2": Case(
        bria_fibo2,
        bria_fibo2_call,
        (lambda: bria_fibo2_call(num_images_per_prompt=2), lambda: bria_fibo2_call(guidance_scale=1.0)),
    ),
}


def ovis() -> Any:
    transformer = d.OvisImageTransformer2DModel(
        in_channels=16,
        out_channels=16,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=8,
        axes_dims_rope=(2, 2, 4),
    )
    return d.OvisImagePipeline(
        scheduler=d.FlowMatchEulerDiscreteScheduler(**DYNAMIC, shift=3.0),
        vae=flux_autoencoder(),
        text_encoder=None,
        tokenizer=None,
        transformer=lively(transformer),
    )


def ovis_call(**more: Any) -> dict[str, Any]:
    return {**plain_text(), **sized(negative_prompt=None), **more}


class Processor:
    """In place of one of a multimodal text encoder, as far as pipelines ask it when they are built."""

    image_processor = None
    tokenizer = SimpleNamespace(encode=lambda text: [0])

    def apply_chat_template(self, *_: Any, **__: Any) -> list[list[int]]:
        return [[0]]


def longcat(kind: Any = d.LongCatImagePipeline, blocks: int = 2) -> Any:
    """Its own way to take embeddings fails without a prompt: what it encodes a prompt to is put in."""
    transformer = d.LongCatImageTransformer2DModel(
        in_channels=64,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=8,
        pooled_projection_dim=8,
        axes_dims_rope=(2, 2, 4),
    )
    pipe = kind(
        scheduler=d.FlowMatchEulerDiscreteScheduler(**DYNAMIC, shift=3.0),
        vae=autoencoder(16, blocks, shift_factor=0.1159, scaling_factor=0.3611),
        text_encoder=None,
        tokenizer=None,
        text_processor=Processor(),
        transformer=lively(transformer),
    )
    pipe._encode_prompt = lambda prompt, image=None: random(len(prompt), 4, 8, seed=len(prompt[0]))
    return pipe


def longcat_edit() -> Any:
    pipe = longcat(d.LongCatImageEditPipeline, 7)
    pipe.vae.encoder = Averaging(32)
    return pipe


def longcat_call(**more: Any) -> dict[str, Any]:
    return sized(prompt="a cat", enable_prompt_rewrite=False, **more)


LIKE_FLUX = {
    "OvisImage": Case(
        ovis,
        ovis_call,
        (
            lambda: ovis_call(num_images_per_prompt=2),
            lambda: ovis_call(height=32),
            lambda: ovis_call(guidance_scale=1.0),
        ),
    ),
    "LongCatImage": Case(
        longcat,
        longcat_call,
        (lambda: longcat_call(num_images_per_prompt=2), lambda: longcat_call(guidance_scale=1.0)),
    ),
    "LongCatImageEdit": Case(longcat_edit, lambda: {"prompt": "a cat", "image": photograph(64)}),
}


def prx() -> Any:
    transformer = d.PRXTransformer2DModel(
        in_channels=4,
        patch_size=2,
        context_in_dim=8,
        hidden_size=16,
        mlp_ratio=2.0,
        num_heads=2,
        depth=2,
        axes_dim=[4, 4],
    )
    return d.PRXPipeline(
        transformer=lively(transformer),
        scheduler=d.FlowMatchEulerDiscreteScheduler(shift=3.0),
        text_encoder=None,
        tokenizer=None,
        vae=autoencoder(shift_factor=0.0, scaling_factor=0.3611),
    )


def prx_call(**more: Any) -> dict[str, Any]:
    text = {name: value.bool() if "mask" in name else value for name, value in masked_text().items()}
    return {**text, **sized(negative_prompt=None, use_resolution_binning=False), **more}


def kandinsky5(kind: Any, *, from_image: bool = False) -> Any:
    """Its sizes are those of a list."""
    transformer = d.Kandinsky5Transformer3DModel(
        in_visual_dim=4,
        out_visual_dim=4,
        in_text_dim=8,
        in_text_dim2=8,
        time_dim=16,
        patch_size=(1, 2, 2),
        model_dim=16,
        ff_dim=32,
        num_text_blocks=1,
        num_visual_blocks=2,
        axes_dims=(4, 2, 2),
        visual_cond=from_image,
    )
    pipe = kind(
        transformer=lively(transformer),
        vae=autoencoder(blocks=4, scaling_factor=0.3611, shift_factor=0.1159),
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        scheduler=d.FlowMatchEulerDiscreteScheduler(shift=3.0),
    )
    pipe.resolutions = [(64, 64), (64, 128)]
    return pipe


def kandinsky5_call(**more: Any) -> dict[str, Any]:
    text = {}
    for prefix, length in (("", 4), ("negative_", 5)):
        text[f"{prefix}prompt_embeds_qwen"] = random(1, length, 8, seed=length)
        text[f"{prefix}prompt_embeds_clip"] = random(1, 8, seed=length + 2)
        text[f"{prefix}prompt_cu_seqlens"] = torch.tensor([0, length], dtype=torch.int32)
    return {**text, "height": 64, "width": 64, **more}


def krea2(*, distilled: bool = False) -> Any:
    transformer = d.Krea2Transformer2DModel(
        in_channels=16,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=32,
        timestep_embed_dim=8,
        text_hidden_dim=8,
        num_text_layers=3,
        text_num_attention_heads=2,
        text_num_key_value_heads=1,
        text_intermediate_size=16,
        num_layerwise_text_blocks=1,
        num_refiner_text_blocks=1,
        axes_dims_rope=(4, 2, 2),
    )
    return d.Krea2Pipeline(
        scheduler=d.FlowMatchEulerDiscreteScheduler(**DYNAMIC),
        vae=qwen_autoencoder(),
        text_encoder=None,
        tokenizer=None,
        transformer=lively(transformer),
        is_distilled=distilled,
    )


def krea2_call(**more: Any) -> dict[str, Any]:
    return {
        "prompt_embeds": random(1, 4, 3, 8, seed=1),
        "prompt_embeds_mask": torch.tensor([[True, True, True, False]]),
        "negative_prompt_embeds": random(1, 4, 3, 8, seed=2),
        "negative_prompt_embeds_mask": torch.tensor([[True, True, False, False]]),
        "height": QWEN_SIZE,
        "width": QWEN_SIZE,
        **more,
    }


def ernie() -> Any:
    transformer = d.ErnieImageTransformer2DModel(
        hidden_size=32,
        num_attention_heads=2,
        num_layers=2,
        ffn_hidden_size=32,
        in_channels=16,
        out_channels=16,
        patch_size=1,
        text_in_dim=8,
        rope_axes_dim=(8, 4, 4),
    )
    return d.ErnieImagePipeline(
        transformer=lively(transformer),
        vae=flux2_autoencoder(),
        text_encoder=None,
        tokenizer=None,
        scheduler=d.FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


def ernie_call(**more: Any) -> dict[str, Any]:
    texts = {"prompt_embeds": [random(4, 8, seed=1)], "negative_prompt_embeds": [random(3, 8, seed=2)]}
    return {**texts, **sized(), **more}


def glm_image() -> Any:
    transformer = d.GlmImageTransformer2DModel(
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        text_embed_dim=8,
        time_embed_dim=16,
        condition_dim=8,
        prior_vq_quantizer_codebook_size=32,
    )
    return d.GlmImagePipeline(
        tokenizer=None,
        processor=None,
        text_encoder=None,
        vision_language_encoder=None,
        vae=autoencoder(latents_mean=[0.0] * 4, latents_std=[1.0] * 4),
        transformer=lively(transformer),
        scheduler=d.FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, base_shift=0.25, max_shift=0.75, time_shift_type="linear"
        ),
    )


def glm_image_call(**more: Any) -> dict[str, Any]:
    return {**plain_text(), **sized(prior_token_ids=torch.arange(16)[None]), **more}


def glm_image_edit_call() -> dict[str, Any]:
    prior = {"prior_token_image_ids": [torch.arange(16)], "source_image_grid_thw": [torch.tensor([[1, 4, 4]])]}
    return glm_image_call(**prior, image=[photograph(SIZE)])


NEW = {
    "PRX": Case(prx, prx_call, (lambda: prx_call(height=32), lambda: prx_call(guidance_scale=1.0))),
    "Kandinsky5T2I": Case(
        lambda: kandinsky5(d.Kandinsky5T2IPipeline),
        kandinsky5_call,
        (lambda: kandinsky5_call(height=128), lambda: kandinsky5_call(guidance_scale=1.0)),
    ),
    "Kandinsky5I2I": Case(
        lambda: kandinsky5(d.Kandinsky5I2IPipeline, from_image=True), lambda: kandinsky5_call(image=photograph(64))
    ),
    "Krea2": Case(
        krea2,
        krea2_call,
        (
            lambda: krea2_call(num_images_per_prompt=2),
            lambda: krea2_call(height=64),
            lambda: krea2_call(guidance_scale=0.0),
        ),
    ),
    "Krea2, distilled": Case(lambda: krea2(distilled=True), lambda: krea2_call(guidance_scale=0.0)),
    "ErnieImage": Case(
        ernie,
        ernie_call,
        (
            lambda: ernie_call(num_images_per_prompt=2),
            lambda: ernie_call(height=32),
            lambda: ernie_call(guidance_scale=1.0),
        ),
    ),
    "GlmImage": Case(glm_image, glm_image_call, (lambda: glm_image_call(guidance_scale=1.0),)),
    "GlmImage, input image": Case(glm_image, glm_image_edit_call),
}


def dit() -> Any:
    transformer = d.DiTTransformer2DModel(
        sample_size=8,
        num_layers=2,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=2,
        in_channels=4,
        out_channels=8,
        norm_num_groups=4,
    )
    return d.DiTPipeline(
        transformer=lively(transformer), vae=autoencoder(), scheduler=d.DDIMScheduler(clip_sample=False, steps_offset=1)
    )


def visual_cloze() -> Any:
    """Two pipelines in turn with the same parts; neither takes embeddings for both: what they encode to is put in."""
    pipe = sibling(d.VisualClozePipeline, flux(d.FluxPipeline, 48, **DYNAMIC, guidance=True), resolution=SIZE)

    def encode_prompt(**_: Any) -> tuple[Tensor, Tensor, Tensor]:
        return random(1, 4, 8, seed=1), random(1, 8, seed=2), torch.zeros(4, 3)

    pipe.generation_pipe.encode_prompt = pipe.upsampling_pipe.encode_prompt = encode_prompt
    for part in (pipe.generation_pipe, pipe.upsampling_pipe):
        part.set_progress_bar_config(disable=True)
    return pipe


def visual_cloze_call() -> dict[str, Any]:
    images = [[photograph(SIZE), photograph(SIZE)], [photograph(SIZE), None]]
    size = {"upsampling_height": SIZE, "upsampling_width": SIZE}
    return {"task_prompt": "a task", "content_prompt": "a cat", "image": images, **size}


def nucleus() -> Any:
    transformer = d.NucleusMoEImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=8,
        axes_dims_rope=(8, 4, 4),
        dense_moe_strategy="all_moe",
        num_experts=4,
        moe_intermediate_dim=16,
        capacity_factors=2.0,
    )
    return d.NucleusMoEImagePipeline(
        transformer=lively(transformer),
        scheduler=d.FlowMatchEulerDiscreteScheduler(**DYNAMIC),
        vae=qwen_autoencoder(),
        text_encoder=None,
        processor=None,
    )


def joy_image() -> Any:
    """Its sizes are those of a list."""
    transformer = d.JoyImageEditTransformer3DModel(
        patch_size=[1, 2, 2],
        in_channels=4,
        hidden_size=32,
        num_attention_heads=2,
        text_dim=8,
        num_layers=2,
        rope_dim_list=[8, 4, 4],
    )
    pipe = d.JoyImageEditPipeline(
        scheduler=d.FlowMatchEulerDiscreteScheduler(shift=4.0),
        vae=wan_autoencoder(),
        text_encoder=None,
        tokenizer=None,
        transformer=lively(transformer),
        processor=None,
    )
    pipe.vae_image_processor.get_default_height_width = lambda image, height, width: (height, width)
    return pipe


def qwen21() -> Any:
    transformer = d.QwenImage21Transformer2DModel(
        in_channels=8,
        out_channels=8,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        context_in_dim=8,
        axes_dims_rope=(8, 4, 4),
    )
    return d.QwenImage21Pipeline(
        scheduler=d.FlowMatchEulerDiscreteScheduler(**DYNAMIC),
        vae=qwen_autoencoder(4, 4, 8),
        text_encoder=None,
        processor=Processor(),
        transformer=lively(transformer),
    )


def qwen21_edit() -> Any:
    """Without a text encoder no picture can be read: what the prompt and it are encoded to is put in."""
    pipe = qwen21()

    def encode_prompt(**_: Any) -> tuple[Tensor, None, Tensor]:
        return random(1, 8, 8, seed=1), None, torch.tensor([[False, False, True, True, True, True, False, False]])

    pipe.encode_prompt = encode_prompt
    return pipe


def qwen21_call(**more: Any) -> dict[str, Any]:
    return {**embedded_text(), "height": 64, "width": 64, **more}


def ideogram() -> Any:
    """It takes no embeddings: what it encodes a prompt to is put in."""
    models = [
        lively(
            d.Ideogram4Transformer2DModel(
                in_channels=16,
                num_layers=2,
                attention_head_dim=16,
                num_attention_heads=2,
                intermediate_size=32,
                adaln_dim=16,
                llm_features_dim=8,
                mrope_section=(4, 2, 2),
            ),
            seed,
        )
        for seed in (0, 1)
    ]
    pipe = d.Ideogram4Pipeline(
        scheduler=d.FlowMatchEulerDiscreteScheduler(),
        vae=flux2_autoencoder(),
        text_encoder=None,
        tokenizer=None,
        transformer=models[0],
        unconditional_transformer=models[1],
    )

    def encode_prompt(grid_h: int, grid_w: int, max_sequence_length: int, device: Any, **_: Any) -> tuple[Any, ...]:
        layout = pipe._prepare_ids([max_sequence_length - 1], grid_h, grid_w, max_sequence_length, device)
        text, image = random(1, max_sequence_length, 8), torch.zeros(1, grid_h * grid_w, 8)
        return torch.cat([text, image], 1), *layout

    pipe.encode_prompt = encode_prompt
    return pipe


def ideogram_call(**more: Any) -> dict[str, Any]:
    guidance = {"guidance_schedule": (7.0,) * 6 + (3.0,) * 2}
    return sized(prompt="a cat", max_sequence_length=4, **{**guidance, **more})


def dreamlite() -> Any:
    """It takes no embeddings: what it encodes prompts to is put in."""
    unet = d.DreamLiteUNetModel(
        sample_size=8,
        down_block_types=("DreamLiteCrossAttnNoSelfAttnDownBlock2D", "DreamLiteCrossAttnDownBlock2D"),
        up_block_types=("DreamLiteCrossAttnUpBlock2D", "DreamLiteUpBlock2D"),
        block_out_channels=(8, 16),
        cross_attention_dim=8,
        attention_head_dim=8,
        layers_per_block=1,
        norm_num_groups=4,
    )
    vae = d.AutoencoderTiny(
        encoder_block_out_channels=(4, 4),
        decoder_block_out_channels=(4, 4),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    )
    pipe = d.DreamLitePipeline(
        text_encoder=NoEncoder(),
        tokenizer=None,
        processor=None,
        vae=lively(vae),
        unet=lively(unet),
        scheduler=d.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
    )

    def encode_prompt(prompts: list[str], **_: Any) -> tuple[Tensor, Tensor]:
        return random(len(prompts), 4, 8), torch.ones(len(prompts), 4, dtype=torch.long)

    pipe.encode_prompt = encode_prompt
    return pipe


def dreamlite_call(**more: Any) -> dict[str, Any]:
    return sized(prompt="a cat", **more)


FEW = {
    "DiT": Case(
        dit,
        lambda: {"class_labels": [1]},
        (lambda: {"class_labels": [1, 2]}, lambda: {"class_labels": [1], "guidance_scale": 1.0}),
        "np",
    ),
    "NucleusMoEImage": Case(
        nucleus,
        lambda: {**embedded_text(), "height": QWEN_SIZE, "width": QWEN_SIZE},
        (lambda: {**embedded_text(), "height": QWEN_SIZE, "width": QWEN_SIZE, "guidance_scale": 1.0},),
    ),
    "JoyImageEdit": Case(
        joy_image,
        lambda: seeded({**embedded_text(), **sized(image=photograph(SIZE))}),
        (lambda: seeded({**embedded_text(), **sized(image=photograph(SIZE), num_images_per_prompt=2)}),),
    ),
    "QwenImage21": Case(
        qwen21,
        lambda: qwen21_call(true_cfg_scale=4.0),
        (
            qwen21_call,
            lambda: qwen21_call(true_cfg_scale=4.0, height=128),
            lambda: qwen21_call(use_kv_cache=False),
        ),
    ),
    "QwenImage21, input image": Case(
        qwen21_edit,
        lambda: {"prompt": "a cat", "image": photograph(64), "output_resolution": 64},
    ),
    "Ideogram4": Case(
        ideogram,
        ideogram_call,
        (
            lambda: ideogram_call(num_images_per_prompt=2),
            lambda: ideogram_call(height=32),
            lambda: ideogram_call(guidance_schedule=None, guidance_scale=7.0),
        ),
    ),
    "DreamLite": Case(dreamlite, dreamlite_call, (lambda: dreamlite_call(num_images_per_prompt=2),)),
    "DreamLite, input image": Case(dreamlite, lambda: dreamlite_call(image=photograph(SIZE))),
}

SPECIAL: dict[str, Case] = {
    "StableDiffusion3Img2Img, first step to be cached": Case(
        lambda: sd3(d.StableDiffusion3Img2ImgPipeline), lambda: sd3_call(image=picture(SIZE), strength=0.6)
    ),
    "QwenImageLayered": Case(
        qwen_layered,
        lambda: {**qwen_text(), "prompt": "a cat", "image": photograph(64).convert("RGBA"), "layers": 2},
        (lambda: {**qwen_text(), "prompt": "a cat", "image": photograph(64).convert("RGBA"), "layers": 3},),
        "pt",
    ),
    "VisualCloze": Case(visual_cloze, visual_cloze_call),
    "Bria": Case(
        bria,
        bria_call,
        (
            lambda: bria_call(prompts=2),
            lambda: bria_call(height=32),
            lambda: bria_call(guidance_scale=1.0),
        ),
    ),
}


CASES: dict[str, Case] = {
    **STABLE_DIFFUSION_3,
    **FLUX,
    **QWEN_IMAGE,
    **Z_IMAGE,
    **CHROMA,
    **SANAS,
    **PIXART,
    **HIDREAM,
    **HUNYUAN,
    **HUNYUANS_DIT,
    **COGVIEW,
    **LUMINA,
    **BRIAS,
    **LIKE_FLUX,
    **NEW,
    **FEW,
    **SPECIAL,
}
