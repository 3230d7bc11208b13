"""MeanCache: a skipped output is the last one and a correction by how the average velocity has changed.

Gao et al., "MeanCache: From Instantaneous to Average Velocity for Accelerating Flow Matching Inference", ICLR 2026,
arXiv 2601.19961; checked against https://github.com/UnicomAI/MeanCache at 2e12280. It holds the predictor and eleven
ready plans for 50 steps. How plans are made is in the paper alone, whose text could not be had: the costs, their power
of 4, and 50 prompts with five seeds are not checked. Preparing takes 250 full runs.

- What is predicted is the output of the whole denoiser, so that a skipped step runs nothing of it. Predicted outputs
  are among those that later ones are predicted from: ``MeanCache4Qwen-Image/Mc_qwenimage.py``.
- The correction: ``compute_current_jvp`` in the same file and in ``MeanCache4Z-Image/MC_zimage.py``, see `predicted`.
  Each gap of a plan has its own span, 1 to 6 steps back; 1 is plain reuse.
- Their plans compute the first and the last step and have no gap longer than 8 (``calc_dict``, ``edge_source``).

What was run side by side, theirs and this: the predictor, in a loop of 50 steps on a made-up velocity field, with all
eleven plans and four seeds: 1424 predictions, the same within 3e-5 of the largest.

Decided here:

- They predict what guidance has made of both branches. Here each branch is predicted by itself, which is the same where
  guidance is linear.
- They take the average velocity from the latents, this from the velocities: the same where steps are Euler's.
- Where so few steps are computed that a gap must be longer than 8, the limit is what must be.

Why it loses to plain reuse here: our FLUX, 15 of 30 steps, four held-out prompts, costs from ten runs. It has 46.6 dB,
*uniform cache* 49.6, fewer steps 49.7. The loss is the plan's: 0 to 7, 9, 11, 14, 17, 21, 26, 29. Costs compare
velocities whatever way a gap goes, and our last steps go eight times as far as the first. On evenly spaced steps,
reuse of the output has 51.1 dB and the correction with spans of 2 has 55.0. With costs times the way, the plan has 51.3
where the authors' has 48.1 (two prompts).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from math import ceil
from typing import Any

import numpy as np
import torch
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from torch import Tensor

from benchmarks.rivals.base import Calls, Knobs, Rival, Subject, replaced
from ertacache.files import kept
from ertacache.method.shortest_path import shortest_path
from ertacache.runtime.schedulers import sampler_of

CALIBRATION_PROMPTS = 50
SEEDS = 5
GAMMA = 4
"""The power of an edge's cost: the higher, the more a peak counts."""
SPANS = (1, 2, 3, 4, 5, 6)
"""How many steps back a correction may look; 1 is plain reuse."""
LONGEST_GAP = 8
"""From one computed step to the next, in steps."""


def average(velocities: Sequence[Tensor], levels: Sequence[float], start: int) -> Tensor:
    """The mean velocity since a step.

    Args:
        velocities: of each step so far, computed and predicted.
        levels: noise levels, one for each of these steps and the one after them.
        start: the step.
    """
    moved = torch.zeros_like(velocities[start])
    for step in range(start, len(velocities)):
        moved += (levels[step + 1] - levels[step]) * velocities[step]
    return moved / (levels[len(velocities)] - levels[start])


def predicted(velocities: Sequence[Tensor], levels: Sequence[float], span: int) -> Tensor:
    """The velocity of the next step (the paper's û).

    Args:
        velocities: of each step so far, computed and predicted, float32.
        levels: noise levels, up to the one after the next step.
        span: how many steps back the correction looks (the paper's K).
    """
    step = len(velocities)
    start = step - min(span, step)
    change = (average(velocities, levels, start) - velocities[start]) / (levels[step] - levels[start])
    return velocities[-1] + (levels[step + 1] - levels[step]) * change


def edge_costs(latents: Tensor, levels: Sequence[float], longest: int) -> np.ndarray:
    """How far the predicted average velocity of each edge is from the true one (the paper's L_K).

    Args:
        latents: (steps, elements), float32: what entered each step of a full run.
        levels: noise levels of these steps.
        longest: the greatest length of an edge.

    Returns:
        (spans, steps, steps + 1), float64, mean absolute errors; infinite where there is no edge, also to the end.
    """
    num_steps = len(latents)
    velocities = [(latents[i + 1] - latents[i]) / (levels[i + 1] - levels[i]) for i in range(num_steps - 1)]
    costs = np.full((len(SPANS), num_steps, num_steps + 1), np.inf)
    for i in range(num_steps - 1):
        for place, span in enumerate(SPANS):
            change = torch.zeros_like(latents[i])
            if i:
                start = i - min(span, i)
                back = levels[i] - levels[start]
                change = ((latents[i] - latents[start]) / back - velocities[start]) / back
            for j in range(i + 1, min(i + longest, num_steps - 1) + 1):
                ahead = levels[j] - levels[i]
                error = (latents[j] - latents[i]) / ahead - velocities[i] - ahead * change
                # Between neighbours nothing is skipped.
                costs[place, i, j] = error.abs().mean().item() if j > i + 1 else 0.0
    return costs


@dataclass(frozen=True)
class Plan:
    """What to compute, and how to predict the rest.

    Args:
        steps: the computed ones, rising, the first and the last among them.
        spans: of the corrections after each of them but the last.
    """

    steps: tuple[int, ...]
    spans: tuple[int, ...]

    def span_at(self, step: int) -> int:
        """The span at a skipped step."""
        return self.spans[sum(computed < step for computed in self.steps) - 1]


def planned(costs: np.ndarray, k: int) -> Plan:
    """The path with the smallest sum of powers of costs, and the span of each of its edges.

    Args:
        costs: see `edge_costs`.
        k: how many steps to compute, at least 2.
    """
    cached = shortest_path(costs.min(axis=0) ** GAMMA, k, (), minimax=False)
    steps = tuple(step for step in range(costs.shape[1]) if step not in cached)
    return Plan(steps, tuple(SPANS[int(np.argmin(costs[:, i, j]))] for i, j in pairwise(steps)))


def longest_gap(subject: Subject) -> int:
    """The greatest length of an edge, in steps."""
    return max(LONGEST_GAP, ceil((subject.num_steps - 1) / (min(subject.budgets) - 1)))


def calibrated(subject: Subject) -> np.ndarray:
    """The mean costs over prompts and seeds, made once and kept in the subject's folder."""
    prompts = subject.calibration_prompts[:CALIBRATION_PROMPTS]

    def measured() -> list[list[list[float]]]:
        found = []
        for seed in range(SEEDS * len(prompts)):
            latents, levels = watched(subject, prompts[seed % len(prompts)], seed)
            found.append(edge_costs(latents, levels, longest_gap(subject)))
        costs: list[list[list[float]]] = np.mean(found, axis=0).tolist()
        return costs

    return np.array(kept(subject.work / f"meancache-{len(prompts)}.json", measured))


def watched(subject: Subject, prompt: str, seed: int) -> tuple[Tensor, list[float]]:
    """A full run: what entered each step, (steps, elements), and the noise levels, steps + 1."""
    entered: list[Tensor] = []

    def keep(module: Any, args: Any, kwargs: Mapping[str, Any]) -> None:
        entered.append(kwargs["hidden_states"].float().cpu().flatten().clone())

    hook = subject.denoiser.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        generator = torch.Generator().manual_seed(seed)
        subject.pipe(prompt=prompt, generator=generator, output_type="latent", **subject.arguments)
    finally:
        hook.remove()
    scheduler = subject.pipe.scheduler
    return torch.stack(entered[:: subject.calls_per_step]), sampler_of(scheduler).noise_levels(scheduler)


@dataclass
class MeanCache:
    """The denoiser with its predictor, during one call of the pipeline.

    Args:
        plan: which steps run the denoiser.
        scheduler: whose noise levels are asked for at the first step.
        calls: says which step and branch a call belongs to.
        velocities: of each branch so far, computed and predicted ones.
    """

    plan: Plan
    scheduler: Any
    calls: Calls
    velocities: dict[int, list[Tensor]] = field(default_factory=dict)
    levels: list[float] = field(default_factory=list)

    def forward(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Stand in for the denoiser's own forward."""
        self.levels = self.levels or sampler_of(self.scheduler).noise_levels(self.scheduler)
        past = self.velocities.setdefault(self.calls.branch, [])
        if self.calls.step in self.plan.steps:
            output = original(*args, **kwargs)
            past.append(output[0].float())
            self.dtype = output[0].dtype
            return output
        past.append(predicted(past, self.levels, self.plan.span_at(self.calls.step)))
        made = past[-1].to(self.dtype)
        return Transformer2DModelOutput(sample=made) if kwargs.get("return_dict", True) else (made,)


@contextmanager
def attach(subject: Subject, knobs: Knobs, prepared: np.ndarray) -> Iterator[MeanCache]:
    """Skip steps during one call of the pipeline."""
    plan = planned(prepared, knobs["k"])
    cache = MeanCache(plan, subject.pipe.scheduler, Calls(subject.calls_per_step))
    with cache.calls.counted(subject.denoiser), replaced(subject.denoiser, cache.forward):
        yield cache


MEANCACHE = Rival(
    name="MeanCache",
    source="arXiv 2601.19961; UnicomAI/MeanCache at 2e12280; its plans from 250 full runs",
    knobs=lambda subject: [{"k": steps} for steps in subject.budgets],
    attach=attach,
    prepare=calibrated,
)
