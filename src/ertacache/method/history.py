"""What the last computed steps left in the cache."""

from __future__ import annotations

from torch import Tensor


class History:
    """Entries of the last computed steps, newest first.

    Attributes:
        steps: which steps they are of.
        entries: one for each step.
        contrasts: how the guidance branches differed at each step; empty where there is one branch, or nobody asks.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.steps: list[int] = []
        self.entries: list[Tensor] = []
        self.contrasts: list[Tensor] = []

    def push(self, step: int, entry: Tensor, contrast: Tensor | None = None) -> None:
        """Take in a computed step, drop the oldest if there are more than ``size``."""
        self.steps = [step, *self.steps][: self.size]
        self.entries = [entry, *self.entries][: self.size]
        self.contrasts = [] if contrast is None else [contrast, *self.contrasts][: self.size]

    def clear(self) -> None:
        """Forget everything: another trajectory begins."""
        self.steps, self.entries, self.contrasts = [], [], []
