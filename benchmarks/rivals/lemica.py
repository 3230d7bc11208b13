"""LeMiCa: the steps to compute are a path on which the worst segment of reuse harms the final latents least.

Gao et al., "LeMiCa: Lexicographic Minimax Path Caching for Efficient Diffusion-Based Video Generation", NeurIPS 2025,
arXiv 2511.00090; checked against https://github.com/UnicomAI/LeMiCa at 498c89b. It holds the cache and 29 ready lists
of steps. How lists are found is on https://unicomai.github.io/LeMiCa and in the paper, whose text could not be had: the
number of samples, 5, is not checked. Preparing takes 387 full runs of 30 steps: for each sample the full run and 175
segments, of which only what comes after the skipped steps is computed.

- The cache: ``LeMiCa4FLUX/inference_flux1.py``. At a skipped step the change by all blocks at the last computed step is
  added. Each guidance branch has its own, as in ``LeMiCa4Wan2.1/inference_wan.py``.
- The costs: the page. A segment's cost is the mean magnitude of what reuse in it alone does to the end of the run.
- The path: the page. Of two paths the better one has the smaller worst segment, then the smaller second worst.
- Their lists begin with the first step, end with the last, and have no gap longer than 7, but for HunyuanVideo-1.5's 8.

What was run side by side, theirs and this: the whole forward, in our FLUX without guidance, twelve runs with 6 to 20 of
30 steps computed: latents bit for bit the same. Their search is not public. This one, with all paths through 240
made-up graphs of 11 steps: all plans the same.

Decided here:

- Costs are taken on latents, before the decoder.
- Where so few steps are computed that a gap must be longer than 7, the limit is what must be.

Why it loses to plain reuse here: our FLUX, 15 of 30 steps, four held-out prompts, costs from one sample. It has 48.5
dB, the same reuse on evenly spaced steps 49.9, *uniform cache* 49.6, fewer steps 49.7. On the sample itself its latents
are nearer by the mean magnitude of errors, 0.0133 against 0.0168, and its picture is not, 51.2 dB against 51.6. The
smallest sum of costs, or of their squares, gives the same steps.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
import torch
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from torch import Tensor

from benchmarks.rivals.base import Calls, Knobs, Rival, Span, Subject, ordered_blocks, replaced
from ertacache.files import kept
from ertacache.method.shortest_path import shortest_path

SAMPLES = 5
LONGEST_GAP = 7
"""From one computed step to the next, in steps."""


@dataclass(frozen=True)
class Run:
    """A full run.

    Args:
        prompt: its prompt.
        seed: of its noise.
        outputs: what each call of the denoiser returned.
        changes: what each call's blocks changed, as `Span` keeps it.
        latents: at the end.
    """

    prompt: str
    seed: int
    outputs: Sequence[Tensor]
    changes: Sequence[dict[str, Tensor]]
    latents: Tensor


@contextmanager
def reusing(subject: Subject, computed_steps: Collection[int]) -> Iterator[Span]:
    """Run no block at the other steps of one call of the pipeline; the change at the last computed step is added.

    Args:
        subject: the pipeline.
        computed_steps: those that run all blocks, the first one among them.

    Yields:
        All blocks as one span.
    """
    calls = Calls(subject.calls_per_step)
    span = Span(ordered_blocks(subject.denoiser), calls, skip=lambda given: calls.step not in computed_steps)
    with calls.counted(subject.denoiser), span.attached():
        yield span


def generated(subject: Subject, prompt: str, seed: int) -> Tensor:
    """The final latents of one call."""
    generator = torch.Generator().manual_seed(seed)
    made = subject.pipe(prompt=prompt, generator=generator, output_type="latent", **subject.arguments)
    latents: Tensor = made[0]
    return latents


def full_run(subject: Subject, prompt: str, seed: int) -> Run:
    """Make and keep a full run."""
    outputs: list[Tensor] = []
    changes: list[dict[str, Tensor]] = []
    with reusing(subject, range(subject.num_steps)) as span:

        def keep(module: Any, args: Any, output: Any) -> None:
            outputs.append(output[0].clone())
            changes.append(span.changes[span.calls.branch])

        hook = subject.denoiser.register_forward_hook(keep)
        try:
            latents = generated(subject, prompt, seed)
        finally:
            hook.remove()
    return Run(prompt, seed, outputs, changes, latents)


def rerun(subject: Subject, run: Run, computed_steps: Collection[int]) -> Tensor:
    """The final latents of the same call with reuse, without computing again what both runs share.

    Args:
        subject: the pipeline.
        run: the full run.
        computed_steps: those that run all blocks, the first one among them.
    """
    shared = next((step for step in range(subject.num_steps) if step not in computed_steps), subject.num_steps)
    with reusing(subject, computed_steps) as span:

        def forward(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            calls = span.calls
            if calls.step >= shared:
                return original(*args, **kwargs)
            span.changes[calls.branch] = run.changes[calls.made]
            output = run.outputs[calls.made].clone()
            return Transformer2DModelOutput(sample=output) if kwargs.get("return_dict", True) else (output,)

        with replaced(subject.denoiser, forward):
            return generated(subject, run.prompt, run.seed)


def longest_gap(subject: Subject) -> int:
    """The greatest length of an edge, in steps."""
    return max(LONGEST_GAP, ceil((subject.num_steps - 1) / (min(subject.budgets) - 1)))


def edge_costs(subject: Subject, run: Run) -> np.ndarray:
    """What each segment of reuse does to the final latents.

    Args:
        subject: the pipeline.
        run: a full run.

    Returns:
        (steps, steps + 1), float64, as `ertacache.method.shortest_path.edges` returns it, but for the last column: a
        path ends at the last step. Infinite where there is no edge.
    """
    num_steps = subject.num_steps
    costs = np.full((num_steps, num_steps + 1), np.inf)
    for i in range(num_steps - 1):
        costs[i, i + 1] = 0.0
        for j in range(i + 2, min(i + longest_gap(subject), num_steps - 1) + 1):
            reused = range(i + 1, j)
            latents = rerun(subject, run, [step for step in range(num_steps) if step not in reused])
            costs[i, j] = (latents - run.latents).abs().mean().item()
    return costs


def calibrated(subject: Subject) -> np.ndarray:
    """The mean of the edges' costs over samples, made once and kept in the subject's folder."""
    prompts = subject.calibration_prompts[:SAMPLES]

    def measured() -> list[list[float]]:
        runs = (full_run(subject, prompt, seed) for seed, prompt in enumerate(prompts))
        costs: list[list[float]] = np.mean([edge_costs(subject, run) for run in runs], axis=0).tolist()
        return costs

    return np.array(kept(subject.work / f"lemica-{len(prompts)}.json", measured))


def planned(costs: np.ndarray, k: int) -> tuple[int, ...]:
    """The k steps to compute, rising."""
    cached = shortest_path(costs, k, (), minimax=True)
    return tuple(step for step in range(len(costs)) if step not in cached)


@contextmanager
def attach(subject: Subject, knobs: Knobs, prepared: np.ndarray) -> Iterator[Span]:
    """Skip steps during one call of the pipeline."""
    with reusing(subject, planned(prepared, knobs["k"])) as span:
        yield span


LEMICA = Rival(
    name="LeMiCa",
    source="arXiv 2511.00090; UnicomAI/LeMiCa at 498c89b; its costs from 387 full runs",
    knobs=lambda subject: [{"k": steps} for steps in subject.budgets],
    attach=attach,
    prepare=calibrated,
)
