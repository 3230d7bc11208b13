"""Opens what the experiments run on: a small pipeline, which brings its prompts, or published weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.paper.published import TITLES
from ertacache import zoo
from ertacache.errors import PipelineError

FAMILIES: Mapping[str, str] = {
    "FluxTransformer2DModel": "flux",
    "WanTransformer3DModel": "wan",
    "CogVideoXTransformer3DModel": "cogvideox",
    "STDiT3Transformer3DModel": "opensora",
}
"""For a denoiser's class, which of the paper's four backbones it is."""


def open_pipeline(
    model: str, *, prompts: Path | None, settings: Mapping[str, Any], device: str, dtype: str, calibration: int
) -> tuple[str, zoo.Embedded]:
    """One of the small pipelines, or one with published weights, and its name in file names.

    Args:
        model: ``zoo:flux``, or a folder or hub id of diffusers.
        prompts: for the latter, a text file with one prompt a line; the first half calibrates, the second is held out.
        settings: arguments of every call; ``num_inference_steps`` among them.
        device: where to run.
        dtype: of the weights.
        calibration: how many prompts calibrate at least.

    Raises:
        PipelineError: if prompts or the number of steps are missing.
    """
    kind: torch.dtype = getattr(torch, dtype)
    if model.startswith("zoo:"):
        embedded = zoo.load(model.removeprefix("zoo:"), dtype=kind, device=device)
        embedded.arguments.update(settings)
        return model.removeprefix("zoo:"), embedded
    lines = [line.strip() for line in prompts.read_text().splitlines() if line.strip()] if prompts else []
    if len(lines) < 2 * calibration or "num_inference_steps" not in settings:
        raise PipelineError(
            "a pipeline that brings no prompts needs them, and a number of steps",
            given=f"{len(lines)} prompts, {settings.get('num_inference_steps', 'no number of')} steps",
            cure=f"Pass --steps N, and --prompts FILE with {2 * calibration} prompts or more, one a line.",
        )
    with zoo.quiet():
        pipe = zoo.pipeline_class(model).from_pretrained(model, dtype=kind)
    pipe.set_progress_bar_config(disable=True)
    half = len(lines) // 2
    return Path(model).name, zoo.Embedded(pipe.to(device), dict(settings), lines[:half], lines[half:])


def family_of(pipe: Any) -> str:
    """Which of the paper's backbones a pipeline is.

    Raises:
        PipelineError: if it is none of them.
    """
    name = type(getattr(pipe, "transformer", None)).__name__
    if name not in FAMILIES:
        raise PipelineError(
            "the paper measures no pipeline of this kind",
            given=f"{type(pipe).__name__} with {name}",
            cure=f"Give one of: {'; '.join(TITLES.values())}.",
        )
    return FAMILIES[name]


def setting(text: str) -> tuple[str, Any]:
    """An argument of the pipeline call from ``NAME=VALUE``; a plain string need not be quoted."""
    name, _, value = text.partition("=")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
