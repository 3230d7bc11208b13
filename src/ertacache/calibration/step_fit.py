"""Fit the weights of one step: on all prompts for the policy, and for each prompt on the other prompts.

The second kind is leave-one-out: a prompt that uses weights fitted on the other prompts makes the steps that a new
prompt would make. So the errors of a closed loop are held-out errors, and all prompts contribute to them. This costs no
denoiser call, only a few small systems of equations for each step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

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


def fit_step(equations: Sequence[NormalEquations], history: Sequence[int], *, leave_one_out: bool) -> StepFit:
    """Solve the weights of one step.

    Args:
        equations: one system for each prompt. Its unknowns are the weights of the outputs' features (see
            `ertacache.method.aligned_weights.features`), followed by those of the guidance contrasts' if they are used.
        history: the steps of the entries, newest first; one more than there are differences.
        leave_one_out: whether to fit, for each prompt, on the other prompts too.
    """
    total = equations[0]
    for one in equations[1:]:
        total = total + one
    left_out = [Prediction.by_weights(history, (total - one).solve()) for one in equations if leave_one_out]
    return StepFit(Prediction.by_weights(history, total.solve()), tuple(left_out))
