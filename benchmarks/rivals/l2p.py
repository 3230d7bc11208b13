"""L2P: a skipped output is a weighted sum of all outputs before it, by weights learnt for each step.

Shen et al., "Beyond Fixed Formulas: Data-Driven Linear Predictor for Efficient Diffusion Models", CVPR 2026, arXiv
2604.26365; checked against https://github.com/Aredstone/L2P-Cache at 3df73ce. The paper's text could not be had, only
notes on it: for FLUX.1-dev, 31.5 dB at 4.55x fewer operations and 30.0 dB at 7.14x, TaylorSeer 29.3 dB at 4.16x.
Preparing takes 50 full runs, as theirs; the notes give 29.4, 29.8, 30.0 and 30.0 dB for 5, 10, 50 and 100 runs.

- What is predicted is the output of the whole denoiser, so that a skipped step runs nothing of it. Predicted outputs
  are among those that later steps are predicted from: ``src/flux/model.py``, ``src/flux/learnable_utils/__init__.py``.
  Their split of outputs by frequency is kept beside them there and never read.
- Weights: ``predictor/train.py``. Every output is predicted from the true ones before it, and the mean squared error of
  all steps falls by 201 steps of Adam from plain reuse. See `learnt`.

What was run side by side: their training, its lines written down again, on made-up runs of 8, 30 and 50 steps: weights
the same within 2e-6, of up to 1.9.

Decided here:

- One matrix of weights serves both guidance branches; theirs is for FLUX.1-dev, which has one. A matrix for each was
  0.3 to 0.5 dB worse in our FLUX.
- Their steps to compute are lists by hand for 50 steps of FLUX.1-dev, which begin with 0, 1, 2, 4 and leave out the
  last 4 or more. The small models change most in their last step, and there these lists lose to reuse: scaled to 30
  steps of our FLUX, 10 of them computed, two calibration prompts, 37.6 dB against reuse's 38.0. Here the last step is
  always computed and the others are evenly spaced, after their first four or from the first on: 41.0 and 43.5 dB. See
  `full_steps`.
- Solving the least squares exactly is no option: such weights are right for true outputs only, and on predicted ones
  the error grows without bound (below 0 dB with 15 steps computed).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from torch import Tensor

from benchmarks.rivals.base import Calls, Knobs, Rival, Subject, replaced
from benchmarks.rivals.teacache import watching_outputs

CALIBRATION_PROMPTS = 50
EPOCHS = 201
LEARNING_RATE = 0.01
_FIRST = (0, 1, 2, 4)


def full_steps(num_steps: int, count: int, first: int) -> tuple[int, ...]:
    """The steps to compute; the last one is always among them.

    Args:
        num_steps: of the run.
        count: how many to compute, at least 2.
        first: how many of the steps 0, 1, 2, 4 it begins with, at least 1; the others are evenly spaced after them.
    """
    start = _FIRST[: min(first, count - 1)]
    gap = (num_steps - 1 - start[-1]) / (count - len(start))
    return *start, *(round(start[-1] + gap * number) for number in range(1, count - len(start) + 1))


def learnt(gram: Tensor) -> Tensor:
    """The weights: row t - 1 predicts output t from the outputs 0 .. t - 1.

    The squared error of outputs X with weights W is that of their inner products alone, and so is its gradient.

    Args:
        gram: (steps, steps), float64, inner products of a run's outputs over their number of elements, a mean of runs.

    Returns:
        (steps - 1, steps - 1), lower triangular.
    """
    rows = len(gram) - 1
    weights = torch.eye(rows, dtype=gram.dtype)
    optimizer = torch.optim.Adam([weights], lr=LEARNING_RATE)
    for _ in range(EPOCHS):
        weights.grad = (2 / rows * (weights @ gram[:-1, :-1] - gram[1:, :-1])).tril()
        optimizer.step()
    return weights


def products(outputs: Sequence[Tensor]) -> Tensor:
    """The inner products of a run's outputs, see `learnt`."""
    flat = torch.stack(list(outputs)).flatten(1).double().cpu()
    return flat @ flat.T / flat.shape[1]


def fit(subject: Subject) -> Tensor:
    """Learn the weights from full runs on calibration prompts."""
    found = []
    for seed, prompt in enumerate(subject.calibration_prompts[:CALIBRATION_PROMPTS]):
        outputs: list[Tensor] = []
        generator = torch.Generator().manual_seed(seed)
        with watching_outputs(subject.denoiser, outputs):
            subject.pipe(prompt=prompt, generator=generator, output_type="latent", **subject.arguments)
        found += [products(outputs[branch :: subject.calls_per_step]) for branch in range(subject.calls_per_step)]
    return learnt(torch.stack(found).mean(dim=0))


@dataclass
class L2P:
    """The denoiser with its predictor, during one call of the pipeline.

    Args:
        weights: see `learnt`.
        full_steps: those that run the denoiser.
        calls: says which step and branch a call belongs to.
        outputs: of each branch so far, computed and predicted ones.
    """

    weights: Tensor
    full_steps: Sequence[int]
    calls: Calls
    outputs: dict[int, list[Tensor]] = field(default_factory=dict)

    def forward(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Stand in for the denoiser's own forward."""
        past = self.outputs.setdefault(self.calls.branch, [])
        if self.calls.step in self.full_steps:
            output = original(*args, **kwargs)
            past.append(output[0])
            return output
        total = torch.zeros_like(past[-1], dtype=torch.float32)
        for weight, earlier in zip(self.weights[len(past) - 1].tolist(), past, strict=False):
            total.add_(earlier, alpha=weight)
        past.append(total.to(past[-1].dtype))
        return Transformer2DModelOutput(sample=past[-1]) if kwargs.get("return_dict", True) else (past[-1],)


@contextmanager
def attach(subject: Subject, knobs: Knobs, prepared: Tensor) -> Iterator[L2P]:
    """Skip steps during one call of the pipeline."""
    cache = L2P(prepared, full_steps(subject.num_steps, **knobs), Calls(subject.calls_per_step))
    with cache.calls.counted(subject.denoiser), replaced(subject.denoiser, cache.forward):
        yield cache


def _knobs(subject: Subject) -> Sequence[Knobs]:
    return [{"count": steps, "first": first} for steps in subject.budgets for first in (len(_FIRST), 1)]


L2P_CACHE = Rival(
    name="L2P",
    source="arXiv 2604.26365; Aredstone/L2P-Cache at 3df73ce; its weights from 50 full runs",
    knobs=_knobs,
    attach=attach,
    prepare=fit,
)
