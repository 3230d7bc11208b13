"""The first seam: the gate, which stands outside a denoiser's ``forward``, at its call.

`torch.nn.Module.__call__` hands over to ``module._compiled_call_impl`` where that is set; ``module.compile()`` sets
it. The gate takes this place for the length of a run, and calls what stood there before. So

- the class of the module does not change, and a compiled graph's guards hold;
- a compiled denoiser stays one graph, since the gate is outside of it;
- offloading hooks, which replace ``forward`` over and over, neither remove the gate nor see the cached steps.
"""

from __future__ import annotations

import copy
import dataclasses
import threading
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map


class GateKeeper(Protocol):
    """Who decides at each denoiser call; a `ertacache.runtime.run.Run`."""

    def denoise(self, module: nn.Module, call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Call the denoiser, or hand back what was kept of its last call."""


_lock = threading.Lock()


class Gate:
    """One module's gate. Runs in different threads share it, each seeing its own calls only."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.previous: Callable[..., Any] | None = vars(module).get("_compiled_call_impl")
        self.keepers: dict[int, GateKeeper] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the module's ``__call__`` does while the gate is there."""
        through = self.previous or self.module._call_impl
        keeper = self.keepers.get(threading.get_ident())
        return through(*args, **kwargs) if keeper is None else keeper.denoise(self.module, through, args, kwargs)


def install(module: nn.Module, keeper: GateKeeper) -> None:
    """Put ``keeper`` at the module's gate for calls from this thread."""
    with _lock:
        gate = vars(module).get("_compiled_call_impl")
        if not isinstance(gate, Gate):
            gate = Gate(module)
            module._compiled_call_impl = gate
        gate.keepers[threading.get_ident()] = keeper


def is_installed(module: nn.Module, keeper: GateKeeper) -> bool:
    """Whether calls of the module from this thread still pass ``keeper``."""
    gate = vars(module).get("_compiled_call_impl")
    return isinstance(gate, Gate) and gate.keepers.get(threading.get_ident()) is keeper


def remove(module: nn.Module) -> None:
    """Take this thread's keeper from the gate; the last one takes the gate away and leaves no attribute behind."""
    with _lock:
        gate = vars(module).get("_compiled_call_impl")
        if not isinstance(gate, Gate):
            return  # compiled anew in the middle of a run: what stands there now is the user's
        gate.keepers.pop(threading.get_ident(), None)
        if not gate.keepers:
            if gate.previous is None:
                del module._compiled_call_impl
            else:
                module._compiled_call_impl = gate.previous


def keep(output: Any) -> Any:
    """A copy of a denoiser's output, whatever its container: the original may be overwritten by a CUDA graph."""
    return tree_map(_copied, output)


def _copied(leaf: Any) -> Any:
    if isinstance(leaf, Tensor):
        return leaf.detach().clone()
    if dataclasses.is_dataclass(leaf) and not isinstance(leaf, type):  # an output class that pytrees do not know
        twin = copy.copy(leaf)
        for field in dataclasses.fields(leaf):
            object.__setattr__(twin, field.name, keep(getattr(leaf, field.name)))
        return twin
    return leaf


def shapes(args: Any, kwargs: Any) -> tuple[Any, ...]:
    """The shapes of all tensors in a call's arguments, which tell one call pattern from another."""
    leaves, _ = tree_flatten((args, kwargs))
    return tuple(tuple(leaf.shape) for leaf in leaves if isinstance(leaf, torch.Tensor))
