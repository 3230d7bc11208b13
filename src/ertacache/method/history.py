"""The cache of a run: what the last computed steps left for the cached steps that follow."""

from __future__ import annotations

from torch import Tensor


class History:
    """The cache entries of the last computed steps, newest first.

    Args:
        size: how many steps to keep, 1 or more.

    Attributes:
        steps: the computed steps.
        entries: one for each step, as `ertacache.method.residual.to_cache` makes it, (batch, ...).
        contrasts: for each step, the difference of the guidance branches, (batch, ...); empty with one branch, or if
            the policy does not use contrasts.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.steps: list[int] = []
        self.entries: list[Tensor] = []
        self.contrasts: list[Tensor] = []

    def push(self, step: int, entry: Tensor, contrast: Tensor | None = None) -> None:
        """Add a computed step in front; drop the oldest beyond ``size``."""
        self.steps = [step, *self.steps][: self.size]
        self.entries = [entry, *self.entries][: self.size]
        self.contrasts = [] if contrast is None else [contrast, *self.contrasts][: self.size]

    def clear(self) -> None:
        """Remove everything, as when another trajectory begins."""
        self.steps, self.entries, self.contrasts = [], [], []
