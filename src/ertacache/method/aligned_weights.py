"""Aligned rectification: fit the weights of a prediction so that the next latent lands where the full run's does.

In: the features of a prediction and the change that is wanted, prompt by prompt. Out: one weight for each feature.

Let ``h_1, h_2, h_3, ...`` be the last computed outputs, newest first, and ``d_1, d_2, ...`` the contrasts there (the
difference of the guidance branches). A cached step uses

    v^_i = h_1 + w_1 (h_1 - h_2) + w_2 (h_2 - h_3) + ... + w_0 h_1 + (the same terms of d, with weights of their own)
         = sum_k c_k h_k + sum_k e_k d_k.

``w = 0`` is reuse, and ``w_1 = (s_i - s_1) / (s_1 - s_2)`` over noise levels s is first-order Taylor. A computed step
after a cached one is corrected by the same formula, with its own output as ``h_1``.

The weights minimise the distance of the *next latent* to the full run's, ``|| step_i(x~, v^_i(w)) - x_gt ||^2``. Each
prompt's distance is taken relative to the one that reuse leaves. The samplers are affine in the model output,
``step_i(x, v) = c_i + b_i v``, so this is a linear least-squares problem with at most eight unknowns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ertacache.double_precision import as_float64

MAX_ORDER = 3
RIDGE = 1e-6
"""Strength of the pull towards weight 0 (reuse), relative to each feature's size.

Enough to keep nearly parallel differences from getting huge opposite weights; too little to change anything else.
"""


def features(history: Sequence[Tensor], order: int) -> list[Tensor]:
    """Build the features of a prediction: ``h_k - h_{k+1}`` for k = 1 .. order, and then ``h_1``.

    Args:
        history: ``h_1, h_2, ...``: at least one tensor, all of one shape and dtype, newest first. Usually model
            outputs (batch, ...), floating.
        order: the highest difference, 1 to `MAX_ORDER`; a shorter history gives fewer differences.

    Returns:
        At most ``order + 1`` tensors of that shape and dtype, ``h_1`` last.
    """
    return [history[k] - history[k + 1] for k in range(min(order, len(history) - 1))] + [history[0]]


@dataclass
class NormalEquations:
    """Least squares over all prompts, summed one prompt at a time in float64.

    Sums over the same features can be added and subtracted. Subtracting one prompt's sums from those of all prompts
    gives the leave-one-out fit.

    Args:
        size: the number of unknowns, 1 or more.
        ridge: see `RIDGE`.

    Attributes:
        gram: the left-hand side, (size, size), float64, on the CPU.
        right: the right-hand side, (size,), float64, on the CPU.
    """

    size: int
    ridge: float = RIDGE
    gram: Tensor = field(init=False)
    right: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.gram = torch.zeros(self.size, self.size, dtype=torch.float64)
        self.right = torch.zeros(self.size, dtype=torch.float64)

    def add(self, features: Sequence[Tensor], target: Tensor) -> None:
        """Add one prompt: minimise ``|| sum_k w_k features_k - target ||^2 / || target ||^2``.

        The error is relative to the target, so that prompts that are hard to predict do not dominate. A target of 0
        (nothing to correct) is left out.

        Args:
            features: ``size`` tensors of one shape, floating.
            target: a tensor of that shape.
        """
        flat = torch.stack([as_float64(f).flatten() for f in features])
        goal = as_float64(target).flatten()
        square = float(goal @ goal)
        if square > 0:
            self.gram += (flat @ flat.T).cpu() / square
            self.right += (flat @ goal).cpu() / square

    def __add__(self, other: NormalEquations) -> NormalEquations:
        return self._combined(other, 1.0)

    def __sub__(self, other: NormalEquations) -> NormalEquations:
        return self._combined(other, -1.0)

    def _combined(self, other: NormalEquations, sign: float) -> NormalEquations:
        both = NormalEquations(self.size, self.ridge)
        both.gram, both.right = self.gram + sign * other.gram, self.right + sign * other.right
        return both

    def solve(self) -> tuple[float, ...]:
        """Solve for the weights, ``size`` numbers; all 0 if all features are 0."""
        return tuple(float(w) for w in ridge_solve(self.gram, self.right, self.ridge))


def ridge_solve(gram: Tensor, right: Tensor, ridge: float = RIDGE) -> Tensor:
    """Solve a ridge regression: the weights w that minimise ``w' G w - 2 w' r + ridge * w' diag(G) w``.

    Args:
        gram: ``G``, the dot products of the features with each other, (n, n), float64, on the CPU.
        right: ``r``, the dot products of the features with the target, (n,), float64.
        ridge: relative to each feature's size.

    Returns:
        (n,), float64; all 0 if all features are 0.
    """
    scale = gram.diagonal()
    if not scale.max() > 0:
        return torch.zeros_like(right)
    regular = gram + torch.diag(ridge * scale + torch.finfo(torch.float64).tiny)
    solved: Tensor = torch.linalg.solve(regular, right)
    return solved
