"""Closed loops without a denoiser, on outputs of which only the dot products are known.

A closed loop skips the cached steps, predicts them, and ends at some distance from the full run. Predictions are linear
combinations of outputs, and samplers are linear in them. So all that a loop does to the latent follows from the
outputs' dot products, but for one thing: how later outputs answer the errors that predictions leave in the latent.

That is taken from measurements (docs/records/research-log.md). Measured in closed loops of four pipelines, an output is
wrong by ``c / (s (1 - s))^0.7`` times the latent's error at noise level s: it pulls the error back. How strongly
depends on the direction; c is 0.25 in the mean, with a deviation of 0.6. Weights that make up for errors which are
pulled back anyway overshoot, and over long gaps these errors grow; where nothing is pulled back, the weights must do
it. So a loop is simulated for each of a few answers, `ANSWERS`, and the weights are fitted on all of them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ertacache.method.aligned_weights import ridge_solve
from ertacache.method.prediction import Prediction

Array = NDArray[np.float64]

ANSWERS = (0.0, 0.3, 1.0)
"""How strongly outputs answer errors, in units of ``4 (4 s (1 - s))^-0.7``: not at all, as on average, and strongly."""
DIVERGING, STRONG_GUIDANCE = -0.3, 8.0
"""In the same units, and at this guidance scale: errors that outputs push further away; see `diverging_at`."""
POWER = 0.7
"""How fast answers rise towards both ends of the noise levels."""
MOST_UNCERTAIN = 0.2
"""See `uncertain_at`."""
LEAST = 0.01
"""Floor of ``s (1 - s)``, which is 0 for a first latent of pure noise; that latent has no error yet."""


def answers_at(
    levels: Sequence[float], direction: float = 1.0, answers: Sequence[float] = ANSWERS
) -> tuple[Array, ...]:
    """By how many times the latent's error each step's output is wrong, for each of some answers.

    Args:
        levels: the T + 1 noise levels ``s`` of flow matching, 0 to 1.
        direction: whether outputs point from the data to the noise, 1, or the other way, -1.
        answers: how strongly, in the units of `ANSWERS`.

    Returns:
        As many as there are answers, each (T,), float64.
    """
    at = np.asarray(levels[:-1], dtype=np.float64)
    shape = 4 * direction * (4 * np.maximum(at * (1 - at), LEAST)) ** -POWER
    return tuple(answer * shape for answer in answers)


def diverging_at(guidance: float, step_ratio: float = 2.0) -> float:
    """How strongly outputs push errors further away under this guidance, in the units of `ANSWERS`; at most 0.

    Strong guidance does, at the first steps. Schedules are judged by this answer too. No weights are fitted on it: they
    would extrapolate too little everywhere else. How it grows with guidance, and that it grows the faster the fewer
    steps are computed, is read from closed loops at scales of 4 and 8 and step ratios of 1.5 to 4
    (docs/records/research-log.md, "Doubt that grows with guidance").

    Args:
        guidance: the scale; 1 for none. Above `STRONG_GUIDANCE` it is taken as that.
        step_ratio: T over the number of computed steps.
    """
    share = min(max(guidance - 1, 0) / (STRONG_GUIDANCE - 1), 1)
    return DIVERGING * float(share ** max(0.5, step_ratio - 1.5))


def uncertain_at(levels: Sequence[float], guidance: float, step_ratio: float) -> Array:
    """How much of its square each output is taken to vary on its own: the more, the less weights extrapolate.

    Under strong guidance what an extrapolation misses grows on the way: at a scale of 7 and a step ratio of 2, weights
    that take the expected outputs for certain end up to 25 dB further from the full run. The share rises with the noise
    level, with guidance over 4, and from a step ratio of 3 on without guidance too. Read from loops of five pipelines
    at scales of 4 to 8 (docs/records/research-log.md, "The cliff of strong guidance").

    Args:
        levels: the T + 1 noise levels of flow matching, 0 to 1.
        guidance: the scale; 1 for none.
        step_ratio: T over the number of computed steps.

    Returns:
        (T,), float64, 0 to `MOST_UNCERTAIN`; 0 at a scale of at most 4 and a step ratio of at most 3.
    """
    beyond = min(max(guidance / 4 - 1, 0.0), 1.0)
    by_guidance = MOST_UNCERTAIN * (step_ratio / 3) ** 3 * beyond**0.5
    by_ratio = 1e-3 * (min(max(step_ratio / 3, 1.0), 4 / 3) ** 5 - 1)
    shares: Array = min(by_guidance + by_ratio, MOST_UNCERTAIN) * np.asarray(levels[:-1], dtype=np.float64)
    return shares


def direction_of(response: Array) -> float:
    """Whether outputs point from the data to the noise, 1, as levels fall along the steps; -1 if the other way."""
    return -float(np.sign(np.diagonal(response).sum())) or 1.0


Solution = tuple[tuple[int, ...], tuple[float, ...]]
"""The computed steps that a step's prediction uses, newest first, and one weight for each feature."""


class Simulated(NamedTuple):
    """The result of simulated loops.

    Args:
        solutions: by step, from the first cached one on.
        errors: how far the last latent is from the full run's, for each answer, float64.
    """

    solutions: dict[int, Solution]
    errors: Array

    @property
    def predictions(self) -> dict[int, Prediction]:
        """The predictions that the loops used, by step."""
        return {step: Prediction.by_weights(*solution) for step, solution in self.solutions.items()}


def simulated(
    rows: Array,
    contrasts: Array | None,
    cached: Collection[int],
    order: int,
    response: Array,
    answers: Sequence[Array] = (),
    emptied: Collection[int] = (),
) -> Simulated:
    """Run a loop for each answer, with the weights that take all of them nearest to the full run's next latents.

    The steps are solved in order, since each one also makes up for the errors that earlier ones left. Each loop's
    distance is taken relative to the one that reuse leaves, as for prompts of a closed loop.

    Args:
        rows: the outputs of the full run, (T, size), float64; see `ertacache.method.gram_weights.Outputs`.
        contrasts: the contrasts, (T, size), float64, or None. They are not taken to answer errors.
        cached: the cached steps.
        order: the highest difference that is used, 1 to 3.
        response: how far a unit of each step's output (column) has moved the latent after each step (row), (T, T),
            float64, lower triangular. For Euler steps each column holds one step's length; a multistep solver uses an
            output more than once.
        answers: see `answers_at`; without any, outputs do not answer errors.
        emptied: computed steps at which guidance begins or ends, so that the history is emptied.
    """
    strengths = np.stack(answers) if len(answers) else np.zeros((1, len(rows)))
    skipped, first = frozenset(cached), min(cached, default=len(rows))
    seen, wrong = np.repeat(rows[None], len(strengths), axis=0), np.zeros((len(strengths), *rows.shape))
    history: list[int] = []
    solutions = {}
    for step in range(len(rows)):
        if step not in skipped:
            history = [step, *([] if step in emptied else history)][: order + 1]
            if step > first:
                seen[:, step] += strengths[:, step, None] * (response[step - 1] @ wrong)
        wrong[:, step] = seen[:, history[0]] - rows[step]
        if step < first:
            continue
        terms = _features(seen[:, history])
        if contrasts is not None:
            fixed = np.broadcast_to(_features(contrasts[None, history]), terms.shape)
            terms = np.concatenate([terms, fixed], axis=1)
        moved, error = response[step, step] * terms, response[step] @ wrong
        scale = 1 / np.maximum((error * error).sum(-1), np.finfo(float).tiny)
        flat = moved.swapaxes(0, 1).reshape(moved.shape[1], -1)
        scaled = (scale[:, None, None] * moved).swapaxes(0, 1).reshape(flat.shape)
        gram, right = torch.from_numpy(scaled @ flat.T), torch.from_numpy(-scaled @ error.reshape(-1))
        weights = ridge_solve(gram, right).numpy()
        wrong[:, step] += weights @ terms
        solutions[step] = tuple(history), tuple(weights.tolist())
    return Simulated(solutions, np.linalg.norm(response[-1] @ wrong, axis=-1))


def _features(history: Array) -> Array:
    """`ertacache.method.aligned_weights.features` for rows, (L, entries, size): the differences, then the newest."""
    return np.concatenate([history[:, :-1] - history[:, 1:], history[:, :1]], axis=1)
