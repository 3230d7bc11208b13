"""The weights of one step: fitted on all prompts for the policy, and for each prompt on the others.

A prompt that goes on with weights fitted without it makes the steps that a prompt outside of calibration would make.
So a closed loop's errors are held-out errors, every prompt counts for them, and it costs no denoiser call more: only a
few small systems of equations a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ertacache.method.alignment import NormalEquations
from ertacache.method.prediction import Prediction

MIN_HELD_OUT = 12
"""With fewer prompts each goes on with the weights of all: those of few others are far worse than a policy's (of three
others, errors are twenty times as large), and schedules would be chosen for that."""


class StepFit(NamedTuple):
    """What one step's fit found.

    Args:
        prediction: fitted on all prompts.
        own: for each prompt fitted on the others, where there are enough; else that of all.
    """

    prediction: Prediction
    own: list[Prediction]


def fit_step(equations: Sequence[NormalEquations], history: Sequence[int]) -> StepFit:
    """Solve one step.

    Args:
        equations: one for each prompt, over `ertacache.method.alignment.features` of the outputs and then, where they
            take part, of the contrasts: the differences, newest first, and the newest entry.
        history: the steps of the entries, newest first; one more than there are differences.
    """
    total = equations[0]
    for one in equations[1:]:
        total = total + one

    found = Prediction.by_weights(history, total.solve())
    if len(equations) < MIN_HELD_OUT:
        return StepFit(found, [found] * len(equations))
    return StepFit(found, [Prediction.by_weights(history, (total - one).solve()) for one in equations])
