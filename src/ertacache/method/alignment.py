"""Aligned rectification: predict a cached step from the last computed ones, with weights that land the trajectory.

With ``h_1, h_2, h_3, ...`` the last computed outputs, newest first, and ``d_1, d_2, ...`` how the guidance branches
differed there, a cached step uses

    v^_i = h_1 + w_1 (h_1 - h_2) + w_2 (h_2 - h_3) + ... + w_0 h_1 + (the same terms of d, with weights of their own)
         = sum_k c_k h_k + sum_k e_k d_k.

``w = 0`` is reuse and ``w_1 = (s_i - s_1) / (s_1 - s_2)`` over noise levels s is first-order Taylor. A computed step
after a cached one is corrected by the same formula, its own output being ``h_1``. The weights minimise the distance
of the *next latent* to that of the full run, ``|| step_i(x~, v^_i(w)) - x_gt ||^2``, each prompt's relative to what
reuse leaves of it. The samplers are affine in the model output, ``step_i(x, v) = c_i + b_i v``, so the minimum is a
linear least-squares problem in at most eight unknowns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ertacache.precision import widened

MAX_ORDER = 3


def coefficients(weights: Sequence[float], newest: float = 1.0) -> tuple[float, ...]:
    """The factors of ``h_1, h_2, ...`` in ``newest h_1 + sum_k weights[k] (h_k - h_{k+1})``; they sum to ``newest``.

    >>> coefficients([0.5])
    (1.5, -0.5)
    """
    factors = [newest, *(0.0 for _ in weights)]
    for k, w in enumerate(weights):
        factors[k] += w
        factors[k + 1] -= w
    return tuple(factors)


def weights_of(factors: Sequence[float], newest: float = 1.0) -> tuple[float, ...]:
    """The weights whose `coefficients` with ``newest`` plus the last of them are these factors: the inverse of a fit.

    One for each difference, and then that of ``h_1``.

    >>> weights_of([1.75, -0.5])
    (0.5, 0.25)
    """
    weights = [0.0] * len(factors)
    for k in range(len(factors) - 1, 0, -1):
        weights[k - 1] = (weights[k] if k < len(factors) - 1 else 0.0) - factors[k]
    weights[-1] = factors[0] - newest - (weights[0] if len(factors) > 1 else 0.0)
    return tuple(weights)


def taylor_weights(levels: Sequence[float], step: int, history: Sequence[int]) -> tuple[float, ...]:
    """First-order Taylor over noise levels; reuse (no weight) while the history holds one step or stands still.

    Args:
        levels: the noise level of every step, in sampling order.
        step: the step to predict.
        history: the computed steps, newest first.
    """
    if len(history) < 2:
        return ()
    newest, older = levels[history[0]], levels[history[1]]
    return ((levels[step] - newest) / (newest - older),) if newest != older else ()


def combine(history: Sequence[Tensor], factors: Sequence[float]) -> Tensor:
    """``sum_k c_k h_k`` over as many entries as there are factors, in the dtype of the history."""
    out = history[0] * factors[0]
    for k in range(1, len(factors)):
        out.add_(history[k], alpha=factors[k])
    return out


def features(history: Sequence[Tensor], order: int) -> list[Tensor]:
    """``h_k - h_{k+1}`` for k = 1 .. order, as many as the history gives, and ``h_1``."""
    return [history[k] - history[k + 1] for k in range(min(order, len(history) - 1))] + [history[0]]


@dataclass
class NormalEquations:
    """Least squares over all prompts, summed one prompt at a time in float64.

    Equations of the same features can be added and subtracted: those of all prompts less one's own are what the other
    prompts say.

    Args:
        size: the number of unknowns.
        ridge: pulls the weights to 0 (reuse), relative to each feature's own size: enough to keep nearly
            parallel differences from taking huge opposite weights, too little to move anything else.
    """

    size: int
    ridge: float = 1e-6
    gram: Tensor = field(init=False)
    right: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.gram = torch.zeros(self.size, self.size, dtype=torch.float64)
        self.right = torch.zeros(self.size, dtype=torch.float64)

    def add(self, features: Sequence[Tensor], target: Tensor) -> None:
        """Take in one prompt: minimise ``|| sum_k w_k features_k - target ||^2 / || target ||^2``, all of one shape.

        Relative to its target, so that all prompts count alike and not by how hard they are to predict; one that
        is already on its target has no say.
        """
        flat = torch.stack([widened(f).flatten() for f in features])
        goal = widened(target).flatten()
        size = float(goal @ goal)
        if size > 0:
            self.gram += (flat @ flat.T).cpu() / size
            self.right += (flat @ goal).cpu() / size

    def __add__(self, other: NormalEquations) -> NormalEquations:
        return self._combined(other, 1.0)

    def __sub__(self, other: NormalEquations) -> NormalEquations:
        return self._combined(other, -1.0)

    def _combined(self, other: NormalEquations, sign: float) -> NormalEquations:
        both = NormalEquations(self.size, self.ridge)
        both.gram, both.right = self.gram + sign * other.gram, self.right + sign * other.right
        return both

    def solve(self) -> tuple[float, ...]:
        """The weights; zeros where the features vanish."""
        scale = self.gram.diagonal()
        if not scale.max() > 0:
            return (0.0,) * self.size
        regular = self.gram + torch.diag(self.ridge * scale + torch.finfo(torch.float64).tiny)
        return tuple(float(w) for w in torch.linalg.solve(regular, self.right))
