"""SenCache: skip while the output is expected to have moved little, by its sensitivity to latents and timestep.

Haghighi and Alahi, "SenCache: Accelerating Diffusion Model Inference via Sensitivity-Aware Caching", CVPR 2026, arXiv
2602.24208; checked against https://github.com/vita-epfl/SenCache at 4bf419b. Preparing takes 16 full runs where
guidance calls twice and 24 where one call holds both halves. The paper's text could not be had, only notes on it: 8
videos are enough, where their scripts measure 2048.

- The rule: ``Wan2.1/sencache.py``, ``CogVideoX/sencache.py``. The conditional call decides for both, and all blocks are
  skipped. The first fifth of the steps has its own tolerance.
- Tolerances are of one element's root mean square: their ``SCALING_FACTOR`` is the root of the number of elements.
- Sensitivities: ``Wan2.1/sensitivity_calculation.py``. Change of the output over that of the latents in one step of the
  sampler, and over that of the timestep. Both are those of the last computed step.

What was run side by side, theirs and this: the rule on made-up latents, 1080 runs of 8, 30 and 50 steps: all 31680
decisions the same, 13659 of them to skip. Both measures, at 29 steps of our FLUX without guidance: the same within
2e-7.

Decided here:

- They measure on videos of a data set with noise added, and take the sampler's step without guidance. Here both are
  measured on the way of a full run.
- The first and the last step are computed, as in their CogVideoX; their Wan may skip the last.
- Where one call holds both halves of guidance, both count; theirs looks at the first.
- Their tolerances differ by model: 0.005 and 0.07 by default, 0.01 and 0.7 for LTX-Video, 0.045 and 2 in the command
  for Wan. Here the second is swept, and the first is 0.01, or the same as the second.

Why it loses to plain reuse here: our FLUX, 15 of 30 steps, four held-out prompts, two calibration prompts. It has 44.0
dB, *uniform cache* 49.6, fewer steps 49.7. The early tolerance computes all of the first six steps. With one tolerance
for all steps it has 47.9 dB, at 14 or 15 steps, which is why that is tried too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.rivals.base import Calls, Knobs, Rival, Span, Subject, ordered_blocks, replaced

CALIBRATION_PROMPTS = 8
EARLY = 0.2
"""The share of steps, from the first, that have a tolerance of their own."""


@dataclass(frozen=True)
class Sensitivity:
    """How far the output moves, at each step but the last.

    Args:
        latents: norm of its change over that of a change of the latents.
        timestep: norm of its change over a change of the timestep, in the denoiser's units.
    """

    latents: Sequence[float]
    timestep: Sequence[float]


@dataclass
class Rule:
    """Decides for a whole step, from what enters its deciding call.

    Args:
        sensitivity: by step.
        thresh_main: how far an element of the output may have moved, as a root mean square (the paper's ε).
        thresh_start: the same for the early steps.
        early: how many these are.
        most: how many consecutive steps may be skipped (the paper's n).
        last_step: which is always computed.
        skipped: consecutive steps so far.
        reference: number, latents and timestep of the last computed step.
    """

    sensitivity: Sensitivity
    thresh_main: float
    thresh_start: float
    early: int
    most: int
    last_step: int
    skipped: int = 0
    reference: tuple[int, Tensor, float] | None = None

    def skips(self, step: int, latents: Tensor, timestep: float) -> bool:
        """Whether to skip a step; if not, it becomes the reference."""
        if self.reference is not None and step < self.last_step and self.skipped < self.most:
            at, then, earlier = self.reference
            expected = self.sensitivity.latents[at] * (latents - then).norm().item()
            expected += self.sensitivity.timestep[at] * abs(timestep - earlier)
            thresh = self.thresh_start if step < self.early else self.thresh_main
            if expected < thresh * sqrt(latents.numel()):
                self.skipped += 1
                return True
        self.skipped, self.reference = 0, (step, latents, timestep)
        return False


def timestep_of(kwargs: Mapping[str, Any]) -> float:
    """The timestep that a call of the denoiser is given, in its units."""
    return float(kwargs["timestep"].flatten()[0])


def measured(subject: Subject, prompt: str, seed: int) -> tuple[list[float], list[float]]:
    """One prompt's sensitivities to latents and timestep, at each step but the last, in a full run.

    The latents of the next step go in with the timestep of this one, and the timestep of the next step with the
    latents of this one.
    """
    calls = Calls(subject.calls_per_step)
    by_latents: list[float] = []
    by_timestep: list[float] = []
    earlier: tuple[Tensor, Mapping[str, Any], Tensor] | None = None

    def forward(original: Callable[..., Any], hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        nonlocal earlier
        output = original(hidden_states, *args, **kwargs)
        if calls.branch:
            return output
        # A scheduler may write its step into the same memory.
        here, left = hidden_states.clone(), output[0].clone()
        if earlier is not None:
            then, given, before = earlier
            moved = original(here, *args, **given)[0] - before
            later = original(then, *args, **{**given, "timestep": kwargs["timestep"]})[0] - before
            by_latents.append((_velocity(moved, here).norm() / (here - then).norm()).item())
            apart = abs(timestep_of(kwargs) - timestep_of(given))
            by_timestep.append(_velocity(later, here).norm().item() / apart)
        earlier = here, kwargs, left
        return output

    with calls.counted(subject.denoiser), replaced(subject.denoiser, forward):
        generator = torch.Generator().manual_seed(seed)
        subject.pipe(prompt=prompt, generator=generator, output_type="latent", **subject.arguments)
    return by_latents, by_timestep


def _velocity(output: Tensor, entering: Tensor) -> Tensor:
    """The part of the output that has the input's shape: Open-Sora's has as many channels again, used by no sampler."""
    return output[tuple(map(slice, entering.shape))]


def calibrated(subject: Subject) -> Sensitivity:
    """The mean over prompts."""
    found = [measured(subject, prompt, seed) for seed, prompt in enumerate(_prompts(subject))]
    by_latents, by_timestep = np.mean(found, axis=0).tolist()
    return Sensitivity(by_latents, by_timestep)


def _prompts(subject: Subject) -> Sequence[str]:
    return subject.calibration_prompts[:CALIBRATION_PROMPTS]


@contextmanager
def attach(subject: Subject, knobs: Knobs, prepared: Sensitivity) -> Iterator[Rule]:
    """Skip blocks during one call of the pipeline; gives the rule that both guidance branches follow."""
    calls, skipping = Calls(subject.calls_per_step), False
    early, last = round(EARLY * subject.num_steps), subject.num_steps - 1
    rule = Rule(prepared, knobs["thresh_main"], knobs["thresh_start"], early, knobs["n"], last)

    def forward(original: Callable[..., Any], hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        nonlocal skipping
        if calls.branch == 0:
            # A scheduler may write its step into the same memory.
            skipping = rule.skips(calls.step, hidden_states.clone(), timestep_of(kwargs))
        return original(hidden_states, *args, **kwargs)

    span = Span(ordered_blocks(subject.denoiser), calls, skip=lambda given: skipping)
    with calls.counted(subject.denoiser), span.attached(), replaced(subject.denoiser, forward):
        yield rule


_SETTINGS = (
    (0.05, 0.01, 2),
    (0.1, 0.01, 3),
    (0.1, 0.1, 3),
    (0.2, 0.01, 3),
    (0.2, 0.2, 3),
    (0.25, 0.25, 3),
    (0.4, 0.01, 3),
    (0.4, 0.4, 3),
    (0.4, 0.01, 10),
    (0.8, 0.01, 10),
    (0.8, 0.8, 10),
    (1.6, 0.01, 10),
    (1.6, 1.6, 10),
)
"""``thresh_main``, ``thresh_start`` and ``n``."""


def _knobs(subject: Subject) -> Sequence[Knobs]:
    return [dict(zip(("thresh_main", "thresh_start", "n"), values, strict=True)) for values in _SETTINGS]


SENCACHE = Rival(
    name="SenCache",
    source="arXiv 2602.24208; vita-epfl/SenCache at 4bf419b; its sensitivities from 16 to 24 full runs",
    knobs=_knobs,
    attach=attach,
    prepare=calibrated,
    adaptive=True,
)
