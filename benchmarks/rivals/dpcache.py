"""DPCache: dynamic programming plans which steps to compute, by the errors of a Taylor predictor on recorded runs.

Cui et al., "Denoising as Path Planning: Training-Free Acceleration of Diffusion Models with DPCache", CVPR 2026, arXiv
2602.22654; checked against the authors' code of commit 59f08a4, which follows argsss/DPCache's bfa5728 and is kept in
the history of https://github.com/EmanuelSilva69/DPCACHEamd. Their own repository could be had without the code only,
and the paper's text not at all, only notes on it: for FLUX.1-dev, 21.7 dB with 13 of 50 steps and 18.8 dB with 9,
TaylorSeer 17.0 dB at the former speed. Preparing takes 10 full runs, as theirs; the notes say that 1 suffices.

- What is predicted are the visual tokens that leave the last block; the output head runs at every step:
  ``dpcache_flux.py``. They keep FLUX's text tokens as well, also in the costs, where here only visual ones count.
- The predictor is TaylorSeer's, of order 2, on finite differences between computed steps:
  ``dpcache/schedule_utils.py``, ``derivative_approximation``. The first three steps are computed (their README's
  setting), and differences begin with the last of them.
- The costs: ``dpcache/cali_utils.py``, see `path_costs`. They are the mean of the prompts', and of the conditional
  branch alone, as in their Wan; both branches follow one plan.
- The plan: ``precompute_schedule`` in the same file as the predictor, see `planned`. No gap is longer than 0.3 of all
  steps.

What was run side by side, theirs and this, on made-up features of 30 and 50 steps: the costs, the same within 2e-7 but
for a factor of 2 that they divide by; the plans for every number of steps that theirs can reach, 460 of both orders
and with the last step computed or not, all the same; and 59 predictions, equal to the bit.

Decided here:

- Where so few steps are computed that a gap must be longer than 0.3 of all, the limit is what must be. Theirs then ends
  at the cheapest step it can reach, and leaves the steps after it to one prediction.
- Order 1 is tried too, in costs and predictions: they say that any predictor will do if it is the same in both.
- ``last_full_steps`` is 0 in their commands for FLUX and 1 by default in ``dpcache_wan.py``; both are tried everywhere.
  The small models change most in their last step: our FLUX with 15 of 30 steps, order 1, three calibration prompts, has
  49.7 dB with 0 and 57.6 with 1.
- With long gaps order 2 goes too far, as TaylorSeer's does here: with 10 of 30 steps it has 31.1 and 37.1 dB, where
  order 1 has 41.9 and 39.7.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from math import ceil, factorial, inf

import numpy as np
import torch
from torch import Tensor

from benchmarks.rivals.base import Knobs, Rival, Subject
from benchmarks.rivals.last_block import predicting, recorded

CALIBRATION_PROMPTS = 10
ORDERS = (1, 2)
FIRST_FULL_STEPS = 3
LONGEST_GAP = 0.3
"""As a share of all steps."""


def differences(earlier: Sequence[Tensor], feature: Tensor, distance: int, order: int) -> list[Tensor]:
    """The feature at a computed step and its finite differences, up to an order.

    Args:
        earlier: the same at the computed step before.
        feature: at this step.
        distance: steps between the two.
        order: the highest one.
    """
    found = [feature]
    for previous in earlier[:order]:
        found.append((found[-1] - previous) / distance)
    return found


def taylor(known: Sequence[Tensor], distance: int) -> Tensor:
    """The feature ``distance`` steps after the one of `differences`."""
    terms = [term * (distance**power / factorial(power)) for power, term in enumerate(known)]
    return torch.stack(terms).sum(dim=0)


@dataclass
class Taylor:
    """Predicts for one guidance branch.

    Args:
        order: of the expansion.
        last: the last computed step.
        known: the feature there, and its differences.
    """

    order: int
    last: int = 0
    known: list[Tensor] = field(default_factory=list)

    def computed(self, step: int, feature: Tensor) -> None:
        """Keep a computed step; before the last of the first full ones its differences are not."""
        order = self.order if step >= FIRST_FULL_STEPS - 1 else 0
        self.known = differences(self.known, feature, step - self.last, order)
        self.last = step

    def predicted(self, step: int) -> Tensor:
        """The prediction, in the dtype of the features."""
        return taylor(self.known, step - self.last)


def path_costs(features: Tensor, order: int) -> np.ndarray:
    """What it costs to go on from one computed step to the next (the paper's path-aware cost tensor).

    The cost is the mean absolute error of predictions, summed over the steps from j + 1 to k, the last one included.
    Differences at step i, which a third index could not tell, are those between consecutive steps. After the last step
    comes one more, at which the path ends: 0.8 of a prediction from the last steps and 0.2 of their mean.

    Args:
        features: (steps, elements), of a full run.
        order: of the predictor.

    Returns:
        (steps, steps, steps + 1), at [i, j, k]: j is a computed step, i the one before it and k the one after it, or
        the end. Infinite where it is no such path.
    """
    num_steps = len(features)

    def known_after(steps: Sequence[int]) -> list[Tensor]:
        found: list[Tensor] = []
        for before, step in zip((steps[0], *steps), steps, strict=False):
            found = differences(found, features[step], step - before, order)
        return found

    tail = range(num_steps - 1 - order, num_steps)
    end = 0.8 * taylor(known_after(tail), 1) + 0.2 * features[tail.start :].mean(dim=0)
    truth = torch.cat([features, end[None]])
    costs = np.full((num_steps, num_steps, num_steps + 1), inf)
    for j in range(order):
        costs[: j + 1, j, j + 1] = 0.0
    for j in range(order, num_steps):
        distances = torch.arange(1, num_steps + 1 - j).to(features)
        powers = torch.stack([distances**power / factorial(power) for power in range(order + 1)], dim=1)
        for i in range(order - 1, j):
            known = torch.stack(known_after([*range(i - order + 1, i + 1), j]))
            errors = (powers @ known - truth[j + 1 :]).abs().mean(dim=1)
            costs[i, j, j + 1 :] = errors.double().cumsum(dim=0).numpy()
    return costs


def planned(costs: np.ndarray, k: int, last_full_steps: int = 0) -> tuple[int, ...]:
    """The steps to compute, whose path costs least.

    As with the authors, only the best path to each pair of a step and how many were computed goes on, although the
    second best may come from a step after which the next one is cheaper.

    Args:
        costs: see `path_costs`.
        k: how many steps to compute, more than the first and last full ones.
        last_full_steps: how many at the end are computed whatever they cost.
    """
    end = len(costs)
    fixed = FIRST_FULL_STEPS - 1 + last_full_steps
    needed = ceil((end - fixed) / (k - fixed))
    longest = max(int(LONGEST_GAP * end), needed)
    total, previous = np.full((k + 1, end + 1), inf), np.zeros((k + 1, end + 1), dtype=int)
    total[0, 0] = 0.0
    for count in range(1, k + 1):
        for step in range(count, end + 1):
            # No path jumps over a full step.
            full = step - 1 if step > end - last_full_steps else min(step, FIRST_FULL_STEPS) - 1
            for j in range(max(count - 1, step - longest, full), step):
                i = max(j - 1, 0) if j < FIRST_FULL_STEPS else previous[count - 1, j]
                cost = total[count - 1, j] + costs[i, j, step]
                if cost < total[count, step]:
                    total[count, step], previous[count, step] = cost, j
    path = [end]
    for count in range(k, 0, -1):
        path.append(int(previous[count, path[-1]]))
    return tuple(path[:0:-1])


def calibrated(subject: Subject) -> dict[int, np.ndarray]:
    """The mean costs for each order."""
    found: dict[int, list[np.ndarray]] = {order: [] for order in ORDERS}
    for seed, prompt in enumerate(subject.calibration_prompts[:CALIBRATION_PROMPTS]):
        generator = torch.Generator().manual_seed(seed)
        with recorded(subject.denoiser) as left:
            subject.pipe(prompt=prompt, generator=generator, output_type="latent", **subject.arguments)
        features = torch.stack(left[:: subject.calls_per_step]).flatten(1).float().cpu()
        for order in ORDERS:
            found[order].append(path_costs(features, order))
    return {order: np.mean(costs, axis=0) for order, costs in found.items()}


@contextmanager
def attach(subject: Subject, knobs: Knobs, prepared: Mapping[int, np.ndarray]) -> Iterator[dict[int, Taylor]]:
    """Predict during one call of the pipeline; gives the predictor of each guidance branch."""
    order = knobs["order"]
    steps = planned(prepared[order], knobs["k"], knobs["last_full_steps"])
    with predicting(subject, steps, lambda: Taylor(order)) as predictors:
        yield predictors


def _knobs(subject: Subject) -> Sequence[Knobs]:
    budgets = [steps for steps in subject.budgets if steps > FIRST_FULL_STEPS][::2]
    names = ("k", "order", "last_full_steps")
    return [dict(zip(names, values, strict=True)) for values in product(budgets, ORDERS, (0, 1))]


DPCACHE = Rival(
    name="DPCache",
    source="arXiv 2602.22654; the authors' code at 59f08a4; its costs from 10 full runs",
    knobs=_knobs,
    attach=attach,
    prepare=calibrated,
)
