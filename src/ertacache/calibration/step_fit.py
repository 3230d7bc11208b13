"""The weights of one step: fitted on all prompts for the policy, and for each prompt on the other prompts.

Leave-one-out: a prompt that goes on with weights fitted on the others makes the steps that a new prompt would make.
So a closed loop's errors are held-out errors, and every prompt counts for them. This costs no denoiser call: only a few
small systems of equations a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ertacache.method.aligned_weights import NormalEquations
from ertacache.method.prediction import Prediction

MIN_HELD_OUT = 12
"""With fewer prompts none is held out. Weights fitted on few others are far worse than a policy's (on three others,
errors are twenty times as large), and schedules would be chosen for that."""


def holds_out(num_prompts: int) -> bool:
    """Whether there are enough prompts to hold each one out from its own weights."""
    return num_prompts >= MIN_HELD_OUT


class StepFit(NamedTuple):
    """What one step's fit found.

    Args:
        prediction: fitted on all prompts.
        left_out: for each prompt, fitted on the others; empty where no prompt is held out.
    """

    prediction: Prediction
    left_out: tuple[Prediction, ...] = ()


def fit_step(equations: Sequence[NormalEquations], history: Sequence[int], *, leave_one_out: bool) -> StepFit:
    """Solve one step.

    Args:
        equations: one system for each prompt, over `ertacache.method.aligned_weights.features` of the outputs and then,
            where they take part, of the guidance contrasts: the differences, newest first, and the newest entry.
        history: the steps of the entries, newest first; one more than there are differences.
        leave_one_out: whether to fit for each prompt on the others too.

    Returns:
        The predictions.
    """
    total = equations[0]
    for one in equations[1:]:
        total = total + one
    left_out = [Prediction.by_weights(history, (total - one).solve()) for one in equations if leave_one_out]
    return StepFit(Prediction.by_weights(history, total.solve()), tuple(left_out))
