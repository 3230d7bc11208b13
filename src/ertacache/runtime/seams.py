"""What stands beneath: the class under both class-based seams, the model under ``torch.compile``."""

from __future__ import annotations

from typing import Any

from torch import nn


def own_class(thing: object) -> type:
    """The class of a pipeline or scheduler without what this library put on top of it."""
    return getattr(type(thing), "_ertacache_class", type(thing))


def model_of(module: nn.Module) -> Any:
    """The module itself where ``torch.compile`` has wrapped it."""
    return getattr(module, "_orig_mod", module)


class Guise(type):
    """The metaclass of a scheduler's subclass, which equals the class it stands on: some pipelines compare types."""

    def __eq__(cls, other: object) -> bool:
        return other is cls or other is getattr(cls, "_ertacache_class", cls)

    def __hash__(cls) -> int:
        return hash(getattr(cls, "_ertacache_class", type(cls)))
