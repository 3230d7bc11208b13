"""The observer of a full generation that is learnt from."""

from __future__ import annotations

from torch import Tensor

from ertacache.learning.output_store import OutputStore
from ertacache.method.dot_products import gram_of_rows
from ertacache.runtime.observer import ComputedStep, Observer
from ertacache.runtime.streams import by_sample


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
        self._seen: list[list[int]] = []
        self.samples = 0

    def begin(self, as_calibrated: bool) -> None:
        """A trajectory begins."""
        self.forget()

    def computed(self, step: ComputedStep) -> None:
        """Keep the output of a step."""
        if step.stream == len(self._seen):
            self._seen.append([])
        seen = self._seen[step.stream]
        self._store.keep(_name(step.stream, len(seen)), step.truth.to(step.dtype))
        seen.append(step.index)
        if step.stream == 0:
            self.samples = len(by_sample(step.truth))

    @property
    def whole(self) -> bool:
        """Whether every step of the grid was made once, in order."""
        wanted = list(range(self.first, self.first + self.steps))
        return bool(self._seen) and all(seen == wanted for seen in self._seen)

    def grams(self) -> list[Tensor]:
        """The dot products of the outputs, (T, T), float64, for each latent that the loop steps."""
        streams = range(len(self._seen))
        return [gram_of_rows(self._store.rows([_name(k, place) for place in range(self.steps)])) for k in streams]

    def forget(self) -> None:
        """Let go of everything."""
        self._store.clear()
        self._seen = []


def _name(stream: int, place: int) -> str:
    return f"output {place} of latent {stream}"
