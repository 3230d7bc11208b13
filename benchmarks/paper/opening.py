"""Opens what the experiments run on: a small pipeline, which brings its prompts, or published weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.paper.published import TITLES
from ertacache import zoo
from ertacache.cli import open_pipeline as opening
from ertacache.cli.model_source import ModelSource
from ertacache.cli.prompts_file import read_prompts
from ertacache.errors import PipelineError

FAMILIES: Mapping[str, str] = {
    "FluxTransformer2DModel": "flux",
    "WanTransformer3DModel": "wan",
    "CogVideoXTransformer3DModel": "cogvideox",
    "STDiT3Transformer3DModel": "opensora",
}
"""The paper's backbone for each class of denoiser."""


def open_pipeline(
    model: str,
    *,
    prompts: Path | None,
    settings: list[str] | None,
    steps: int | None,
    device: str,
    dtype: str,
    calibration: int,
) -> tuple[str, zoo.Embedded]:
    """One of the small pipelines, or one with published weights, and its name in file names.

    Args:
        model: ``zoo:flux``, or a folder or hub id of diffusers.
        prompts: for the latter, a text file with one prompt a line; the first half calibrates, the second is held out.
        settings: arguments of every call, each ``NAME=VALUE``.
        steps: ``num_inference_steps``; a small pipeline brings its own.
        device: where to run.
        dtype: of the weights.
        calibration: how many prompts calibrate at least.

    Raises:
        PipelineError: if there are too few prompts.
        ArgumentError: if prompts are missing, or the model cannot be loaded.
    """
    lines = read_prompts(prompts, model)
    opened = opening.open_pipeline(ModelSource(model, device, dtype), settings, steps)
    if opened.embedded:
        return model.removeprefix("zoo:"), replace(opened.embedded, arguments=opened.arguments)
    if len(lines) < 2 * calibration:
        raise PipelineError(
            "a pipeline that brings no prompts needs more of them",
            given=f"{len(lines)} prompts",
            cure=f"Pass --prompts FILE with {2 * calibration} prompts or more, one a line.",
        )
    half = len(lines) // 2
    return Path(model).name, zoo.Embedded(opened.pipe, opened.arguments, lines[:half], lines[half:])


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
