"""Which errors say that memory is full, and what to do about it; torch is not imported for that."""

from __future__ import annotations

from typing import NamedTuple

from ertacache.errors import ERTACacheError

_OF_DEVICE = ("out of memory", "STATUS_ALLOC_FAILED")  # the latter of cuBLAS and cuDNN
_OF_MAIN_MEMORY = ("DefaultCPUAllocator",)
_LESS = "load it in half precision (--dtype bfloat16), or ask for a smaller size (--set height=512), if not done yet."


class FullMemory(NamedTuple):
    """A memory that was full.

    Attributes:
        what: which one, as the beginning of a message.
        cure: what to do about it, from the command line and from Python.
    """

    what: str
    cure: str


def full_memory(error: BaseException) -> FullMemory | None:
    """The memory that an error says was full, or None for an error of another kind.

    Args:
        error: of torch on CUDA, XPU and MPS, of its allocator in main memory, or of Python.
    """
    if isinstance(error, ERTACacheError):
        return None
    text = str(error) if isinstance(error, RuntimeError) else ""
    if isinstance(error, MemoryError) or any(sign in text for sign in _OF_MAIN_MEMORY):
        return FullMemory("main memory is full", f"Close other programs; {_LESS}")
    if type(error).__name__ == "OutOfMemoryError" or any(sign in text for sign in _OF_DEVICE):
        offload = "Let parts of the model wait in main memory (--offload; pipe.enable_model_cpu_offload() in Python),"
        return FullMemory("the memory of the device is full", f"{offload} {_LESS}")
    return None
