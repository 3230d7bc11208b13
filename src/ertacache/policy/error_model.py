"""The error model of Eq. (15) in a policy: its K and B for every cached step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ertacache.arguments import invalid, normalized, one_of, refused, whole
from ertacache.files import entries
from ertacache.method.prediction import LARGEST_FACTOR
from ertacache.method.rectification import GRANULARITIES, Granularity

_wrong = invalid("policy")


def _fitted(name: str, value: Any) -> Tensor:
    """A tensor of factors, float64."""
    fits = isinstance(value, Tensor) and value.dtype == torch.float64 and not value.is_meta
    if not fits or not bool((value.abs() <= LARGEST_FACTOR).all()):  # false of NaN too
        raise refused(name, value, f"a tensor of float64, finite and within {LARGEST_FACTOR:g}")
    return value  # type: ignore[no-any-return]  # a tensor


@dataclass(frozen=True, eq=False)
class Rectification:
    """``K`` and ``B`` of Eq. (15), float64, stacked over the cached steps: (steps, *granularity's shape)."""

    granularity: Granularity
    axis: int
    k: Tensor
    b: Tensor

    def __post_init__(self) -> None:
        normalized(self, _wrong, granularity=one_of(*GRANULARITIES), axis=partial(whole, at_least=1, at_most=8))
        normalized(self, _wrong, k=_fitted, b=_fitted)
        axes = {"step": (1,), "channel": (2,), "element": range(2, 9)}[self.granularity]
        if self.k.shape != self.b.shape or self.k.ndim not in axes:
            raise _wrong(f"the rectification has K and B of shapes {[*self.k.shape]} and {[*self.b.shape]}")

    def part_of(self, shape: Sequence[int]) -> tuple[int, ...]:
        """What K and B have one entry for, in outputs of this shape, which is without the batch axis."""
        axes = {"step": slice(0), "channel": slice(self.axis - 1, self.axis), "element": slice(None)}
        return tuple(shape[axes[self.granularity]])

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors by name, as a file takes them."""
        # Clones: safetensors refuses tensors that share memory.
        named = {"rectification.k": self.k, "rectification.b": self.b}
        return {name: tensor.clone().contiguous() for name, tensor in named.items()}

    def metadata(self) -> dict[str, Any]:
        """The rest of it, as JSON takes it."""
        return {"granularity": self.granularity, "axis": self.axis}

    @classmethod
    def parsed(cls, content: Any, tensors: dict[str, Tensor]) -> Rectification:
        """What `metadata` and `tensors` wrote; its tensors are taken out of the mapping.

        Raises:
            PolicyFileError: if they are no error model.
        """
        plain = entries(cls, content, "rectification", {"k", "b"})
        return cls(k=tensors.pop("rectification.k"), b=tensors.pop("rectification.b"), **plain)
