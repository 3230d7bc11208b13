"""Further pipelines for images, of transformers."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import diffusers as d
import torch
from diffusers.pipelines.omnigen import pipeline_omnigen
from diffusers.pipelines.omnigen.processor_omnigen import OmniGenCollator
from torch import Tensor

from contract.case import Case
from contract.families.images import (
    SIZE,
    autoencoder,
    bria_fibo,
    dreamlite,
    dreamlite_call,
    flux_controlnet,
    mask,
    masked_text,
    sibling,
    sized,
    visual_cloze,
    z_image,
    z_image_call,
)
from contract.families.paper import flux_call, wan_autoencoder
from contract.parts import lively, photograph, picture, random


def flux_inpaint_call(**more: Any) -> dict[str, Any]:
    return flux_call(control_image=picture(SIZE), image=picture(SIZE), mask_image=mask(), strength=0.8, **more)


def z_image_controlnet() -> Any:
    """Its ControlNet sees the control picture, the mask and what the mask leaves."""
    controlnet = d.ZImageControlNetModel(
        control_layers_places=[0],
        control_refiner_layers_places=[0],
        control_in_dim=4 + 1 + 4,
        dim=32,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
    )
    return z_image(d.ZImageControlNetInpaintPipeline, controlnet=lively(controlnet, 1))


def z_image_inpaint_call(**more: Any) -> dict[str, Any]:
    return z_image_call(control_image=picture(SIZE), image=picture(SIZE), mask_image=mask(), **more)


def visual_cloze_generation() -> Any:
    """It takes no embeddings: what it encodes prompts to is put in."""
    return visual_cloze().generation_pipe


def cloze_call(**more: Any) -> dict[str, Any]:
    images = [[photograph(SIZE), photograph(SIZE)], [photograph(SIZE), None]]
    return {"task_prompt": "a task", "content_prompt": "a cat", "image": images, **more}


def bria_fibo_edit() -> Any:
    base = bria_fibo()
    options = {"temperal_downsample": [True], "latents_mean": [0.0] * 16, "latents_std": [1.0] * 16}
    base.vae = lively(d.AutoencoderKLWan(base_dim=4, z_dim=16, dim_mult=[1, 1], num_res_blocks=1, **options))
    pipe = sibling(d.BriaFiboEditPipeline, base)
    pipe.encode_prompt = base.encode_prompt
    return pipe


def bria_fibo_edit_call(**more: Any) -> dict[str, Any]:
    prompt = '{"edit_instruction": "redder"}'
    return {"prompt": prompt, "height": 64, "width": 64, "image": photograph(64), "_auto_resize": False, **more}


def dreamlite_mobile() -> Any:
    base = dreamlite()
    pipe = sibling(d.DreamLiteMobilePipeline, base)
    pipe.encode_prompt = base.encode_prompt
    return pipe


EDITING: dict[str, Case] = {
    "FluxControlNetInpaint": Case(
        lambda: flux_controlnet(d.FluxControlNetInpaintPipeline),
        flux_inpaint_call,
        (lambda: flux_inpaint_call(num_images_per_prompt=2),),
    ),
    "ZImageControlNetInpaint": Case(
        z_image_controlnet,
        z_image_inpaint_call,
        (lambda: z_image_inpaint_call(guidance_scale=0.0), lambda: z_image_inpaint_call(height=32)),
    ),
    "VisualClozeGeneration": Case(visual_cloze_generation, cloze_call, (lambda: cloze_call(num_images_per_prompt=2),)),
    "BriaFiboEdit": Case(bria_fibo_edit, bria_fibo_edit_call, (lambda: bria_fibo_edit_call(guidance_scale=1.0),)),
    "DreamLiteMobile": Case(dreamlite_mobile, dreamlite_call, (lambda: dreamlite_call(num_images_per_prompt=2),)),
    "DreamLiteMobile, input image": Case(dreamlite_mobile, lambda: dreamlite_call(image=photograph(SIZE))),
}


def joy_image_plus() -> Any:
    """Its sizes are those of a list, and it takes no embeddings with pictures: what it encodes to is put in."""
    transformer = d.JoyImageEditPlusTransformer3DModel(
        patch_size=[1, 2, 2],
        in_channels=4,
        hidden_size=32,
        num_attention_heads=2,
        text_dim=8,
        num_layers=2,
        rope_dim_list=[8, 4, 4],
    )
    pipe = d.JoyImageEditPlusPipeline(
        scheduler=d.FlowMatchEulerDiscreteScheduler(shift=4.0),
        vae=wan_autoencoder(),
        text_encoder=None,
        tokenizer=None,
        transformer=lively(transformer),
        processor=None,
    )
    pipe.image_processor.get_default_height_width = lambda *_: (SIZE, SIZE)

    def encode(prompt: list[str], **_: Any) -> tuple[Tensor, Tensor]:
        length = 5 if " <" in prompt[0] else 4
        return random(len(prompt), length, 8, seed=length), torch.ones(len(prompt), length, dtype=torch.long)

    pipe.encode_prompt_multiple_images = encode
    return pipe


def joy_image_plus_call(**more: Any) -> dict[str, Any]:
    return sized(prompt="redder", images=[photograph(SIZE), photograph(SIZE)], **more)


def prx_pixel() -> Any:
    transformer = d.PRXTransformer2DModel(
        in_channels=3,
        patch_size=2,
        context_in_dim=8,
        hidden_size=16,
        mlp_ratio=2.0,
        num_heads=2,
        depth=2,
        axes_dim=[4, 4],
        bottleneck_size=8,
        resolution_embeds=True,
    )
    scheduler = d.FlowMatchEulerDiscreteScheduler(shift=3.0)
    parts = {"transformer": lively(transformer), "text_encoder": None, "tokenizer": None}
    return d.PRXPixelPipeline(**parts, scheduler=scheduler)


def prx_pixel_call(**more: Any) -> dict[str, Any]:
    text = {name: value.bool() if "mask" in name else value for name, value in masked_text().items()}
    return {**text, **sized(negative_prompt=None, use_resolution_binning=False), **more}


class OmniGenProcessor:
    """In place of OmniGen's own, which needs torchvision: a letter is a token, and pictures are not resized."""

    def __init__(self, *_: Any, max_image_size: int) -> None:
        self.max_image_size, self.collator = max_image_size, OmniGenCollator(hidden_size=16)

    def __call__(
        self, prompts: list[str], images: Any, *, height: int, width: int, use_img_cfg: bool, **_: Any
    ) -> dict[str, Any]:
        rows = []
        for text, pictures in zip(prompts, images, strict=True):
            plain, negative = self._row([ord(letter) for letter in text], pictures), self._row([1, 2], None)
            rows.append((plain, negative, self._row([], pictures) if use_img_cfg else None, [height, width]))
        collated: dict[str, Any] = self.collator(rows)
        return collated

    def _row(self, tokens: list[int], pictures: Any) -> dict[str, Any]:
        if not pictures:
            return {"input_ids": tokens, "pixel_values": None, "image_sizes": None}
        size = (SIZE // 16) ** 2
        ids, places = tokens + [0] * size, [[len(tokens), len(tokens) + size]]
        return {"input_ids": ids, "pixel_values": [2 * picture(SIZE)[0] - 1], "image_sizes": places}


def omnigen() -> Any:
    factors = {"short_factor": [1.0] * 4, "long_factor": [1.0] * 4, "type": "su"}
    transformer = d.OmniGenTransformer2DModel(
        in_channels=4,
        hidden_size=16,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=32,
        num_layers=2,
        pad_token_id=0,
        vocab_size=128,
        rope_scaling=factors,
        pos_embed_max_size=24,
        time_step_dim=16,
    )
    parts = {"transformer": lively(transformer), "vae": autoencoder(blocks=4), "tokenizer": None}
    with patch.object(pipeline_omnigen, "OmniGenMultiModalProcessor", OmniGenProcessor, create=True):
        return d.OmniGenPipeline(**parts, scheduler=d.FlowMatchEulerDiscreteScheduler(invert_sigmas=True))


def omnigen_call(**more: Any) -> dict[str, Any]:
    return {"prompt": "cat", "height": 64, "width": 64, **more}


NEW: dict[str, Case] = {
    "JoyImageEditPlus": Case(joy_image_plus, joy_image_plus_call, (lambda: joy_image_plus_call(guidance_scale=1.0),)),
    "PRXPixel": Case(
        prx_pixel,
        prx_pixel_call,
        (lambda: prx_pixel_call(height=32), lambda: prx_pixel_call(guidance_scale=1.0)),
    ),
    "OmniGen": Case(omnigen, omnigen_call, (lambda: omnigen_call(height=128),)),
}

CASES: dict[str, Case] = {**EDITING, **NEW}
