"""Figure 6: the cache error of one step, channel by channel, and how much of it a line in the cached output explains.

On full runs: what the residual of the last computed step would have been off by at a cached step in the middle of the
offline policy's schedule.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from benchmarks.paper.ablation import PARTS
from benchmarks.paper.pipelines import Opened
from benchmarks.paper.published import speedups
from ertacache.method.rectification import Moments, along, predicted_error
from ertacache.method.residual import from_cache, to_cache
from ertacache.policy import Policy
from ertacache.runtime.layout_tables import channel_axis

CHANNELS = 3


def run(opened: Opened) -> dict[str, Any]:
    """The maps of the first prompts, and two numbers over all prompts."""
    policy = opened.policies({"offline": PARTS["offline"]}, speedups(opened.family)[-1])["offline"]
    step, last = middle(policy)
    prompts = opened.embedded.held_out_prompts[: opened.counts.runs]
    reused, actual = [], []
    for number in track(range(len(prompts)), f"{opened.name}: full runs", console=opened.console, transient=True):
        tensors = opened.full_run(number)
        cache = to_cache(tensors[f"x{last}"].float(), tensors[f"v{last}"].float(), "output")
        reused.append(from_cache(tensors[f"x{step}"].float(), cache, "output"))
        actual.append(tensors[f"v{step}"].float())
    errors = [v_tilde - v for v_tilde, v in zip(reused, actual, strict=True)]
    axis = channel_axis([type(opened.subject.denoiser).__name__], errors[0].ndim)
    shown = [first_frame(opened, error)[:CHANNELS] for error in errors[: opened.counts.shown]]
    return {
        "step": step,
        "cached_at": last,
        "prompts_shown": prompts[: opened.counts.shown],
        "maps": [[[[round(float(x), 4) for x in row] for row in channel] for channel in one] for one in shown],
        "likeness": likeness(errors),
        "explained": explained(reused, actual, axis),
    }


def middle(policy: Policy) -> tuple[int, int]:
    """The cached step nearest to the middle, and the computed step whose residual it reuses."""
    step = min(policy.cached_steps, key=lambda i: abs(i - policy.num_inference_steps / 2))
    return step, max(i for i in policy.computed_steps if i < step)


def likeness(errors: Sequence[Tensor]) -> float:
    """The mean cosine between the errors of two prompts: 1 if all are alike up to their size, 0 if unrelated."""
    flat = [error.flatten().double() for error in errors]
    return float(np.mean([float(torch.cosine_similarity(a, b, dim=0)) for a, b in combinations(flat, 2)]))


def explained(reused: Sequence[Tensor], actual: Sequence[Tensor], axis: int) -> float:
    """Eqs. (15) to (21) fitted on half of the prompts: the share of the squared error removed on the other half."""
    half, moments = len(reused) // 2, Moments("channel", axis)
    for v_tilde, v in zip(reused[:half], actual[:half], strict=True):
        moments.add(v_tilde, v)
    left = whole = 0.0
    for v_tilde, v in zip(reused[half:], actual[half:], strict=True):
        error, wide = (v_tilde - v).double(), v_tilde.double()
        k, b = (along(parameter, wide.ndim, "channel", axis) for parameter in moments.solve())
        whole += float(error.square().sum())
        left += float((error - predicted_error(wide, k, b)).square().sum())
    return 1 - left / whole


def first_frame(opened: Opened, latents: Tensor) -> Tensor:
    """(channels, height, width) of the first frame of the first sample, whatever the pipeline's layout."""
    pipe, given = opened.embedded.pipe, opened.embedded.arguments
    if opened.family == "flux":  # tokens of 2 x 2 patches
        usual = pipe.default_sample_size * pipe.vae_scale_factor
        sides = given.get("height", usual), given.get("width", usual)
        unpacked: Tensor = pipe._unpack_latents(latents, *sides, pipe.vae_scale_factor)
        return unpacked.reshape(-1, *unpacked.shape[-2:])
    return latents[0, 0] if opened.family == "cogvideox" else latents[0, :, 0]
