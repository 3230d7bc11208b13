"""Aligned rectification: weights of a prediction that land the trajectory where the full run's is.

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
RIDGE = 1e-6
"""Pulls weights to 0 (reuse), relative to each feature's own size: enough to keep nearly parallel differences from
taking huge opposite weights, too little to move anything else."""


def features(history: Sequence[Tensor], order: int) -> list[Tensor]:
    """``h_k - h_{k+1}`` for k = 1 .. order, as many as the history gives, and ``h_1``.

    Args:
        history: tensors of one shape and dtype, newest first.
        order: the highest difference, 1 to `MAX_ORDER`.

    Returns:
        At most ``order + 1`` tensors of that shape and dtype.
    """
    return [history[k] - history[k + 1] for k in range(min(order, len(history) - 1))] + [history[0]]


@dataclass
class NormalEquations:
    """Least squares over all prompts, summed one prompt at a time in float64.

    Equations of the same features can be added and subtracted: those of all prompts less one's own are what the other
    prompts say.

    Args:
        size: the number of unknowns.
        ridge: see `RIDGE`.
    """

    size: int
    ridge: float = RIDGE
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
        return tuple(float(w) for w in ridge_solve(self.gram, self.right, self.ridge))


def ridge_solve(gram: Tensor, right: Tensor, ridge: float = RIDGE) -> Tensor:
    """The weights w that minimise ``w' G w - 2 w' r + ridge * w' diag(G) w``.

    Args:
        gram: ``G``, the dot products of the features, (n, n), float64, on the CPU.
        right: ``r``, those of the features with the target, (n,), float64.
        ridge: relative to each feature's own size.

    Returns:
        (n,), float64; zeros where the features vanish.
    """
    scale = gram.diagonal()
    if not scale.max() > 0:
        return torch.zeros_like(right)
    regular = gram + torch.diag(ridge * scale + torch.finfo(torch.float64).tiny)
    solved: Tensor = torch.linalg.solve(regular, right)
    return solved
