"""Make the key of a pipeline for caches of measurements: it changes with anything that outputs depend on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ertacache.runtime import parameter_samples
from ertacache.runtime.environment import environment_of
from ertacache.runtime.identity import Circumstances, identify
from ertacache.runtime.pipeline_settings import configuration_of
from ertacache.runtime.schedulers import parts_of
from ertacache.runtime.unwrap import own_class


def pipeline_key(pipe: Any, circumstances: Circumstances) -> str:
    """Digest all that a pipeline's outputs depend on, except the arguments of calls.

    Args:
        pipe: the pipeline.
        circumstances: those of its calls.

    Returns:
        16 hexadecimal digits; random ones if some weights cannot be read, so that nothing is reused by mistake.
    """
    modules = {name: part for name, part in getattr(pipe, "components", {}).items() if isinstance(part, nn.Module)}
    others = {name: identify(module) for name, module in modules.items() if name not in circumstances.denoisers}
    parts: list[Any] = [own_class(pipe).__name__, own_class(pipe.scheduler).__name__, environment_of(pipe)]
    parts += [[configuration_of(part) for part in parts_of(pipe.scheduler)], sorted(others.items()), circumstances]
    unsure = [d for d in (*others.values(), *circumstances.denoisers.values()) if parameter_samples.unread(d.weights)]
    return digest_of([*parts, uuid4().hex if unsure else ""])


def digest_of(parts: Sequence[Any]) -> str:
    """Digest objects by their ``repr`` to 16 hexadecimal digits; tensors, arrays and pictures by their content."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(repr(tree_map(_content, part)).encode())
    return digest.hexdigest()[:16]


def content_of(value: Any) -> list[Any] | None:
    """What tells a tensor, an array or a picture from others: shape, kind and a digest; None for anything else."""
    if isinstance(value, Tensor):
        data = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        return [tuple(value.shape), str(value.dtype), hashlib.sha256(data.tobytes()).hexdigest()]
    if not hasattr(value, "tobytes"):
        return None
    kind = [str(getattr(value, name, "")) for name in ("mode", "size", "shape", "dtype")]
    return [type(value).__name__, kind, hashlib.sha256(value.tobytes()).hexdigest()]


def _content(value: Any) -> Any:
    return content_of(value) or value
