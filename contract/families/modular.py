"""Modular pipelines: put together of blocks, guided by a guider, with their text encoders left out."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import diffusers as d
import torch

from contract.case import STEPS, Case
from contract.families import images, paper, unets, videos
from contract.parts import lively, random

NO_TEXT = ("text_encoder",)
NO_PICTURE = torch.zeros(1, 4, dtype=torch.bool)


KINDS: dict[str, Any] = {
    "Krea2TurboAutoBlocks": d.Krea2TurboModularPipeline,
    "Flux2KleinBaseAutoBlocks": d.Flux2KleinBaseModularPipeline,
    "Wan22Blocks": d.Wan22ModularPipeline,
    "Wan22Image2VideoBlocks": d.Wan22Image2VideoModularPipeline,
}
"""Blocks whose own class is not the one that they make."""


def modular(blocks: Any, like: Any, *without: str, **more: Any) -> Any:
    """A modular pipeline of a standard one's components.

    Args:
        blocks: its blocks.
        like: the standard pipeline.
        *without: the blocks to leave out.
        **more: further components.
    """
    for name in without:
        blocks.sub_blocks.pop(name)
    kind = KINDS.get(type(blocks).__name__)
    pipe = kind(blocks) if kind else blocks.init_pipeline()
    parts = {name: part for name, part in like.components.items() if part is not None and hasattr(part, "config")}
    taken = {spec.name for spec in blocks.expected_components}
    pipe.update_components(**{name: part for name, part in {**parts, **more}.items() if name in taken})
    return pipe


def latents_of(call: Callable[..., dict[str, Any]], *without: str, **more: Any) -> Callable[..., dict[str, Any]]:
    """The same call without some arguments, of a modular pipeline: it says what it wants; guidance is the guider's."""

    def changed(**others: Any) -> dict[str, Any]:
        arguments = {name: value for name, value in call().items() if name not in ("guidance_scale", *without)}
        return {**arguments, "output": "latents", **more, **others}

    return changed


def case(build: Callable[[], Any], call: Callable[..., dict[str, Any]], *others: dict[str, Any]) -> Case:
    """A case whose calls give out latents; the others differ by these arguments."""
    return Case(build, call, tuple(partial(call, **other) for other in others), output_type="")


def scaled(scale: float) -> dict[str, Any]:
    """Classifier-free guidance of this scale."""
    return {"guider": d.ClassifierFreeGuidance(guidance_scale=scale)}


GUIDERS: dict[str, Callable[[], Any]] = {
    "classifier-free zero": lambda: d.ClassifierFreeZeroStarGuidance(guidance_scale=4.0),
    "skip-layer": lambda: d.SkipLayerGuidance(guidance_scale=4.0, skip_layer_guidance_layers=[1]),
    "perturbed attention": lambda: d.PerturbedAttentionGuidance(
        guidance_scale=4.0, perturbed_guidance_scale=2.0, perturbed_guidance_layers=[1]
    ),
    "adaptive projected": lambda: d.AdaptiveProjectedGuidance(guidance_scale=4.0),
    "tangential": lambda: d.TangentialClassifierFreeGuidance(guidance_scale=4.0),
}


def wan(**more: Any) -> Any:
    return paper.wan(d.UniPCMultistepScheduler(**paper.UNIPC), **more)


def wan_modular(guider: Any) -> Any:
    return modular(d.WanBlocks(), wan(), *NO_TEXT, guider=guider)


def wan_guided(make: Callable[[], Any]) -> Any:
    return wan_modular(make())


def wan22_modular() -> Any:
    like = wan(transformer_2=paper.wan_transformer(seed=1), boundary_ratio=0.8)
    guiders = {"guider": d.ClassifierFreeGuidance(guidance_scale=4.0)}
    guiders["guider_2"] = d.ClassifierFreeGuidance(guidance_scale=3.0)
    return modular(d.Wan22Blocks(), like, *NO_TEXT, **guiders)


def ltx2_modular(blocks: Any) -> Any:
    return modular(blocks, videos.ltx2(d.LTX2Pipeline), "prompt_enhancer", "text_encoder", "duration", "decode")


def ltx2_call() -> dict[str, Any]:
    """What the connectors give to the transformer, for the clip and for the sound."""
    texts: dict[str, Any] = {}
    for kind, seed in (("", 1), ("negative_", 2)):
        texts |= {
            f"{kind}connector_prompt_embeds": random(1, 4, videos.WIDTH, seed=seed),
            f"{kind}connector_audio_prompt_embeds": random(1, 4, videos.WIDTH, seed=seed + 2),
            f"{kind}connector_attention_mask": torch.ones(1, 4),
        }
    sizes = {"height": videos.SIZE, "width": videos.SIZE, "num_frames": videos.FRAMES}
    return {**texts, **sizes, "output": ["latents", "audio_latents"], "batch_size": 1, "dtype": torch.float32}


def minimax_h3() -> Any:
    """Video and sound in one sequence, each with a scheduler of its own; one call of the denoiser a step."""
    transformer = d.MiniMaxH3Transformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        hidden_size=16,
        num_layers=2,
        num_refiner_layers=1,
        ffn_dim=16,
        text_dim=8,
        freq_dim=8,
        time_embed_hidden_dim=16,
        time_embed_dim=8,
        rope_freq_dim=2,
    )
    blocks = d.MiniMaxH3Blocks()
    for name in ("before_encode", "text_encoder", "vae_encoder", "decode"):
        blocks.sub_blocks.pop(name)
    pipe = blocks.init_pipeline()
    schedulers = {"scheduler": d.MiniMaxH3Scheduler(shift=12.0), "audio_scheduler": d.MiniMaxH3Scheduler(shift=3.0)}
    pipe.update_components(transformer=lively(transformer), **schedulers)
    return pipe


def minimax_h3_call(**more: Any) -> dict[str, Any]:
    return {
        "prompt_embeds": random(1, 4, 8, seed=1),
        "text_token_tags": torch.ones(4, dtype=torch.long),
        "height": 32,
        "width": 32,
        "num_frames": 124,
        "output": ["latents", "audio_latents"],
        **more,
    }


def sdxl() -> Any:
    return modular(d.StableDiffusionXLAutoBlocks(), unets.CASES["StableDiffusionXL"].build(), *NO_TEXT, **scaled(5.0))


FROM_IMAGES: dict[str, tuple[Any, str, float | None]] = {
    "StableDiffusion3": (d.StableDiffusion3AutoBlocks, "StableDiffusion3", 4.0),
    "QwenImage": (d.QwenImageAutoBlocks, "QwenImage", 4.0),
    "ZImage": (d.ZImageAutoBlocks, "ZImage", 4.0),
    "Krea2": (d.Krea2AutoBlocks, "Krea2", 4.0),
    "Krea2Turbo": (d.Krea2TurboAutoBlocks, "Krea2, distilled", None),
    "ErnieImage": (d.ErnieImageAutoBlocks, "ErnieImage", 4.0),
    "Flux2KleinBase": (d.Flux2KleinBaseAutoBlocks, "Flux2Klein", 4.0),
    "Flux2Klein": (d.Flux2KleinAutoBlocks, "Flux2Klein, distilled, reference image", None),
}


def of_images(blocks: Any, name: str, scale: float | None) -> Case:
    """The modular form of a standard pipeline for images."""
    texts = [block for block in blocks().sub_blocks if block in ("text_encoder", "prompt_enhancer", "prompt_upsample")]

    def build() -> Any:
        return modular(blocks(), images.CASES[name].build(), *texts, **({} if scale is None else scaled(scale)))

    call = images.CASES[name].call
    negative = [name for name in call() if name.startswith("negative_")] if scale is None else []
    return case(build, latents_of(call, *negative), {})


def flux3_modular(blocks: Any, *, flow_map: bool = False, **more: Any) -> Any:
    transformer = d.Flux3Transformer2DModel(
        in_channels=16,
        cond_in_channels=16,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=8,
        timestep_channels=16,
        axes_dims_rope=(4, 4, 4, 4),
        flow_map=flow_map,
    )
    for name in ("prompt_upsampler", "text_encoder", "vae_encoder", "decode"):
        blocks.sub_blocks.pop(name)
    pipe = blocks.init_pipeline()
    pipe.update_components(
        transformer=lively(transformer), scheduler=d.FlowMatchEulerDiscreteScheduler(shift=3.0), **more
    )
    return pipe


def flux3_call(**more: Any) -> dict[str, Any]:
    texts = {"prompt_embeds": random(1, 4, 8, seed=1), "negative_prompt_embeds": random(1, 4, 8, seed=2)}
    return {**texts, "height": 64, "width": 64, "output": "latents", **more}


def wan_image_call(**more: Any) -> dict[str, Any]:
    call = {name: value for name, value in paper.video_call().items() if name != "guidance_scale"}
    condition = {"image_condition_latents": random(1, 2 + 4, 3, 8, 8, seed=6)}
    return {**call, **condition, "output": "latents", **more}


def wan22_image_modular() -> Any:
    models = {name: paper.wan_transformer(4 + 2 + 4, seed) for name, seed in (("transformer", 0), ("transformer_2", 1))}
    guiders = {name: d.ClassifierFreeGuidance(guidance_scale=4.0) for name in ("guider", "guider_2")}
    return modular(
        d.Wan22Image2VideoBlocks(), paper.wan_from_image(), "text_encoder", "vae_encoder", **models, **guiders
    )


def anima() -> Any:
    conditioner = d.AnimaTextConditioner(
        source_dim=8,
        target_dim=8,
        model_dim=8,
        num_layers=1,
        num_attention_heads=2,
        target_vocab_size=16,
        min_sequence_length=8,
    )
    transformer = d.CosmosTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=2,
        mlp_ratio=2,
        text_embed_dim=8,
        adaln_lora_dim=4,
        max_size=(4, 32, 32),
        patch_size=(1, 2, 2),
        rope_scale=(2.0, 1.0, 1.0),
        concat_padding_mask=False,
    )
    blocks = d.AnimaAutoBlocks()
    for name in ("text_encoder", "vae_encoder", "decode"):
        blocks.sub_blocks.pop(name)
    pipe = blocks.init_pipeline()
    parts = {"text_conditioner": lively(conditioner), "transformer": lively(transformer), **scaled(4.0)}
    pipe.update_components(scheduler=d.FlowMatchEulerDiscreteScheduler(shift=3.0), **parts)
    return pipe


def anima_call(**more: Any) -> dict[str, Any]:
    texts: dict[str, Any] = {}
    for kind, seed in (("", 1), ("negative_", 2)):
        texts |= {
            f"{kind}qwen_prompt_embeds": random(1, 4, 8, seed=seed),
            f"{kind}qwen_attention_mask": torch.ones(1, 4, dtype=torch.long),
            f"{kind}t5_input_ids": torch.tensor([[3, 5, 7, 1]]) + seed,
            f"{kind}t5_attention_mask": torch.ones(1, 4, dtype=torch.long),
        }
    return {**texts, "height": 64, "width": 64, "output": "latents", **more}


CASES: dict[str, Case] = {
    "Flux3Modular": Case(
        lambda: flux3_modular(d.Flux3AutoBlocks(), **scaled(3.5)),
        flux3_call,
        (lambda: flux3_call(height=128),),
        output_type="",
    ),
    "Flux3DistilledModular": Case(
        lambda: flux3_modular(d.Flux3DistilledAutoBlocks(), flow_map=True),
        lambda: {name: value for name, value in flux3_call().items() if not name.startswith("negative_")},
        output_type="",
    ),
    "QwenImageEditModular": case(
        lambda: modular(d.QwenImageEditAutoBlocks(), images.qwen(), *NO_TEXT, "vae_encoder", **scaled(4.0)),
        latents_of(images.qwen_call, image_latents=random(1, 4, 1, 8, 8, seed=6)),
    ),
    "HeliosModular": case(
        lambda: modular(d.HeliosAutoBlocks(), videos.helios(), *NO_TEXT, "vae_encoder", **scaled(4.0)),
        latents_of(videos.helios_call),
    ),
    "FluxKontextModular": case(
        lambda: modular(d.FluxKontextAutoBlocks(), paper.flux(d.FluxPipeline, shift=3.0), *NO_TEXT),
        latents_of(paper.flux_call, max_area=paper.FLUX_SIZE**2),
    ),
    "QwenImage21TurboModular": case(
        lambda: modular(d.QwenImage21TurboAutoBlocks(), images.qwen21(), *NO_TEXT),
        latents_of(
            images.qwen21_call, "negative_prompt_embeds", "negative_prompt_embeds_mask", image_pad_mask=NO_PICTURE
        ),
    ),
    "AnimaModular": Case(anima, anima_call, (lambda: anima_call(height=128),), output_type=""),
    "Wan22Image2VideoModular": Case(wan22_image_modular, wan_image_call, output_type=""),
    "FluxModular": case(
        lambda: modular(d.FluxAutoBlocks(), paper.flux(d.FluxPipeline, **paper.DYNAMIC, guidance=True), *NO_TEXT),
        latents_of(paper.flux_call, guidance_scale=3.5),
        {"height": 32},
        {"num_images_per_prompt": 2},
    ),
    "Flux2Modular": case(
        lambda: modular(d.Flux2AutoBlocks(), paper.flux2(), *NO_TEXT), latents_of(paper.flux2_call), {"height": 32}
    ),
    **{f"{name}Modular": of_images(*parts) for name, parts in FROM_IMAGES.items()},
    "QwenImage21Modular": case(
        lambda: modular(d.QwenImage21AutoBlocks(), images.qwen21(), *NO_TEXT, **scaled(4.0)),
        latents_of(images.qwen21_call, image_pad_mask=NO_PICTURE, negative_image_pad_mask=NO_PICTURE),
    ),
    "Ideogram4Modular": case(
        lambda: modular(d.Ideogram4AutoBlocks(), images.ideogram(), "prompt_upsample", *NO_TEXT),
        lambda **more: {
            "text_features": random(1, 4, 8),
            "text_lengths": [3],
            "guidance_schedule": (7.0,) * 6 + (3.0,) * 2,
            "height": images.SIZE,
            "width": images.SIZE,
            "output": "latents",
            **more,
        },
    ),
    "StableDiffusionXLModular": case(sdxl, latents_of(unets.CASES["StableDiffusionXL"].call)),
    "WanModular": case(lambda: wan_modular(d.ClassifierFreeGuidance(guidance_scale=4.0)), latents_of(paper.video_call)),
    **{
        f"WanModular, {name} guidance": case(partial(wan_guided, make), latents_of(paper.video_call))
        for name, make in GUIDERS.items()
    },
    "Wan22Modular": case(wan22_modular, latents_of(paper.video_call)),
    "HunyuanVideo15Modular": case(
        lambda: modular(d.HunyuanVideo15AutoBlocks(), videos.CASES["HunyuanVideo15"].build(), *NO_TEXT, **scaled(3.0)),
        latents_of(videos.CASES["HunyuanVideo15"].call),
    ),
    "LTXModular": case(
        lambda: modular(d.LTXAutoBlocks(), videos.CASES["LTX"].build(), *NO_TEXT, **scaled(3.0)),
        latents_of(videos.CASES["LTX"].call),
    ),
    "LTX2Modular": Case(lambda: ltx2_modular(d.LTX2AutoBlocks()), ltx2_call, output_type=""),
    "LTX25Modular": Case(lambda: ltx2_modular(d.LTX25AutoBlocks()), ltx2_call, output_type=""),
    "MiniMaxH3Modular": Case(
        minimax_h3, minimax_h3_call, (lambda: minimax_h3_call(height=64),), output_type="", made=STEPS - 1
    ),
}
