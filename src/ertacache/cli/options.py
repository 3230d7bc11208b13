"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ertacache.errors import ArgumentError

# Written out here, because importing them from where they are defined would import torch; a test compares.
MODELS = "emoji, flux, wan, cogvideox, opensora, wan22, ltx2"
METHODS = "uniform, offline, offline+time, paper, reuse, taylor, aligned"


def _seed(value: int) -> int:
    """Refuse seeds that torch's generators do not take; leave room for those of the prompts that follow."""
    if abs(value) >= 1 << 62:
        raise ArgumentError("the seed is too large", given=value, cure="Give one of up to 18 digits.")
    return value


Model = Annotated[
    str, typer.Argument(help="A diffusers folder, a Hub id, or a small pipeline: zoo:emoji, zoo:wan, ...")
]
PolicyName = Annotated[str, typer.Argument(help="A policy file, or a Hub id: you/name.")]
Prompts = Annotated[
    Path | None,
    typer.Option(
        help="A text file with one prompt per line; or .jsonl, with an object per line, such as "
        '{"prompt": "a red star", "image": "star.png"}. The small pipelines have their own prompts.'
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="NAME=VALUE", help="An argument of the pipeline call, e.g. true_cfg_scale=4. Repeatable."
    ),
]
Loras = Annotated[
    list[str] | None,
    typer.Option(
        "--lora",
        metavar="PATH_OR_REPO[:SCALE]",
        help="A LoRA to load: a file, a folder or a Hub id, and its strength, by default 1. Repeatable.",
    ),
]
AnyLora = Annotated[
    bool,
    typer.Option("--any-lora", help="Follow policies with other LoRAs than they were calibrated with, at some loss."),
]
InputImage = Annotated[
    Path | None,
    typer.Option(
        "--image",
        help="A picture to begin with: image-to-image, editing, image-to-video. One for all prompts; with JSON lines, "
        "each prompt can have its own.",
    ),
]
Device = Annotated[str, typer.Option(help="Where to run: cpu, cuda, cuda:1, mps. auto: the GPU if there is one.")]
Dtype = Annotated[
    str,
    typer.Option(
        help="Precision of the weights: float32, bfloat16, float16. auto: half precision on a GPU, float32 on a CPU."
    ),
]
Offload = Annotated[
    bool,
    typer.Option(
        "--offload",
        help="Keep the model in main memory, and each part on the device only while it runs: for models that the "
        "device has no room for, such as FLUX on 24 GB. Slower.",
    ),
]
Seed = Annotated[int, typer.Option(callback=_seed, help="Seed of the first prompt; each further prompt adds 1.")]
Method = Annotated[
    str,
    typer.Option(
        help="How skipped steps are predicted. aligned: by weights fitted on the prompts, nearest to the full run. "
        "taylor: extrapolated. reuse: the last output again. Others, to compare with: uniform (reuse, every second "
        f"step, say), and the published ERTACache (paper) with its parts. One of {METHODS}."
    ),
]
PolicyOut = Annotated[Path, typer.Option(help="The policy file to write.")]
Steps = Annotated[
    int | None, typer.Option(min=1, help="num_inference_steps. Default: the policy's, or else the pipeline's own.")
]
FPS = Annotated[int, typer.Option(min=1, help="Frames per second of clips.")]

Speedup = Annotated[
    float | None,
    typer.Option(help="Goal: so many times fewer computed steps; 2 runs the denoiser at half of them."),
]
ComputedSteps = Annotated[int | None, typer.Option(help="Goal: run the denoiser at no more than so many steps.")]
Seconds = Annotated[
    float | None, typer.Option(help="Goal: the longest time of one call, in seconds, on the machine that calibrates.")
]
MinPSNR = Annotated[
    float | None, typer.Option(help="Goal: mean PSNR against full runs, in dB, reached with 95 % confidence; 40, say.")
]
MinSSIM = Annotated[
    float | None, typer.Option(help="Goal: mean SSIM against full runs, below 1, reached with 95 % confidence.")
]
MinSound = Annotated[
    float | None,
    typer.Option(help="Goal: mean signal-to-error ratio of the sound, in dB, reached with 95 % confidence."),
]
