"""Sample a few elements of every parameter of a model, to tell checkpoints and fused adapters apart.

The weights are sampled at every call, on their device, so that every change is noticed: fusing an adapter changes them
in place and leaves no other trace. Quantised weights are sampled as they are stored. They are dequantised, each
parameter as a whole, only if two kinds of storage have to be compared, since that is slow.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from math import isnan, nan
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ertacache.offloaded_weights import OnDisk, on_disk, tensor_where_kept
from ertacache.policy import Weights

Array = NDArray[Any]

ELEMENTS = 4
"""How many elements of each parameter are sampled. A fused adapter changes all of a matrix, so more would not help."""
QUANTISED_ERROR = 0.35
"""The largest relative error (root mean square) of quantised weights against the original ones; 4 bits have 0.1."""
REMAINDER = 2e-6
"""The largest remainder, relative to the elements' root mean square, of an adapter fused and unfused in float32."""
DIFFERING = 0.02
"""The largest share of coarsely stored elements that may differ between two copies made from the same weights."""

_ADAPTER = re.compile(r"(?:^|\.)(?:lora|lokr|hada|oft|boft|ia3|vera|fourierft)_")
_WRAPPER = re.compile(r"(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|base_layer)\.")
_FUSED = {
    "to_qkv": ("to_q", "to_k", "to_v"),
    "to_kv": ("to_k", "to_v"),
    "to_added_qkv": ("add_q_proj", "add_k_proj", "add_v_proj"),
}
"""diffusers' fused attention projections, and the plain ones that each one joins, in order, along the first axis."""
_OF_ACTIVATIONS = ("input_scale", "output_scale")  # buffers that quantisation adds to a layer, not weights

_known_values: WeakKeyDictionary[nn.Module, tuple[tuple[float, ...], tuple[float, ...]]] = WeakKeyDictionary()
"""The dequantised values of a model's samples, with the stored elements for which they hold."""


def weights_of(model: nn.Module) -> Weights:
    """Sample every parameter and persistent buffer of a model, without its adapters."""
    return _sampled([(name, tensor) for name, tensor in _tensors(model) if not _ADAPTER.search(name)])


def adapters_of(model: nn.Module, active: Iterable[str]) -> Weights:
    """Sample the parameters of a model's adapters.

    Args:
        model: the model.
        active: the names of the adapters to sample.
    """
    names = frozenset(active)
    if not names:
        return Weights("")
    named = [pair for pair in _tensors(model) if _ADAPTER.search(pair[0]) and not names.isdisjoint(pair[0].split("."))]
    return _sampled(named)


def with_values(weights: Weights, model: nn.Module) -> Weights:
    """Add dequantised values to samples if some are quantised; they are kept until the model's weights change.

    Args:
        weights: what `weights_of` returned.
        model: the model.
    """
    if all(_dtype(kind) is not None or kind == _UNREAD for kind, _ in weights.storage):
        return weights
    known = _known_values.get(model)
    if known is None or not _same_numbers(known[0], weights.elements):
        named = [(name, tensor) for name, tensor in _tensors(model) if not _ADAPTER.search(name)]
        samples = [_sample(_dequantised(tensor)) for _, tensor in sorted(named, key=lambda pair: pair[0])]
        known = _known_values[model] = weights.elements, _read(samples)
    return replace(weights, values=known[1])


def difference(expected: Weights, actual: Weights, model: nn.Module | None = None) -> tuple[bool, str]:
    """Compare two samples of weights.

    Args:
        expected: the policy's; with dequantised values if its weights were quantised.
        actual: the pipeline's.
        model: the pipeline's model, to dequantise its weights if that is needed.

    Returns:
        Whether the weights differ by more than their kinds of storage explain; and why this is not certain, as text,
        which is empty if both are stored alike and all samples were compared.
    """
    if not expected.layout:
        return False, "the policy holds no samples of them"
    if expected.layout != actual.layout:
        return True, ""
    if expected.storage == actual.storage:
        return _differ(expected, actual), _doubt(expected, actual)
    if model is not None:
        actual = with_values(actual, model)
    if not expected.values and not actual.values:
        return _differ(expected, actual), _doubt(expected, actual) or _stored_otherwise(expected, actual)
    if len(_values(expected)) != len(_values(actual)):
        return False, f"{_stored_otherwise(expected, actual)}, which cannot be compared"
    a, b = np.array(_values(expected)), np.array(_values(actual))
    rounded = np.abs(a - b) > 1e-3 * np.abs(a)  # the others are not quantised; false for NaN
    error = float(np.sqrt(((a - b)[rounded] ** 2).sum() / max((a[rounded] ** 2).sum(), _TINY)))
    return error > QUANTISED_ERROR, f"{_stored_otherwise(expected, actual)}, and differ by {error:.1%}"


def _stored_otherwise(expected: Weights, actual: Weights) -> str:
    return (
        f"they are stored as {kinds(actual)} here, and were as {kinds(expected)} in calibration (what another "
        "precision loses was measured in docs/how-to/quantised.md)"
    )


def unread(weights: Weights) -> str:
    """Say why some samples are missing; empty if none are."""
    missing = sum(map(isnan, weights.elements))
    share = "none" if missing == len(weights.elements) else f"{1 - missing / len(weights.elements):.0%}"
    return f"{share} of the samples can be read where the weights are now" if missing else ""


def kinds(weights: Weights) -> str:
    """Name the kinds of storage of sampled weights, the most frequent first, three at most."""
    counts: dict[str, int] = {}
    for kind, count in weights.storage:
        counts[kind] = counts.get(kind, 0) + count
    return ", ".join(sorted(counts, key=lambda kind: -counts[kind])[:3]) or "nothing"


def _tensors(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield every parameter and persistent floating buffer once, from where it is now.

    Names are those of the plain model, without wrappers, and with fused projections split.
    """
    seen: set[int] = set()
    replaced: set[str] = set()
    kept = on_disk(model)
    for path, module in model.named_modules():
        if path in replaced:
            continue
        prefix = _WRAPPER.sub("", f"{path}.") if path else ""
        if vars(module).get("fused_projections"):
            for name, tensor in _projections(module):
                yield prefix + name, tensor
            for whole in _FUSED.keys() & module._modules.keys():
                replaced |= {f"{path}.{child}" for child in (whole, *_FUSED[whole])}
        for name, tensor in (*module._parameters.items(), *_buffers(module)):
            if tensor is not None and id(tensor) not in seen:
                seen.add(id(tensor))
                yield prefix + name, kept[id(tensor)] if id(tensor) in kept else tensor_where_kept(module, name)


def _buffers(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, buffer in module._buffers.items():
        if buffer is None or name in module._non_persistent_buffers_set or name in _OF_ACTIVATIONS:
            continue
        if buffer.is_floating_point():
            yield name, buffer


def _projections(attention: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the plain projections that fused ones join, as views of them."""
    for whole, parts in _FUSED.items():
        layer = attention._modules.get(whole)
        if layer is None:
            continue
        plain = [attention._modules.get(part) for part in parts]
        for name, tensor in layer._parameters.items():
            if tensor is not None:
                rows = [len(getattr(part, name)) if part is not None else len(tensor) // len(parts) for part in plain]
                for part, view in zip(parts, torch.split(tensor.detach(), rows), strict=True):
                    yield f"{part}.{name}", view


@torch.no_grad()
def _sampled(named: Iterable[tuple[str, Any]]) -> Weights:
    storage: list[tuple[str, int]] = []
    samples: list[tuple[int, Tensor | None]] = []
    names: list[str] = []
    for name, tensor in sorted(named, key=lambda pair: pair[0]):
        names.append(name)
        # Nearly all tensors are plain, so these take a short cut.
        plain = type(tensor) in _PLAIN and tensor.is_floating_point() and not tensor.is_meta
        for kind, stored in ((_name_of(tensor.dtype), tensor),) if plain else _stored(tensor):
            samples.append(_sample(stored))
            storage.append((kind, samples[-1][0]))
    runs = tuple((kind, sum(n for _, n in run)) for kind, run in groupby(storage, key=lambda pair: pair[0]))
    return Weights(hashlib.sha256("\n".join(names).encode()).hexdigest()[:16], runs, _read(samples))


def _stored(tensor: Any) -> Iterator[tuple[str, Any]]:
    """Yield the plain tensors that a parameter is stored as, each with its kind."""
    if isinstance(tensor, OnDisk):
        tensor = tensor.read()
    name, dtype = type(tensor).__name__, _name_of(tensor.dtype)
    if hasattr(tensor, "device_mesh") or tensor.is_meta:  # spread over processes, or not in memory
        yield _UNREAD, min(ELEMENTS, tensor.numel())
    elif hasattr(tensor, "__tensor_flatten__"):  # torchao, quanto
        for inner in tensor.__tensor_flatten__()[0]:
            for kind, plain in _stored(getattr(tensor, inner)):
                yield kind if kind == _UNREAD else f"{kind} of {name}", plain
    elif hasattr(tensor, "quant_type") or not tensor.is_floating_point():  # GGUF, bitsandbytes
        of = f"{name} {getattr(tensor, 'quant_type', '')}".strip()
        with torch._C.DisableTorchFunctionSubclass():
            yield f"{dtype} of {of}", tensor.detach().as_subclass(Tensor)
    else:
        yield dtype, tensor.detach()


def _sample(tensor: Any) -> tuple[int, Tensor | None]:
    """Pick a few elements, evenly spaced in logical order; return how many, and the elements.

    A number in place of a tensor stands for that many elements that cannot be read; they are None.
    """
    if isinstance(tensor, int):
        return tensor, None
    numel = tensor.numel()
    count, step = min(ELEMENTS, numel), max(1, (numel - 1) // (ELEMENTS - 1))
    if tensor.is_contiguous():
        return count, torch.as_strided(tensor, (count,), (step,), tensor.storage_offset())
    places = np.unravel_index(np.arange(count) * step, tuple(tensor.shape))
    return count, torch.stack([tensor[tuple(map(int, place))] for place in zip(*places, strict=True)])


def _read(samples: Sequence[tuple[int, Tensor | None]]) -> tuple[float, ...]:
    """Read all samples as float32 numbers, NaN for those that cannot be read; waits once for each device and dtype."""
    groups: dict[tuple[torch.device, torch.dtype], list[tuple[int, int, Tensor]]] = {}
    start = 0
    for count, sample in samples:
        if sample is not None:
            groups.setdefault((sample.device, sample.dtype), []).append((start, count, sample))
        start += count
    numbers = [nan] * start
    for (_, dtype), group in groups.items():
        parts = [part for _, _, part in group]
        if dtype.itemsize == 1:  # torch.cat does not support every 8-bit float
            parts = [part.view(torch.uint8) for part in parts]
        joined = torch.cat(parts).view(dtype).float().tolist()
        read = 0
        for start, count, _ in group:
            numbers[start : start + count] = joined[read : read + count]
            read += count
    return tuple(numbers)


def _dequantised(tensor: Any) -> Any:
    """Dequantise a parameter to a plain tensor; if that is not possible, return how many elements would be sampled."""
    if isinstance(tensor, OnDisk):
        tensor = tensor.read()
    if hasattr(tensor, "device_mesh") or tensor.is_meta:
        return min(ELEMENTS, tensor.numel())
    try:
        if hasattr(tensor, "__tensor_flatten__"):
            return tensor.detach().dequantize()
        if getattr(tensor, "quant_state", None) is not None:
            from bitsandbytes.functional import dequantize_4bit

            return dequantize_4bit(tensor.data, tensor.quant_state)
        if hasattr(tensor, "quant_shape"):
            from diffusers.quantizers.gguf.utils import dequantize_gguf_tensor

            return dequantize_gguf_tensor(tensor)
        if isinstance(getattr(tensor, "SCB", None), Tensor):
            return tensor.data * tensor.SCB[:, None] / 127
    except Exception:  # a quantisation package's code may fail in any way on this device
        return ELEMENTS
    return tensor.detach() if tensor.is_floating_point() else ELEMENTS


def _values(weights: Weights) -> tuple[float, ...]:
    return weights.values or weights.elements


def _differ(expected: Weights, actual: Weights) -> bool:
    """Whether elements differ by more than both roundings allow.

    Floats of 16 bits or more may differ by both roundings, and by the remainder of an adapter that was fused and
    unfused. Coarser elements are rounded alike from the same weights, so hardly any of them may differ.
    """
    if len(expected.elements) != len(actual.elements):
        return True
    a, b = (np.array(weights.elements) for weights in (expected, actual))
    relative_a, absolute_a, coarse_a = _by_element(expected)
    relative_b, absolute_b, coarse_b = _by_element(actual)
    read = ~(np.isnan(a) | np.isnan(b))
    size = float(np.sqrt((a[read] ** 2).mean())) if read.any() else 0.0
    allowed = relative_a * np.abs(a) + absolute_a + relative_b * np.abs(b) + absolute_b + REMAINDER * size
    far = read & (np.abs(a - b) > allowed)
    coarse = read & coarse_a & coarse_b & (expected.storage == actual.storage)
    unlike = coarse & (np.abs(a - b) > 1e-3 * np.abs(a))
    return bool((far & ~coarse).any()) or bool(unlike.sum() > DIFFERING * coarse.sum())


def _by_element(weights: Weights) -> tuple[Array, Array, Array]:
    """For each element: the relative and the absolute part of its rounding error, and whether it is stored coarsely."""
    rows = []
    for kind, _ in weights.storage:
        dtype = _dtype(kind)
        finfo = torch.finfo(dtype or torch.float32)
        rows.append((0.51 * finfo.eps, 0.51 * finfo.eps * finfo.smallest_normal, dtype is None or dtype.itemsize == 1))
    counts = [count for _, count in weights.storage]
    relative, absolute, coarse = (
        (np.repeat(column, counts) for column in zip(*rows, strict=True)) if rows else [np.empty(0)] * 3
    )
    return relative, absolute, coarse.astype(bool)


def _doubt(expected: Weights, actual: Weights) -> str:
    missing = sum(isnan(a) or isnan(b) for a, b in zip(expected.elements, actual.elements, strict=False))
    if not missing:
        return ""
    share = "they" if missing == len(expected.elements) else f"{missing / len(expected.elements):.0%} of them"
    return f"{share} cannot be read where they are now, or could not in calibration"


@functools.cache
def _name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _same_numbers(one: Sequence[float], other: Sequence[float]) -> bool:
    return len(one) == len(other) and all(a == b or (isnan(a) and isnan(b)) for a, b in zip(one, other, strict=True))


def _dtype(kind: str) -> torch.dtype | None:
    """The floating dtype that a kind of storage names, or None if it is quantised, or was not read."""
    dtype = getattr(torch, kind, None)
    return dtype if isinstance(dtype, torch.dtype) and dtype.is_floating_point else None


_TINY = 1e-30
_UNREAD = "unread"
_PLAIN = (nn.Parameter, Tensor)
