"""The observer of a full generation that is learnt from."""

from __future__ import annotations

from torch import Tensor

from ertacache.learning.output_store import OutputStore
from ertacache.method.dot_products import gram_of_rows
from ertacache.runtime.observer import ComputedStep, Observer


class FullGeneration(Observer):
    """Keeps what each step computed, and makes the Gram matrix of it.

    Args:
        steps: how many steps the call makes.
        first: the step of the grid that it begins with.
        memory_limit: see `OutputStore`.
    """

    def __init__(self, steps: int, first: int, memory_limit: float) -> None:
        self.steps, self.first = steps, first
        self._store = OutputStore(memory_limit)
        self._seen: list[int] = []
        self.samples = 0

    def begin(self, as_calibrated: bool) -> None:
        """A trajectory begins."""
        self.forget()

    def computed(self, step: ComputedStep) -> None:
        """Keep the output of a step."""
        place = len(self._seen)
        self._seen.append(step.index)
        self.samples = len(step.truth)
        self._store.keep(f"output {place}", step.truth.to(step.dtype))

    @property
    def whole(self) -> bool:
        """Whether every step of the grid was made once, in order."""
        return self._seen == list(range(self.first, self.first + self.steps))

    def gram(self) -> Tensor:
        """The dot products of the outputs, (T, T), float64."""
        return gram_of_rows(self._store.rows([f"output {place}" for place in range(self.steps)]))

    def forget(self) -> None:
        """Let go of everything."""
        self._store.clear()
        self._seen = []
