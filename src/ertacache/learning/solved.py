"""From what is known of a setting to its policy: schedule and weights by the outputs' dot products alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ertacache.learning.learnt import Learnt
from ertacache.method.error_growth import Feedback
from ertacache.method.gram_weights import Outputs, solve_weights
from ertacache.method.named_methods import LEARNT
from ertacache.method.prediction import Prediction
from ertacache.method.schedule import all_denser_at_ends
from ertacache.method.surrogate import climb
from ertacache.policy import CalibrationRecord, Policy
from ertacache.runtime.sampler_response import direction_of, response_of
from ertacache.runtime.schedulers import angles_of

Array = NDArray[np.float64]

NUGGET = 1e-5
"""How much of its square each output is taken to vary on its own: other prompts' outputs are not quite those."""
ANSWER = 0.2
"""How strongly outputs are taken to answer errors of the latent, see `ertacache.method.error_growth.Feedback`."""


def learnt_policy(learnt: Learnt, scheduler: Any, levels: Sequence[float], first: int, computed: int) -> Policy:
    """The policy of a setting that full generations were recorded of.

    Args:
        learnt: what is known.
        scheduler: that of the call, before its first step; left unchanged.
        levels: the T + 1 noise levels of its grid.
        first: the step that the call begins with.
        computed: how many of the steps that the call makes are computed.
    """
    steps = len(levels) - 1 - first
    record = CalibrationRecord(
        f"num_computed_steps={computed} (learnt)",
        num_prompts=learnt.samples,
        notes=(f"learnt from {learnt.generations} full generations; {learnt.quality}",),
    )
    if computed == steps:
        return Policy(steps, (), LEARNT, calibration=record).shifted(first)
    gram = learnt.gram.numpy() * (1 + NUGGET * np.eye(len(learnt.gram)))
    angles = np.asarray(angles_of(scheduler, levels[first:]))
    sigmas = np.sin(angles) / (np.sin(angles) + np.cos(angles))
    outputs, response = Outputs.of(gram, sigmas.tolist()), response_of(scheduler, first, levels[first:])
    answers = Feedback(ANSWER, 0.0).answers(sigmas.tolist()) * direction_of(response)

    def solved(cached: Sequence[int]) -> tuple[Any, Array]:
        return solve_weights(outputs.rows, outputs.contrasts, cached, LEARNT.order, response, answers=answers)

    def cost(cached: Sequence[int]) -> float:
        return float(np.linalg.norm(response[-1] @ solved(cached)[1]))

    begin = min(all_denser_at_ends(steps, computed, ()), key=lambda cached: (cost(cached), cached))
    cached = climb(begin, (), steps, cost)
    weights, _ = solved(cached)
    predictions = {i: Prediction.by_weights(history, found.tolist()) for i, (history, found) in weights.items()}
    return Policy(steps, cached, LEARNT, predictions, calibration=record).shifted(first)
