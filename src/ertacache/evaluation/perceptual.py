"""Metrics that are networks: LPIPS and the CLIP score. Their packages and weights are optional."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ertacache.errors import MetricError
from ertacache.evaluation.harness import Metric
from ertacache.metrics import frames_of

CLIP = "openai/clip-vit-base-patch16"


def lpips(picture: Tensor, reference: Tensor) -> float:
    """LPIPS, a learned perceptual distance (Zhang et al., arXiv 1801.03924; AlexNet): 0 for equal pictures.

    Args:
        picture: (..., channels, height, width), float in 0 .. 1 or uint8; sides of at least 64 pixels are usual.
        reference: of the same shape.

    Returns:
        The mean over pictures and frames.

    Raises:
        MetricError: if torchvision or the weights are missing, or the shapes differ.
    """
    ours, theirs = frames_of(picture, reference)
    with torch.no_grad():
        return float(_lpips()(ours.clamp(0, 1), theirs.clamp(0, 1)))


def clip_score(picture: Tensor, prompt: str, model: str = CLIP) -> float:
    """CLIP score, how well pictures match a prompt: 100 times the cosine of the embeddings, at least 0.

    Args:
        picture: (..., channels, height, width), float in 0 .. 1 or uint8.
        prompt: the prompt of all of them.
        model: a Hub id, or a folder with a ``CLIPModel`` and its processor.

    Returns:
        100 times the mean cosine over pictures and frames, or 0 if that is negative.

    Raises:
        MetricError: if the model cannot be loaded.
    """
    frames = (frames_of(picture, picture)[0].clamp(0, 1) * 255).round().to(torch.uint8)
    network, processor = _clip(model)
    given = processor(text=[prompt], images=list(frames), return_tensors="pt", padding=True, truncation=True)
    with torch.no_grad():
        out = network(**given)
    cosines = torch.nn.functional.cosine_similarity(out.image_embeds, out.text_embeds)
    return float(100 * cosines.mean().clamp(min=0))


def perceptual_metrics() -> dict[str, Metric]:
    """The metrics with packages and weights on this machine, as `ertacache.evaluation.harness.measure` takes them."""
    from huggingface_hub import try_to_load_from_cache

    found: dict[str, Metric] = {}
    weights = Path(torch.hub.get_dir()) / "checkpoints"
    if importlib.util.find_spec("torchvision") is not None and list(weights.glob("alexnet*.pth")):
        found["lpips"] = lambda picture, reference, prompt: lpips(picture, reference)
    if isinstance(try_to_load_from_cache(CLIP, "config.json"), str):
        found["clip"] = lambda picture, reference, prompt: clip_score(picture, prompt)
    return found


@cache
def _lpips() -> Any:
    try:
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        return LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True).eval()
    except Exception as error:  # torchmetrics, torchvision and the download each raise their own errors
        raise MetricError(
            "LPIPS needs torchvision and the weights of AlexNet",
            given=f"{type(error).__name__}: {error}",
            cure="Run pip install 'ertacache[perceptual]', and let torchvision download the weights once.",
        ) from error


@cache
def _clip(model: str) -> tuple[Any, Any]:
    # Not torchmetrics' CLIPScore: in version 1.9 it fails with the models of transformers 5.
    from transformers import CLIPModel, CLIPProcessor

    try:
        return CLIPModel.from_pretrained(model).eval(), CLIPProcessor.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise MetricError(
            "the CLIP score needs a CLIP model",
            given=f"{model}: {type(error).__name__}",
            cure="Let transformers download it once, or give a folder with a CLIPModel and its processor.",
        ) from error
