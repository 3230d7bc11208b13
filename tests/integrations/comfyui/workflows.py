"""Workflows in the form of ComfyUI's API."""

from __future__ import annotations

import itertools
from typing import Any

Graph = dict[str, dict[str, Any]]
_unique = itertools.count()
TEXT = "a lighthouse at dawn"


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def base(model: str = "tiny-flux", width: int = 32) -> Graph:
    """Model, texts and an empty latent."""
    video = "wan" in model
    empty = (
        node("EmptyHunyuanLatentVideo", width=64, height=64, length=5, batch_size=1)
        if video
        else node("EmptySD3LatentImage", width=64, height=64, batch_size=1)
    )
    return {
        "load": node("UNETLoader", unet_name=f"{model}.safetensors", weight_dtype="default"),
        "model": node("TestCounted", model=["load", 0]),
        "clip": node("TestClip", width=width),
        "positive": node("CLIPTextEncode", clip=["clip", 0], text=TEXT),
        "negative": node("CLIPTextEncode", clip=["clip", 0], text="blurry"),
        "empty": empty,
    }


def sampled(graph: Graph, model: str = "model", **changes: Any) -> Graph:
    """Add a KSampler, the count of the model's forwards, and the saved latent, which is never taken from a cache."""
    settings = {
        "seed": 100,
        "steps": 12,
        "cfg": 3.0,
        "sampler_name": "euler",
        "scheduler": "simple",
        "denoise": 1.0,
        "latent_image": ["empty", 0],
    } | changes
    return graph | {
        "sample": node("KSampler", model=[model, 0], positive=["positive", 0], negative=["negative", 0], **settings),
        **saved("sample"),
    }


def saved(sampler: str) -> Graph:
    return {
        "count": node("TestCount", after=[sampler, 0]),
        "save": node("SaveLatent", samples=[sampler, 0], filename_prefix=f"latents/{next(_unique)}"),
    }


def accelerated(graph: Graph, **inputs: Any) -> Graph:
    return graph | {"fast": node("ERTACache", model=["model", 0], **({"speedup": 2.0} | inputs))}


def in_two_parts(models: tuple[str, str], cut: int) -> Graph:
    """Two samplers of one schedule of 12 steps: up to a step, and from there on; the saved latent is the second's."""
    common = {"steps": 12, "cfg": 3.0, "sampler_name": "euler", "scheduler": "simple", "noise_seed": 5}
    common |= {"positive": ["positive", 0], "negative": ["negative", 0]}
    first = {"add_noise": "enable", "latent_image": ["empty", 0], "start_at_step": 0, "end_at_step": cut}
    second = {"add_noise": "disable", "latent_image": ["one", 0], "start_at_step": cut, "end_at_step": 10000}
    first["return_with_leftover_noise"], second["return_with_leftover_noise"] = "enable", "disable"
    return {
        "one": node("KSamplerAdvanced", model=[models[0], 0], **common, **first),
        "two": node("KSamplerAdvanced", model=[models[1], 0], **common, **second),
        **saved("two"),
    }


def calibrating(graph: Graph, name: str, **changes: Any) -> Graph:
    """Calibrate and save a policy."""
    settings = {
        "steps": 12,
        "cfg": 3.0,
        "sampler_name": "euler",
        "scheduler": "simple",
        "speedup": 2.0,
        "full_runs": 10.0,
        "seed": 0,
    } | changes
    texts = "a red boat\na cat asleep\nold trees in fog\na market at night\na glass of water\na snowy road\na violin"
    return graph | {
        "prompts": node("ERTACachePrompts", clip=["clip", 0], prompts=texts),
        "calibrate": node(
            "ERTACacheCalibrate",
            model=["model", 0],
            positive=["prompts", 0],
            negative=["negative", 0],
            latent_image=["empty", 0],
            **settings,
        ),
        "keep": node("ERTACacheSavePolicy", policy=["calibrate", 0], name=name),
        "count": node("TestCount", after=["calibrate", 0]),
    }
