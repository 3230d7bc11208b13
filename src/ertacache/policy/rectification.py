"""The paper's error model as a part of a policy: K and B for every cached step (`ertacache.method.rectification`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ertacache.files import entries
from ertacache.method.prediction import LARGEST_FACTOR
from ertacache.method.rectification import GRANULARITIES, Granularity
from ertacache.value_checks import invalid, normalized, one_of, refused, whole

_wrong = invalid("policy")


def _fitted(name: str, value: Any) -> Tensor:
    """Check a tensor of factors, float64."""
    fits = isinstance(value, Tensor) and value.dtype == torch.float64 and not value.is_meta
    if not fits or not bool((value.abs() <= LARGEST_FACTOR).all()):  # false for NaN too
        raise refused(name, value, f"a float64 tensor with finite values up to {LARGEST_FACTOR:g}")
    return value  # type: ignore[no-any-return]  # a tensor


@dataclass(frozen=True, eq=False)
class Rectification:
    """K and B of the error model, stacked over the cached steps.

    Args:
        granularity: what one K and B is for: a ``step``, a ``channel`` or an ``element``.
        axis: the channel axis of the model output, 1 to 8, where the batch axis is 0.
        k: float64: (cached steps,), (cached steps, channels), or (cached steps, *shape of one sample).
        b: float64, of the shape of ``k``.

    Raises:
        PolicyFileError: if a value has the wrong type, shape or range.
    """

    granularity: Granularity
    axis: int
    k: Tensor
    b: Tensor

    def __post_init__(self) -> None:
        normalized(self, _wrong, granularity=one_of(*GRANULARITIES), axis=partial(whole, at_least=1, at_most=8))
        normalized(self, _wrong, k=_fitted, b=_fitted)
        axes = {"step": (1,), "channel": (2,), "element": range(2, 9)}[self.granularity]
        if self.k.shape != self.b.shape or self.k.ndim not in axes:
            shapes = f"{[*self.k.shape]} and {[*self.b.shape]}"
            raise _wrong(f"K and B of a rectification per {self.granularity} cannot have the shapes {shapes}")

    def part_of(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of one step's K and B, for model outputs of this shape (without the batch axis)."""
        axes = {"step": slice(0), "channel": slice(self.axis - 1, self.axis), "element": slice(None)}
        return tuple(shape[axes[self.granularity]])

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name, for a file; `parsed` reads them."""
        # Clones: safetensors refuses tensors that share memory.
        named = {"rectification.k": self.k, "rectification.b": self.b}
        return {name: tensor.clone().contiguous() for name, tensor in named.items()}

    def metadata(self) -> dict[str, Any]:
        """All but the tensors, as JSON data; `parsed` reads it."""
        return {"granularity": self.granularity, "axis": self.axis}

    @classmethod
    def parsed(cls, content: Any, tensors: dict[str, Tensor]) -> Rectification:
        """Read what `metadata` and `tensors` returned; the tensors used are removed from the mapping.

        Raises:
            PolicyFileError: if the content is not an error model.
        """
        plain = entries(cls, content, "rectification", {"k", "b"})
        return cls(k=tensors.pop("rectification.k"), b=tensors.pop("rectification.b"), **plain)
