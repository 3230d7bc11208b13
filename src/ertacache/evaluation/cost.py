"""The cost of a generation besides time: the denoiser's operations, and peak memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

from ertacache.runtime.denoisers import denoisers_of


@dataclass
class Cost:
    """One measurement; filled in when it ends.

    Args:
        flops: floating-point operations of the denoisers, by torch's formulas: matrix products, convolutions and
            attention.
        peak_bytes: the peak of the memory held by tensors, above that at the start, in bytes. On a CUDA device as
            counted by its allocator, elsewhere as allocated by torch in main memory.
    """

    flops: int = 0
    peak_bytes: int = 0


@contextmanager
def counting_flops(pipe: Any) -> Iterator[Cost]:
    """Count the floating-point operations of the pipeline's denoisers; cached steps count nothing.

    This is slow: do not measure time meanwhile.

    Args:
        pipe: a diffusers pipeline.
    """
    cost = Cost()
    counter: Any = _Counter()

    def begin(module: Any, args: Any) -> None:
        counter.__enter__()

    def end(module: Any, args: Any, output: Any) -> None:
        counter.__exit__(None, None, None)
        cost.flops = counter.flops

    hooks: list[Any] = []
    for module in denoisers_of(pipe).values():
        hooks += [module.register_forward_pre_hook(begin), module.register_forward_hook(end, always_call=True)]
    try:
        yield cost
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def watching_memory(device: torch.device | str) -> Iterator[Cost]:
    """Find the peak of the memory that tensors hold. Slow except on CUDA devices.

    Args:
        device: whose memory; for any but a CUDA device, main memory.
    """
    cost, device = Cost(), torch.device(device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield cost
        torch.cuda.synchronize(device)
        cost.peak_bytes = torch.cuda.max_memory_allocated(device) - before
        return
    with _quiet_profiler(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        yield cost
    held = 0
    profiler: Any = seen.profiler
    for event in profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            cost.peak_bytes = max(cost.peak_bytes, held)


@contextmanager
def _quiet_profiler() -> Iterator[None]:
    """Keep torch's profiler from logging its start and its end, unless the user chose a level."""
    name = "KINETO_LOG_LEVEL"
    if name in os.environ:
        yield
        return
    os.environ[name] = "99"
    try:
        yield
    finally:
        os.environ.pop(name, None)


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts with torch's formulas. Torch's own counter tracks modules too, and fails where one contains itself."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, operation = kwargs or {}, func._overloadpacket
        if operation not in _FORMULAS and operation is not torch.ops.prim.device:
            with self:  # a composite operation is counted by its parts
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        output = func(*args, **kwargs)
        if operation in _FORMULAS:
            self.flops += _FORMULAS[operation](*args, **kwargs, out_val=output)
        return output


def _attention_flops(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    count: Any = sdpa_flop_count
    return int(count(query.shape, key.shape, value.shape))


# The registry has attention kernels of GPUs only.
_FORMULAS: dict[Any, Any] = {
    **flop_registry,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
}
