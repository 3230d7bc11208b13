"""Further U-Nets: other pipelines of Stable Diffusion and XL, of Kandinsky, of IF, and older ones."""

from __future__ import annotations

from typing import Any

import diffusers as d

from contract.case import Case
from contract.families.images import sibling
from contract.families.unets import (
    ANIMATE,
    SIMPLE,
    SIZE,
    XL,
    animate,
    animate_call,
    animate_new,
    autoencoder,
    controlnet,
    controlnet_xs,
    embedded,
    floyd,
    frames,
    kandinsky21,
    kandinsky22,
    kandinsky22_prior,
    mask,
    motion,
    sd_as,
    sd_call,
    unet,
    xl,
    xl_as,
    xl_call,
    xl_from_image,
    xl_union,
)
from contract.parts import lively, photograph, picture

GUIDED: dict[str, Case] = {
    "StableDiffusionPAGImg2Img": Case(
        lambda: sd_as(d.StableDiffusionPAGImg2ImgPipeline),
        lambda: sd_call(image=picture(SIZE), strength=0.9),
        (lambda: sd_call(image=picture(SIZE), strength=0.9, pag_scale=0.0),),
    ),
    "StableDiffusionPAGInpaint": Case(
        lambda: sd_as(d.StableDiffusionPAGInpaintPipeline),
        lambda: sd_call(image=picture(SIZE), mask_image=mask()),
        (lambda: sd_call(image=picture(SIZE), mask_image=mask(), pag_scale=0.0),),
    ),
    "StableDiffusionControlNetPAG": Case(
        lambda: sd_as(d.StableDiffusionControlNetPAGPipeline, controlnet=controlnet()),
        lambda: sd_call(image=picture(SIZE)),
        (lambda: sd_call(image=picture(SIZE), pag_scale=0.0), lambda: sd_call(image=picture(2 * SIZE))),
    ),
    "StableDiffusionControlNetPAGInpaint": Case(
        lambda: sd_as(d.StableDiffusionControlNetPAGInpaintPipeline, controlnet=controlnet()),
        lambda: sd_call(image=picture(SIZE), mask_image=mask(), control_image=picture(SIZE)),
        (lambda: sd_call(image=picture(SIZE), mask_image=mask(), control_image=picture(SIZE), guidance_scale=1.0),),
    ),
    "StableDiffusionXLControlNetPAGImg2Img": Case(
        lambda: xl_as(d.StableDiffusionXLControlNetPAGImg2ImgPipeline, controlnet=controlnet(**XL)),
        lambda: xl_from_image(control_image=picture(SIZE), strength=0.9),
        (lambda: xl_from_image(control_image=picture(SIZE), strength=0.9, num_images_per_prompt=2),),
    ),
    "StableDiffusionXLControlNetUnionImg2Img": Case(
        lambda: xl_as(d.StableDiffusionXLControlNetUnionImg2ImgPipeline, controlnet=xl_union()),
        lambda: xl_from_image(control_image=[picture(SIZE)], control_mode=[0], strength=0.9),
        (lambda: xl_from_image(control_image=[picture(SIZE)], control_mode=[1], strength=0.9),),
    ),
    "StableDiffusionXLControlNetUnionInpaint": Case(
        lambda: xl_as(d.StableDiffusionXLControlNetUnionInpaintPipeline, controlnet=xl_union()),
        lambda: xl_from_image(mask_image=mask(), control_image=[picture(SIZE)], control_mode=[0]),
        (lambda: xl_from_image(mask_image=mask(), control_image=[picture(SIZE)], control_mode=[1]),),
    ),
}


def xl_controlnet_xs() -> Any:
    base = xl()
    base.unet = unet(**XL, layers_per_block=2)
    parts = {name: part for name, part in base.components.items() if name != "image_encoder"}
    control = controlnet_xs(base.unet)
    pipe = d.StableDiffusionXLControlNetXSPipeline(**{**parts, "controlnet": control}, add_watermarker=False)
    lively(pipe.unet)
    return pipe


def pia() -> Any:
    parts = {"vae": autoencoder(), "text_encoder": None, "tokenizer": None, "unet": unet(9)}
    pipe = d.PIAPipeline(**parts, motion_adapter=motion(), scheduler=d.DDIMScheduler(**ANIMATE))
    lively(pipe.unet)
    return pipe


VIDEO: dict[str, Case] = {
    "StableDiffusionXLControlNetXS": Case(xl_controlnet_xs, lambda: xl_call(image=picture(SIZE))),
    "AnimateDiffVideoToVideoControlNet": Case(
        lambda: animate(d.AnimateDiffVideoToVideoControlNetPipeline, controlnet=controlnet()),
        lambda: animate_call(video=frames(), conditioning_frames=frames(), strength=0.9),
    ),
    "PIA": Case(
        pia,
        lambda: animate_new(image=photograph(SIZE)),
        (lambda: animate_new(image=photograph(SIZE), guidance_scale=1.0),),
    ),
}


# Kandinsky and IF.


def noising() -> Any:
    return d.DDPMScheduler(beta_schedule="squaredcos_cap_v2")


def floyd_enlarging(kind: Any) -> Any:
    return floyd(kind, 6, image_noising_scheduler=noising())


def enlarged(**more: Any) -> dict[str, Any]:
    return sd_call(image=picture(SIZE // 2), original_image=picture(SIZE), strength=0.9, **more)


def kandinsky21_inpainting() -> Any:
    options = {"addition_embed_type": "text_image", "encoder_hid_dim_type": "text_image_proj"}
    base = kandinsky21(d.KandinskyPipeline)
    base.unet = unet(9, **SIMPLE, **options)
    return sibling(d.KandinskyInpaintPipeline, base)


KANDINSKY: dict[str, Case] = {
    "KandinskyImg2Img": Case(
        lambda: kandinsky21(d.KandinskyImg2ImgPipeline),
        lambda: embedded(prompt="star", image=picture(SIZE), strength=0.9),
        output_type="np",
    ),
    "KandinskyInpaint": Case(
        kandinsky21_inpainting,
        lambda: embedded(prompt="star", image=photograph(SIZE), mask_image=mask()[0, 0].numpy()),
        output_type="np",
    ),
    "KandinskyPrior": Case(
        lambda: sibling(d.KandinskyPriorPipeline, kandinsky22_prior()),
        lambda: {"prompt": "star", "negative_prompt": "red"},
        output_type="pt",
    ),
    "KandinskyV22ControlnetImg2Img": Case(
        lambda: kandinsky22(d.KandinskyV22ControlnetImg2ImgPipeline, 8, "image_hint"),
        lambda: embedded(image=picture(SIZE), hint=picture(64), strength=0.9),
        output_type="np",
    ),
    "KandinskyV22PriorEmb2Emb": Case(
        lambda: sibling(d.KandinskyV22PriorEmb2EmbPipeline, kandinsky22_prior()),
        lambda: {"prompt": "star", "negative_prompt": "red", "image": picture(SIZE), "strength": 0.9},
        output_type="pt",
    ),
    "IFImg2ImgSuperResolution": Case(
        lambda: floyd_enlarging(d.IFImg2ImgSuperResolutionPipeline), enlarged, output_type="pt"
    ),
    "IFInpaintingSuperResolution": Case(
        lambda: floyd_enlarging(d.IFInpaintingSuperResolutionPipeline),
        lambda: enlarged(mask_image=mask()),
        output_type="pt",
    ),
}
CASES: dict[str, Case] = {**GUIDED, **VIDEO, **KANDINSKY}
