"""What a step costs with a ControlNet and without one, computed and cached.

    python -m benchmarks.controlnet

A FLUX-type denoiser of 60 million parameters and a ControlNet of half its depth, random weights, 256 x 256 pixels:
times only. Each step is timed by the call's own callback; both pipelines run by turns.
"""

from __future__ import annotations

import time
from itertools import pairwise
from statistics import median
from typing import Any

import diffusers as d
import torch
import typer
from rich.console import Console
from rich.table import Table

import ertacache
from ertacache import Method, Policy

STEPS = 12
CONFIG = {
    "in_channels": 64,
    "num_layers": 4,
    "num_single_layers": 8,
    "attention_head_dim": 64,
    "num_attention_heads": 8,
    "joint_attention_dim": 256,
    "pooled_projection_dim": 128,
    "axes_dims_rope": (16, 24, 24),
}
CONTROL = {**CONFIG, "num_layers": 2, "num_single_layers": 4}


def pipelines() -> dict[str, Any]:
    """Both pipelines, of one denoiser."""
    torch.manual_seed(0)
    vae = d.AutoencoderKL(
        latent_channels=16,
        block_out_channels=(8, 8, 8, 8),
        norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        shift_factor=0.0,
    )
    parts = {
        "scheduler": d.FlowMatchEulerDiscreteScheduler(shift=3.0),
        "vae": vae,
        "transformer": d.FluxTransformer2DModel(**CONFIG),
        **dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")),
    }
    controlled = d.FluxControlNetPipeline(**parts, controlnet=d.FluxControlNetModel(**CONTROL))
    found = {"with a ControlNet": controlled, "without": d.FluxPipeline(**parts)}
    for pipe in found.values():
        pipe.set_progress_bar_config(disable=True)
    return found


def step_seconds(pipe: Any, policy: Policy) -> dict[str, list[float]]:
    """The seconds of each step of one call, by whether it was computed; the first one warms up."""
    ends: list[float] = []

    def ended(pipe: Any, index: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        ends.append(time.perf_counter())
        return values

    call: dict[str, Any] = {
        "prompt_embeds": torch.randn(1, 64, 256),
        "pooled_prompt_embeds": torch.randn(1, 128),
        "height": 256,
        "width": 256,
        "output_type": "latent",
        "callback_on_step_end": ended,
        "num_inference_steps": STEPS,
    }
    if hasattr(pipe, "controlnet"):
        call["control_image"] = torch.rand(1, 3, 256, 256)
    with ertacache.accelerated(pipe, policy):
        pipe(**call)
    steps = [(k + 1, after - before) for k, (before, after) in enumerate(pairwise(ends))]
    cached = set(policy.cached_steps)
    return {
        "computed": [seconds for k, seconds in steps if k not in cached],
        "cached": [seconds for k, seconds in steps if k in cached],
    }


def main(repeats: int = 5) -> None:
    """Print milliseconds by pipeline and kind of step, medians."""
    torch.set_num_threads(1)
    policy = Policy(STEPS, tuple(range(1, STEPS - 1, 2)), Method.named("taylor"))
    found: dict[str, dict[str, list[float]]] = {}
    for _ in range(repeats):
        for name, pipe in pipelines().items():
            with torch.inference_mode():
                for kind, seconds in step_seconds(pipe, policy).items():
                    found.setdefault(name, {}).setdefault(kind, []).extend(seconds)
    table = Table("", "computed step, ms", "cached step, ms")
    for name, kinds in found.items():
        table.add_row(name, f"{median(kinds['computed']) * 1e3:.1f}", f"{median(kinds['cached']) * 1e3:.2f}")
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
