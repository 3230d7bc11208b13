"""Fit the weights of one step: on all prompts for the policy, and for each prompt on the other prompts.

The second kind is leave-one-out: a prompt that uses weights fitted on the other prompts makes the steps that a new
prompt would make. So the errors of a closed loop are held-out errors, and all prompts contribute to them. This costs no
denoiser call, only a few small systems of equations for each step.

Where weights are expected before any prompt was seen, those of the prior, the fit is drawn towards them: by as much as
brings left-out prompts nearest, the less the more the prompts agree ("stacking": Wolpert, Neural Networks 5, 1992;
Breiman, Machine Learning 24, 1996). That is one number for all prompts, so each has a small part in its own held-out
weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ertacache.method.aligned_weights import NormalEquations
from ertacache.method.prediction import Prediction

MIN_HELD_OUT = 12
"""With fewer prompts none is held out. Weights fitted on few other prompts are far worse than a policy's (on three
others, errors are twenty times as large), and the search would choose schedules that suit such weights."""


def holds_out(num_prompts: int) -> bool:
    """Return whether there are enough prompts to hold each one out from its own weights."""
    return num_prompts >= MIN_HELD_OUT


class StepFit(NamedTuple):
    """The weights of one step.

    Args:
        prediction: the weights fitted on all prompts.
        left_out: for each prompt, the weights fitted on the other prompts; empty where no prompt is held out.
    """

    prediction: Prediction
    left_out: tuple[Prediction, ...] = ()


def fit_step(
    equations: Sequence[NormalEquations],
    history: Sequence[int],
    *,
    leave_one_out: bool,
    expected: Sequence[float] | None = None,
) -> StepFit:
    """Solve the weights of one step.

    Args:
        equations: one system for each prompt. Its unknowns are the weights of the outputs' features (see
            `ertacache.method.aligned_weights.features`), followed by those of the guidance contrasts' if they are used.
        history: the steps of the entries, newest first; one more than there are differences.
        leave_one_out: whether to fit, for each prompt, on the other prompts too.
        expected: the weights that are expected before any prompt was seen, of the first unknowns; those of the others
            are 0. None for none.
    """
    total = equations[0]
    for one in equations[1:]:
        total = total + one
    drawn = expected is not None and len(equations) > 1
    others = [_tensor((total - one).solve()) for one in equations if leave_one_out or drawn]
    base = torch.zeros(total.size, dtype=torch.float64)
    trust = 1.0
    if expected is not None and drawn:
        base[: len(expected)] = _tensor(expected)
        trust = _trust(equations, others, base)

    def weighed(fitted: Tensor) -> Prediction:
        return Prediction.by_weights(history, tuple((base + trust * (fitted - base)).tolist()))

    left_out = tuple(weighed(other) for other in others) if leave_one_out else ()
    return StepFit(weighed(_tensor(total.solve())), left_out)


def _trust(equations: Sequence[NormalEquations], others: Sequence[Tensor], base: Tensor) -> float:
    """How far to go from the expected weights to the fitted ones, 0 to 1: as brings left-out prompts nearest.

    Args:
        equations: of each prompt.
        others: the weights fitted on all prompts but that one.
        base: the expected weights.
    """
    ways = [other - base for other in others]
    gain = sum(float(way @ (one.right - one.gram @ base)) for way, one in zip(ways, equations, strict=True))
    size = sum(float(way @ one.gram @ way) for way, one in zip(ways, equations, strict=True))
    return min(1.0, max(0.0, gain / size)) if size > 0 else 1.0


def _tensor(weights: Sequence[float]) -> Tensor:
    return torch.tensor(weights, dtype=torch.float64)
