"""One prompt of a FLUX-type pipeline: its full run, and the pictures of every schedule against it.

The denoiser is called with the arguments that the pipeline gave it in the full run, for many latents at once and both
guidance branches in one call. That this is what the pipeline does is checked: the tree's run with all steps computed
must end at the full run's latent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from benchmarks.golden.tree import REUSE, Computed, Fitting, Predictions, known, walk
from ertacache.evaluation.comparison import Variant, generate, started
from ertacache.metrics import psnr, ssim

BATCHED = ("hidden_states", "timestep", "pooled_projections", "encoder_hidden_states")
"""The denoiser's arguments that have the batch axis first."""
BATCH = 16
"""Latents in one denoiser call, or in one call of the decoder; more are no faster on a core."""
ROUNDING = 1e-4
"""How far the tree may be from the pipeline, relative to the latent's norm: batches round otherwise than one run."""


@dataclass(frozen=True)
class FullRun:
    """What is kept of a full run.

    Args:
        pipe: the pipeline.
        call: the arguments of the call, with ``seed`` in place of ``generator``.
        branches: the denoiser's arguments, one for each guidance branch.
        times: the denoiser's timestep at each step, (T,).
        lengths: by how much a unit of each step's output moves the latent.
        latents: the latent after each step, (1, tokens, channels), float32.
        pictures: (1, channels, height, width), float32 in 0 .. 1.
    """

    pipe: Any
    call: Mapping[str, Any]
    branches: tuple[Mapping[str, Any], ...]
    times: Tensor
    lengths: tuple[float, ...]
    latents: tuple[Tensor, ...]
    pictures: Tensor
    stacked: dict[str, Tensor] = field(init=False, default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for name in BATCHED:
            self.stacked[name] = torch.cat([branch[name] for branch in self.branches])

    @property
    def start(self) -> Tensor:
        """The first latent, (1, tokens, channels), float32."""
        first: Tensor = self.branches[0]["hidden_states"]
        return first

    @property
    def last(self) -> Tensor:
        """The last latent, (1, tokens, channels), float32."""
        return self.latents[-1]

    def denoised(self, step: int, latents: Tensor) -> Tensor:
        """What the denoiser gives at a step for latents (n, tokens, channels).

        Returns:
            (parts, n, tokens, channels): the model outputs after guidance and, with two branches, their contrasts.
        """
        return torch.cat([self._denoised(step, part) for part in torch.split(latents, BATCH)], dim=1)

    def _denoised(self, step: int, latents: Tensor) -> Tensor:
        size, number = len(latents), len(self.branches)
        batched = {name: value.repeat_interleave(size, dim=0) for name, value in self.stacked.items()}
        batched["hidden_states"] = latents.repeat(number, 1, 1)
        batched["timestep"] = self.times[step].expand(size * number)
        outputs = self.pipe.transformer(**{**self.branches[0], **batched})[0].chunk(number)
        if number == 1:
            return outputs[0][None]  # type: ignore[no-any-return]
        contrasts = outputs[0] - outputs[1]
        return torch.stack([outputs[1] + self.call["true_cfg_scale"] * contrasts, contrasts])

    def decoded(self, latents: Tensor) -> Tensor:
        """The pictures of latents (n, tokens, channels), as the pipeline decodes them: float32 in 0 .. 1."""
        pipe, config = self.pipe, self.pipe.vae.config
        pictures = []
        for part in torch.split(latents, BATCH):
            whole = pipe._unpack_latents(part, self.call["height"], self.call["width"], pipe.vae_scale_factor)
            output = pipe.vae.decode(whole / config.scaling_factor + config.shift_factor, return_dict=False)[0]
            pictures.append(pipe.image_processor.postprocess(output, output_type="pt").float().cpu())
        return torch.cat(pictures)


def full_run(pipe: Any, call: Mapping[str, Any], steps: int) -> FullRun:
    """Make the full run of a call.

    Args:
        pipe: a FLUX-type pipeline whose scheduler is flow matching's Euler.
        call: its arguments, with ``seed`` in place of ``generator``.
        steps: T.

    Raises:
        ValueError: if the tree's run with all steps computed is not the pipeline's.
    """
    calls: list[dict[str, Any]] = []
    hook = pipe.transformer.register_forward_pre_hook(
        lambda module, args, keywords: calls.append(keywords), with_kwargs=True
    )
    try:
        result = generate(pipe, Variant("full", steps), started(call), keep_latents=True)
    finally:
        hook.remove()
    branches = len(calls) // steps
    times = torch.cat([keywords["timestep"] for keywords in calls[::branches]])
    lengths = tuple(pipe.scheduler.sigmas.diff().tolist())
    run = FullRun(pipe, call, tuple(calls[:branches]), times, lengths, tuple(result.latents), result.pictures)
    (own,) = run_tree(run, steps, REUSE).values()
    far = apart(own[None], run.last)
    if not far < ROUNDING:
        raise ValueError(f"the full run is not the pipeline's: its last latent is off by {far:.1e}")
    return run


def apart(latent: Tensor, reference: Tensor) -> float:
    """How far a latent is from another of its shape, relative to the other's norm."""
    return float((latent - reference).norm() / reference.norm())


@torch.inference_mode()
def run_tree(run: FullRun, computed: int, predictions: Predictions) -> dict[Computed, Tensor]:
    """The last latent of every schedule, (tokens, channels), by its computed steps."""
    parts = 1 + any(prediction.contrast_factors for prediction in predictions.values())
    depth = max((len(prediction.factors) for prediction in predictions.values()), default=1)
    return walk(run.denoised, run.start, run.lengths, computed, known(predictions), depth=depth, parts=parts)


@torch.inference_mode()
def fitted_tree(runs: Sequence[FullRun], computed: int) -> tuple[Predictions, list[dict[Computed, Tensor]]]:
    """Fit the weights of every schedule in closed loops over some prompts; also returns their last latents."""

    def denoised(step: int, latents: Tensor) -> Tensor:
        return torch.stack([run.denoised(step, latents[:, k]) for k, run in enumerate(runs)], dim=2)

    start = torch.stack([run.start for run in runs], dim=1)
    goals = torch.stack([torch.cat(after) for after in zip(*(run.latents for run in runs), strict=True)])
    fitting = Fitting(runs[0].lengths, goals)
    ends = walk(denoised, start, runs[0].lengths, computed, fitting, parts=len(runs[0].branches))
    return fitting.found, [{key: end[k] for key, end in ends.items()} for k in range(len(runs))]


def figures(
    run: FullRun, ends: Mapping[Computed, Tensor], followed: Mapping[Computed, Variant]
) -> dict[str, list[float]]:
    """Compare the last latents of every schedule with the full run.

    Args:
        run: the full run.
        ends: the tree's last latents.
        followed: by computed steps, runs of the pipeline with a policy of that schedule and the tree's weights.

    Returns:
        PSNR in dB, SSIM and relative error of the last latent for every schedule, in lexicographic order; and how far
        the tree's last latents are from those of the pipeline with the policies.

    Raises:
        ValueError: if one of these is farther than rounding.
    """
    with torch.inference_mode():
        latents = torch.stack([ends[schedule] for schedule in sorted(ends)])
        found: dict[str, list[float]] = {
            "psnr": [],
            "ssim": [],
            "error": [apart(own[None], run.last) for own in latents],
        }
        for part in torch.split(latents, BATCH):
            for picture in run.decoded(part):
                found["psnr"].append(psnr(picture, run.pictures[0]))
                found["ssim"].append(ssim(picture, run.pictures[0]))
    runs = {key: generate(run.pipe, one, started(run.call), keep_latents=True) for key, one in followed.items()}
    found["apart"] = [apart(ends[key][None], result.latents[-1]) for key, result in runs.items()]
    if not max(found["apart"], default=0.0) < ROUNDING:
        raise ValueError(f"the tree is not the pipeline with a policy: latents are off by {found['apart']}")
    return found
