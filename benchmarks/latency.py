"""Time and memory at full size: the paper's Table 4, for the rivals too.

    python -m benchmarks.latency                  # on a GPU the published sizes, elsewhere scaled down, and it says so
    python -m benchmarks.latency flux --size small

The four backbones with random weights, which cost as much time and memory as trained ones and say nothing about
quality: none is reported. What a cache decides would be chance too, so each is set to skip every other step after the
first where it has a knob for that, and its speedup is held against the operations that it really saved.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer
from diffusers import (
    AutoencoderKL,
    AutoencoderKLCogVideoX,
    AutoencoderKLWan,
    CogVideoXDDIMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.keys import environment
from benchmarks.rivals.base import Subject
from benchmarks.rivals.cache_dit import DB_CACHE
from benchmarks.rivals.diffusers_caches import FIRST_BLOCK_CACHE, MAG_CACHE
from benchmarks.rivals.teacache import TEACACHE
from ertacache import Policy, accelerated, calibrate
from ertacache.evaluation.cost import counting_flops, watching_memory
from ertacache.files import written_whole
from ertacache.opensora import (
    AutoencoderOpenSora,
    OpenSoraPipeline,
    OpenSoraRectifiedFlowScheduler,
    STDiT3Transformer3DModel,
)
from ertacache.policy.drift_envelope import Envelope

Size = Mapping[str, Any]
OURS = (("offline+time", 2.0), ("paper", 2.0), ("aligned", 2.0), ("aligned", 3.0))
"""Methods, and the step ratios at which they are timed; the first two are the rows of Table 4."""


@dataclass(frozen=True)
class Backbone:
    """One of the paper's four.

    Args:
        title: what it is, at full size.
        build: a pipeline with random weights, and the arguments of its calls, embeddings included.
        calls_per_step: denoiser calls in a step.
        full: what ``build`` takes for the published size.
        small: the same scaled down.
    """

    title: str
    build: Callable[..., tuple[Any, dict[str, Any]]]
    calls_per_step: int
    full: Size
    small: Size


def _noise(*shape: int) -> Tensor:
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(0), device="cpu")  # alike on every device
    return drawn.to(torch.get_default_device(), torch.get_default_dtype())


def _flux(layers: tuple[int, int], heads: int, width: int, text: int, tokens: int, side: int) -> Any:
    axes = {128: (16, 56, 56), 32: (8, 12, 12)}[width]
    transformer = FluxTransformer2DModel(
        num_layers=layers[0],
        num_single_layers=layers[1],
        num_attention_heads=heads,
        attention_head_dim=width,
        joint_attention_dim=text,
        pooled_projection_dim=768,
        guidance_embeds=True,
        axes_dims_rope=axes,
    )
    vae = AutoencoderKL(latent_channels=16, block_out_channels=(4,) * 4, norm_num_groups=1, **_FOUR_LEVELS)
    parts = dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    pipe = FluxPipeline(vae=vae, transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), **parts)
    embeds = {"prompt_embeds": _noise(1, tokens, text), "pooled_prompt_embeds": _noise(1, 768)}
    return pipe, {"height": side, "width": side, "guidance_scale": 3.5, **embeds}


_FOUR_LEVELS = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}


def _wan(layers: int, heads: int, inner: int, text: int, height: int, width: int, frames: int) -> Any:
    transformer = WanTransformer3DModel(
        num_attention_heads=heads, attention_head_dim=128, text_dim=text, ffn_dim=inner, num_layers=layers
    )
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    vae = AutoencoderKLWan(base_dim=4, num_res_blocks=1)
    pipe = WanPipeline(vae=vae, transformer=transformer, scheduler=scheduler, tokenizer=None, text_encoder=None)
    embeds = {"prompt_embeds": _noise(1, 512, text), "negative_prompt_embeds": _noise(1, 512, text)}
    return pipe, {"height": height, "width": width, "num_frames": frames, "guidance_scale": 5.0, **embeds}


def _cogvideox(layers: int, heads: int, text: int, height: int, width: int, frames: int) -> Any:
    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=heads,
        num_layers=layers,
        text_embed_dim=text,
        sample_height=height // 8,
        sample_width=width // 8,
        sample_frames=frames,
    )
    vae = AutoencoderKLCogVideoX(block_out_channels=(4,) * 4, norm_num_groups=1, layers_per_block=1)
    scheduler = CogVideoXDDIMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True)
    pipe = CogVideoXPipeline(vae=vae, transformer=transformer, scheduler=scheduler, tokenizer=None, text_encoder=None)
    embeds = {"prompt_embeds": _noise(1, 226, text), "negative_prompt_embeds": _noise(1, 226, text)}
    return pipe, {"height": height, "width": width, "num_frames": frames, "guidance_scale": 6.0, **embeds}


def _opensora(layers: int, heads: int, text: int, height: int, width: int, frames: int) -> Any:
    transformer = STDiT3Transformer3DModel(num_layers=layers, num_attention_heads=heads, caption_channels=text)
    vae = AutoencoderOpenSora(
        spatial_channels=(8,) * 4,
        spatial_norm_groups=1,
        temporal_channels=(8,) * 3,
        temporal_halves=(True, True),
        temporal_norm_groups=1,
    )
    pipe = OpenSoraPipeline(
        vae=vae,
        transformer=transformer,
        scheduler=OpenSoraRectifiedFlowScheduler(),
        tokenizer=None,
        text_encoder=None,
    )
    mask = torch.ones(1, 300)
    embeds = {
        "prompt_embeds": _noise(1, 300, text),
        "negative_prompt_embeds": _noise(1, 300, text),
        "prompt_attention_mask": mask,
        "negative_prompt_attention_mask": mask,
    }
    return pipe, {"height": height, "width": width, "num_frames": frames, "guidance_scale": 7.0, **embeds}


BACKBONES: dict[str, Backbone] = {
    "flux": Backbone(
        "FLUX-dev 1.0, 12B, 1024 x 1024",
        _flux,
        1,
        {"layers": (19, 38), "heads": 24, "width": 128, "text": 4096, "tokens": 512, "side": 1024},
        {"layers": (2, 4), "heads": 8, "width": 32, "text": 64, "tokens": 32, "side": 256},
    ),
    "wan": Backbone(
        "Wan2.1-1.3B, 81 frames of 832 x 480",
        _wan,
        2,
        {"layers": 30, "heads": 12, "inner": 8960, "text": 4096, "height": 480, "width": 832, "frames": 81},
        {"layers": 6, "heads": 2, "inner": 1024, "text": 64, "height": 96, "width": 128, "frames": 9},
    ),
    "cogvideox": Backbone(
        "CogVideoX-2b, 49 frames of 720 x 480",
        _cogvideox,
        1,
        {"layers": 30, "heads": 30, "text": 4096, "height": 480, "width": 720, "frames": 49},
        {"layers": 6, "heads": 4, "text": 64, "height": 96, "width": 128, "frames": 9},
    ),
    "opensora": Backbone(
        "Open-Sora 1.2, 51 frames of 854 x 480",
        _opensora,
        1,
        {"layers": 28, "heads": 16, "text": 4096, "height": 480, "width": 854, "frames": 51},
        {"layers": 4, "heads": 4, "text": 64, "height": 96, "width": 128, "frames": 17},
    ),
}


@dataclass(frozen=True)
class Figures:
    """One row.

    Args:
        name: of the cache.
        seconds: of denoising, the median of the repeats.
        speedup: against the baseline.
        operations: of the baseline over this one's.
        peak_bytes: memory at the call's peak, above the baseline's.
    """

    name: str
    seconds: float
    speedup: float
    operations: float
    peak_bytes: int

    @property
    def efficiency(self) -> float:
        """How much of the saved operations is saved time; 1 is all."""
        return self.speedup / self.operations


def caches(subject: Subject) -> dict[str, Callable[[], AbstractContextManager[Any]]]:
    """What is compared, each ready to be entered; ours is calibrated here."""

    def every_other(rival: Any, prepared: Any = None, **knobs: Any) -> Callable[[], AbstractContextManager[Any]]:
        return lambda: rival.attach(subject, knobs, prepared)

    one_in_two = {"rel_l1_thresh": 1.5}  # each step adds 1
    unchanging = [1.0] * subject.num_steps
    found: dict[str, Callable[[], AbstractContextManager[Any]]] = {
        "TeaCache": every_other(TEACACHE, [0.0, 0.0, 0.0, 0.0, 1.0], **one_in_two),
        # It has no knob for how many steps in a row: all but the first few are skipped.
        "FirstBlockCache": every_other(FIRST_BLOCK_CACHE, threshold=1e9),
        "MagCache": every_other(MAG_CACHE, unchanging, threshold=1.0, max_skip_steps=1, retention_ratio=0.0),
    }
    if not DB_CACHE.refuses(subject):
        knobs = {"residual_diff_threshold": 1e9, "max_warmup_steps": 1, "max_continuous_cached_steps": 1}
        found["cache-dit, DBCache"] = every_other(DB_CACHE, **knobs)
    for method, speedup in OURS:
        arguments = {**subject.arguments, "output_type": "latent"}
        policy = calibrate(subject.pipe, [{}], method=method, speedup=speedup, full_runs=2, **arguments)
        found[f"ERTACache, {method}, {speedup:g}x"] = partial(accelerated, subject.pipe, policy)
        if (method, speedup) == ("aligned", 2.0):
            found["the same, guarded"] = partial(accelerated, subject.pipe, watched(policy), guard="report")
    return found


def watched(policy: Policy) -> Policy:
    """A policy with an envelope for a guard, which takes as long whatever the envelope says."""
    corrected = tuple(step for step in policy.predictions if step not in policy.cached_steps)
    steps = corrected or policy.computed_steps[1:]
    count = len(steps)
    return replace(policy, envelope=Envelope(steps, steps[0], (0.0,) * count, (1.0,) * count, 1.0))


def measured(subject: Subject, repeats: int) -> list[Figures]:
    """The baseline and each cache, by turns, so that what slows the machine slows all of them."""
    pipe, device = subject.pipe, subject.pipe.device

    def seconds(around: Callable[[], AbstractContextManager[Any]]) -> float:
        with around():
            start = _now(device)
            pipe(**subject.arguments, output_type="latent", generator=torch.Generator().manual_seed(0))
            return _now(device) - start

    ways = {"baseline": nullcontext, **caches(subject)}
    costs = {}
    for name, around in ways.items():
        with counting_flops(pipe) as counted, watching_memory(device) as memory:
            seconds(around)  # the warm-up too: full-size clips take a minute a call
        costs[name] = counted.flops, memory.peak_bytes
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, around in ways.items():
            times[name].append(seconds(around))
    flops, peak = costs["baseline"]
    plain = median(times["baseline"])
    return [
        Figures(name, t := median(times[name]), plain / t, flops / costs[name][0], costs[name][1] - peak)
        for name in ways
    ]


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def table_of(title: str, rows: list[Figures]) -> Table:
    """For the terminal."""
    table = Table("", title=title)
    for name in ("denoising", "speedup", "operations", "speedup / operations", "extra memory"):
        table.add_column(name, justify="right")
    for row in rows:
        cells = f"{row.seconds:.2f} s", f"{row.speedup:.2f}x", f"{row.operations:.2f}x", f"{row.efficiency:.3f}"
        table.add_row(row.name, *cells, f"{row.peak_bytes / 1e6:+.1f} MB")
    return table


def main(
    models: Annotated[list[str] | None, typer.Argument(help=f"of {', '.join(BACKBONES)}; by default all")] = None,
    size: Annotated[str, typer.Option(help="full or small; by default full on a GPU, else small")] = "",
    steps: Annotated[int, typer.Option(help="num_inference_steps")] = 30,
    repeats: Annotated[int, typer.Option(help="timed calls of each, after the warm-up")] = 3,
    out: Annotated[Path, typer.Option(help="the folder for the figures, as JSON")] = Path("benchmarks/results"),
) -> None:
    """Time the caches on the four backbones with random weights."""
    console = Console()
    gpu = torch.cuda.is_available()
    size = size or ("full" if gpu else "small")
    device, dtype = ("cuda", torch.bfloat16) if gpu else ("cpu", torch.float32)
    machine = torch.cuda.get_device_name() if gpu else f"{platform.machine()}, {torch.get_num_threads()} thread(s)"
    for model in models or BACKBONES:
        backbone = BACKBONES[model]
        torch.manual_seed(0)
        torch.set_default_dtype(dtype)
        with torch.device(device):
            pipe, arguments = backbone.build(**getattr(backbone, size))
        torch.set_default_dtype(torch.float32)
        pipe.set_progress_bar_config(disable=True)
        arguments["num_inference_steps"] = steps
        subject = Subject(model, pipe, arguments, [], backbone.calls_per_step, out)
        rows = measured(subject, repeats)
        scaled = "" if size == "full" else ", scaled down"
        console.print(table_of(f"{backbone.title}{scaled}: {steps} steps, random weights, {machine}", rows))
        result = {
            **environment(),
            "model": backbone.title,
            "size": {"name": size, **getattr(backbone, size)},
            "machine": machine,
            "dtype": str(dtype),
            "steps": steps,
            "rows": [asdict(row) for row in rows],
        }
        with written_whole(out / f"latency-{size}-{model}.json") as unfinished:
            Path(unfinished).write_text(json.dumps(result, indent=1) + "\n")
        del pipe, subject
        if gpu:
            torch.cuda.empty_cache()


if __name__ == "__main__":
    typer.run(main)
