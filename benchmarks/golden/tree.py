"""All runs of a prompt that compute so many steps, generated as one tree: runs share the steps before they differ.

In: a denoiser for many latents at once, and the predictions. Out: the last latent of every schedule. These are closed
loops: each latent is the one that its own cached steps have led to.

The tree is walked step by step. A node is the set of steps computed so far; at each step it has a child that computes
the step and one that skips it, as far as the budget allows both. Runs can share a node only if the weights of a step
depend on the schedule before it alone. `weights_by_node` checks that for weights solved schedule by schedule; the
weights of closed loops are fitted node by node (`Fitting`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import torch
from torch import Tensor

from ertacache.method.aligned_weights import MAX_ORDER, NormalEquations, features
from ertacache.method.prediction import Prediction, reuse
from ertacache.method.schedule import Schedule

Computed = tuple[int, ...]
"""The computed steps, rising, of a schedule or of its beginning."""
Predictions = Mapping[tuple[int, Computed], Prediction]
"""By step and the steps computed up to it. Where there is none, the newest output is used as it is."""
Denoiser = Callable[[int, Tensor], Tensor]
"""At a step, for latents (n, ...): (parts, n, ...), the outputs after guidance and, as a second part, the contrasts."""
Predictor = Callable[[int, Sequence[Computed], Tensor, Tensor], Sequence[Prediction]]
"""At a step, for n nodes, their latents (n, ...) and their last outputs (parts, depth, n, ...), newest first: the
prediction of each node."""
REUSE: Predictions = {}
"""The last output, unchanged, in every cached step."""


def all_schedules(steps: int, computed: int) -> list[Computed]:
    """Every way to compute so many steps, the first one among them, in lexicographic order."""
    return [(0, *others) for others in combinations(range(1, steps), computed - 1)]


def cached_of(computed: Computed, steps: int) -> Schedule:
    """The cached steps of a schedule."""
    return tuple(step for step in range(steps) if step not in computed)


def computed_of(cached: Schedule, steps: int) -> Computed:
    """The computed steps of a schedule."""
    return cached_of(cached, steps)


def node_at(step: int, computed: Computed) -> Computed:
    """The node of a schedule after a step."""
    return tuple(i for i in computed if i <= step)


def predictions_along(computed: Computed, steps: int, predictions: Predictions) -> dict[int, Prediction]:
    """The predictions of one schedule by step, as a policy has them."""
    nodes = [(step, node_at(step, computed)) for step in range(steps)]
    return {node[0]: predictions[node] for node in nodes if node in predictions}


def weights_by_node(
    steps: int, schedules: Sequence[Computed], solve: Callable[[Schedule], Mapping[int, Prediction]]
) -> Predictions:
    """The predictions of every node of the tree, from those of every schedule.

    Args:
        steps: T.
        schedules: the computed steps of each schedule.
        solve: the predictions of a schedule by step, given its cached steps.

    Raises:
        ValueError: if the weights of a step depend on later steps.
    """
    found: dict[tuple[int, Computed], Prediction] = {}
    for computed in schedules:
        for step, prediction in solve(cached_of(computed, steps)).items():
            if found.setdefault((step, node_at(step, computed)), prediction) != prediction:
                raise ValueError(f"the weights of step {step} of {computed} depend on later steps")
    return found


def known(predictions: Predictions) -> Predictor:
    """Predict by what is known of each node."""

    def predict(step: int, nodes: Sequence[Computed], latents: Tensor, history: Tensor) -> list[Prediction]:
        return [predictions.get((step, node)) or reuse(node[::-1]) for node in nodes]

    return predict


def walk(
    denoiser: Denoiser,
    start: Tensor,
    lengths: Sequence[float],
    computed: int,
    predict: Predictor,
    *,
    depth: int = MAX_ORDER + 1,
    parts: int = 1,
) -> dict[Computed, Tensor]:
    """Generate every schedule that computes the first step and so many in all.

    Args:
        denoiser: the denoiser.
        start: the first latent, (1, ...), float32.
        lengths: by how much a unit of each step's output moves the latent, T numbers.
        computed: how many steps are computed.
        predict: the predictions.
        depth: how many outputs are kept for them.
        parts: 2 to keep contrasts of the guidance branches too.

    Returns:
        The last latent of each schedule, (...), float32, by its computed steps.
    """
    nodes: list[Computed] = [()]
    latents, history = start, start.new_zeros(parts, depth, *start.shape)
    for step, length in enumerate(lengths):
        left = len(lengths) - step - 1
        computing = [k for k, node in enumerate(nodes) if len(node) < computed]
        skipping = [k for k, node in enumerate(nodes) if node and computed - len(node) <= left]
        if computing:
            outputs = denoiser(step, latents[computing])[:parts, None]
            pushed = torch.cat([outputs, history[:, :-1, computing]], dim=1)
            history = torch.cat([pushed, history[:, :, skipping]], dim=2)
        latents = latents[computing + skipping]
        nodes = [(*nodes[k], step) for k in computing] + [nodes[k] for k in skipping]
        factors = _factors(predict(step, nodes, latents, history), depth, parts).to(history)
        latents = latents + length * torch.einsum("pkn,pkn...->n...", factors, history)
    return dict(zip(nodes, latents, strict=True))


def _factors(predictions: Sequence[Prediction], depth: int, parts: int) -> Tensor:
    """The factors of the last outputs and contrasts, (parts, depth, n), float64; 0 where fewer are used."""
    factors = torch.zeros(parts, depth, len(predictions), dtype=torch.float64)
    for k, prediction in enumerate(predictions):
        for part, own in enumerate((prediction.factors, prediction.contrast_factors)[:parts]):
            factors[part, : len(own), k] = torch.tensor(own, dtype=torch.float64)
    return factors


@dataclass
class Fitting:
    """A predictor that fits the weights of every node, as closed loops of a calibration do on one schedule.

    The tree is walked for all prompts at once: latents are (n, prompts, ...).

    Args:
        lengths: as of `walk`.
        goals: the full runs' latents after each step, (T, prompts, ...), float32.

    Attributes:
        found: the predictions so far.
    """

    lengths: Sequence[float]
    goals: Tensor
    found: dict[tuple[int, Computed], Prediction] = field(default_factory=dict)

    def __call__(self, step: int, nodes: Sequence[Computed], latents: Tensor, history: Tensor) -> list[Prediction]:
        predictions = []
        for k, node in enumerate(nodes):
            if len(node) > step:  # nothing was cached yet, so that the latent is exact
                predictions.append(reuse(node[::-1]))
            else:
                self.found[step, node] = self._fitted(step, node, latents[k], history[:, :, k])
                predictions.append(self.found[step, node])
        return predictions

    def _fitted(self, step: int, node: Computed, latents: Tensor, history: Tensor) -> Prediction:
        """Fit one node: latents (prompts, ...), history (parts, depth, prompts, ...)."""
        used, length = node[::-1][: history.shape[1]], self.lengths[step]
        equations = NormalEquations(len(used) * len(history))
        for prompt, latent in enumerate(latents):
            own = history[:, : len(used), prompt]
            terms = [length * term for part in own for term in features(list(part), MAX_ORDER)]
            equations.add(terms, self.goals[step, prompt] - (latent + length * own[0, 0]))
        return Prediction.by_weights(used, equations.solve())


def evaluations(steps: int, computed: int) -> int:
    """How many model outputs the tree computes, where single runs would take ``computed`` for each schedule."""
    nodes = {schedule[: k + 1] for schedule in all_schedules(steps, computed) for k in range(computed)}
    return len(nodes)
