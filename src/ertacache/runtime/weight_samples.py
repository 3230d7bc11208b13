"""A few elements of every parameter of a model: what tells a checkpoint, or a fused adapter, from another one.

Elements are read where the weights are, at every call, so that a change by any way is noticed: adapters that are fused
write behind autograd's back, and leave no other trace. Quantised weights are read as they are stored. What they stand
for is found by dequantising each parameter as a whole, which takes long, and so only where two kinds of storage have to
be compared.
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

from ertacache.offloading import OnDisk, at_hand, on_disk
from ertacache.policy import Weights

Array = NDArray[Any]

ELEMENTS = 4
"""Of every parameter. A fused adapter changes all of a matrix, so that more would tell no more."""
QUANTISED_ERROR = 0.35
"""How far quantised weights may be from those they were made of, root mean square, relative; 4 bits are off by 0.1."""
REMAINDER = 2e-6
"""What an adapter may leave of itself, of the elements' root mean square, when it is fused and taken out in float32."""
DIFFERING = 0.02
"""What share of coarsely stored elements may differ between two copies that were made of the same weights."""

_ADAPTER = re.compile(r"(?:^|\.)(?:lora|lokr|hada|oft|boft|ia3|vera|fourierft)_")
_WRAPPER = re.compile(r"(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|base_layer)\.")
_FUSED = {
    "to_qkv": ("to_q", "to_k", "to_v"),
    "to_kv": ("to_k", "to_v"),
    "to_added_qkv": ("add_q_proj", "add_k_proj", "add_v_proj"),
}
"""What diffusers' attention makes of its projections when they are fused: these, in order, along the first axis."""
_OF_ACTIVATIONS = ("input_scale", "output_scale")  # buffers that quantisation adds to a layer, not weights

_known_values: WeakKeyDictionary[nn.Module, tuple[tuple[float, ...], tuple[float, ...]]] = WeakKeyDictionary()


def weights_of(model: nn.Module) -> Weights:
    """Sample every parameter and persistent buffer of a model, but for its adapters'."""
    return _sampled([(name, tensor) for name, tensor in _tensors(model) if not _ADAPTER.search(name)])


def adapters_of(model: nn.Module, active: Iterable[str]) -> Weights:
    """Sample the parameters of the adapters of these names."""
    names = frozenset(active)
    if not names:
        return Weights("")
    named = [pair for pair in _tensors(model) if _ADAPTER.search(pair[0]) and not names.isdisjoint(pair[0].split("."))]
    return _sampled(named)


def with_values(weights: Weights, model: nn.Module) -> Weights:
    """The same with what its quantised elements stand for, if there are any; found once for a model as it is."""
    if all(_dtype(kind) is not None or kind == _UNREAD for kind, _ in weights.storage):
        return weights
    known = _known_values.get(model)
    if known is None or not _same_numbers(known[0], weights.elements):
        named = [(name, tensor) for name, tensor in _tensors(model) if not _ADAPTER.search(name)]
        samples = [_sample(_dequantised(tensor)) for _, tensor in sorted(named, key=lambda pair: pair[0])]
        known = _known_values[model] = weights.elements, _read(samples)
    return replace(weights, values=known[1])


def difference(expected: Weights, actual: Weights, model: nn.Module | None = None) -> tuple[bool, str]:
    """Whether two samples are of other weights, and where they were hardly comparable, why.

    Args:
        expected: of the policy, with values if it is of quantised weights.
        actual: of the pipeline at hand.
        model: of which ``actual`` is, if what quantised elements stand for may have to be found.

    Returns:
        Whether they differ by more than their ways of storing explain; and a doubt, or nothing if they were stored
        alike and all compared.
    """
    if not expected.layout:
        return False, "the policy does not know them"
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
    rounded = np.abs(a - b) > 1e-3 * np.abs(a)  # the others are not quantised; NaN is none of either
    error = float(np.sqrt(((a - b)[rounded] ** 2).sum() / max((a[rounded] ** 2).sum(), _TINY)))
    return error > QUANTISED_ERROR, f"{_stored_otherwise(expected, actual)}, and differ by {error:.1%}"


def _stored_otherwise(expected: Weights, actual: Weights) -> str:
    return f"they are stored as {kinds(actual)} here, and were as {kinds(expected)} in calibration"


def unread(weights: Weights) -> str:
    """Why samples are not all there; nothing if they are."""
    missing = sum(map(isnan, weights.elements))
    share = "none" if missing == len(weights.elements) else f"{1 - missing / len(weights.elements):.0%}"
    return f"{share} of the samples can be read where the weights are now" if missing else ""


def kinds(weights: Weights) -> str:
    """How weights are stored, the most frequent first."""
    counts: dict[str, int] = {}
    for kind, count in weights.storage:
        counts[kind] = counts.get(kind, 0) + count
    return ", ".join(sorted(counts, key=lambda kind: -counts[kind])[:3]) or "nothing"


def _tensors(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Every parameter and persistent floating buffer once, by the name it has in the plain model, from where it is."""
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
                yield prefix + name, kept[id(tensor)] if id(tensor) in kept else at_hand(module, name)


def _buffers(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, buffer in module._buffers.items():
        if buffer is None or name in module._non_persistent_buffers_set or name in _OF_ACTIVATIONS:
            continue
        if buffer.is_floating_point():
            yield name, buffer


def _projections(attention: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The projections that a fused one consists of, as views of it."""
    for whole, parts in _FUSED.items():
        layer = attention._modules.get(whole)
        if layer is None:
            continue
        own = [attention._modules.get(part) for part in parts]
        for name, tensor in layer._parameters.items():
            if tensor is not None:
                rows = [len(getattr(part, name)) if part is not None else len(tensor) // len(parts) for part in own]
                for part, view in zip(parts, torch.split(tensor.detach(), rows), strict=True):
                    yield f"{part}.{name}", view


@torch.no_grad()
def _sampled(named: Iterable[tuple[str, Any]]) -> Weights:
    storage: list[tuple[str, int]] = []
    samples: list[tuple[int, Tensor | None]] = []
    names: list[str] = []
    for name, tensor in sorted(named, key=lambda pair: pair[0]):
        names.append(name)
        plain = type(tensor) in _PLAIN and tensor.is_floating_point() and not tensor.is_meta  # nearly all, so at once
        for kind, stored in ((_name_of(tensor.dtype), tensor),) if plain else _stored(tensor):
            samples.append(_sample(stored))
            storage.append((kind, samples[-1][0]))
    runs = tuple((kind, sum(n for _, n in run)) for kind, run in groupby(storage, key=lambda pair: pair[0]))
    return Weights(hashlib.sha256("\n".join(names).encode()).hexdigest()[:16], runs, _read(samples))


def _stored(tensor: Any) -> Iterator[tuple[str, Any]]:
    """The plain tensors that a parameter is stored as, each with its kind."""
    if isinstance(tensor, OnDisk):
        tensor = tensor.read()
    name, dtype = type(tensor).__name__, _name_of(tensor.dtype)
    if hasattr(tensor, "device_mesh") or tensor.is_meta:  # ranks would have to talk; or it is nowhere
        yield _UNREAD, min(ELEMENTS, tensor.numel())
    elif hasattr(tensor, "__tensor_flatten__"):  # torchao's, quanto's
        for inner in tensor.__tensor_flatten__()[0]:
            for kind, plain in _stored(getattr(tensor, inner)):
                yield kind if kind == _UNREAD else f"{kind} of {name}", plain
    elif hasattr(tensor, "quant_type") or not tensor.is_floating_point():  # GGUF's, bitsandbytes'
        of = f"{name} {getattr(tensor, 'quant_type', '')}".strip()
        with torch._C.DisableTorchFunctionSubclass():
            yield f"{dtype} of {of}", tensor.detach().as_subclass(Tensor)
    else:
        yield dtype, tensor.detach()


def _sample(tensor: Any) -> tuple[int, Tensor | None]:
    """A few elements, evenly spaced in logical order, and how many; None of what cannot be read."""
    if isinstance(tensor, int):
        return tensor, None
    numel = tensor.numel()
    count, step = min(ELEMENTS, numel), max(1, (numel - 1) // (ELEMENTS - 1))
    if tensor.is_contiguous():
        return count, torch.as_strided(tensor, (count,), (step,), tensor.storage_offset())
    places = np.unravel_index(np.arange(count) * step, tuple(tensor.shape))
    return count, torch.stack([tensor[tuple(map(int, place))] for place in zip(*places, strict=True)])


def _read(samples: Sequence[tuple[int, Tensor | None]]) -> tuple[float, ...]:
    """All samples as numbers of float32, with one wait for each device and dtype."""
    groups: dict[tuple[torch.device, torch.dtype], list[tuple[int, int, Tensor]]] = {}
    start = 0
    for count, sample in samples:
        if sample is not None:
            groups.setdefault((sample.device, sample.dtype), []).append((start, count, sample))
        start += count
    numbers = [nan] * start
    for (_, dtype), group in groups.items():
        parts = [part for _, _, part in group]
        if dtype.itemsize == 1:  # not every operation knows every float of 8 bits
            parts = [part.view(torch.uint8) for part in parts]
        joined = torch.cat(parts).view(dtype).float().tolist()
        read = 0
        for start, count, _ in group:
            numbers[start : start + count] = joined[read : read + count]
            read += count
    return tuple(numbers)


def _dequantised(tensor: Any) -> Any:
    """What a parameter stands for, as a plain tensor; if nobody knows, how many elements would be sampled of it."""
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
    except Exception:  # whatever a quantisation's own code does on this device; then it is not known
        return ELEMENTS
    return tensor.detach() if tensor.is_floating_point() else ELEMENTS


def _values(weights: Weights) -> tuple[float, ...]:
    return weights.values or weights.elements


def _differ(expected: Weights, actual: Weights) -> bool:
    """Whether elements differ by more than both ways of rounding them allow.

    Floats of 16 bits and more may be off by their roundings, or by one after an adapter was fused and taken out again.
    Coarser ones are rounded alike from the same weights, so hardly any of them may differ.
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
    """For each element: the relative and the absolute part of its rounding, and whether it is stored coarsely."""
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
    """The float that a kind of storage is; None of what is quantised, or was not read."""
    found = getattr(torch, kind, None)
    return found if isinstance(found, torch.dtype) and found.is_floating_point else None


_TINY = 1e-30
_UNREAD = "unread"
_PLAIN = (nn.Parameter, Tensor)
