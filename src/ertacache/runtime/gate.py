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

from torch import Tensor, nn
from torch.utils._pytree import tree_map


class GateKeeper(Protocol):
    """Who decides at each denoiser call; a `ertacache.runtime.run.Run`."""

    def denoise(self, module: nn.Module, call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Call the denoiser, or hand back what was kept of its last call."""


_lock = threading.Lock()


class Gate:
    """One module's gate. Runs in different threads share it, each seeing its own calls only."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.was_set = "_compiled_call_impl" in vars(module)
        self.previous: Callable[..., Any] | None = vars(module).get("_compiled_call_impl")
        self.keepers: dict[int, list[GateKeeper]] = {}  # of each thread; a call made in another's callback is last

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the module's ``__call__`` does while the gate is there."""
        through = self.previous or self.module._call_impl
        keepers = self.keepers.get(threading.get_ident())
        return keepers[-1].denoise(self.module, through, args, kwargs) if keepers else through(*args, **kwargs)


def install(module: nn.Module, keeper: GateKeeper) -> None:
    """Put ``keeper`` at the module's gate for calls from this thread."""
    with _lock:
        gate = vars(module).get("_compiled_call_impl")
        if not isinstance(gate, Gate):
            gate = Gate(module)
            module._compiled_call_impl = gate
        gate.keepers.setdefault(threading.get_ident(), []).append(keeper)


def remove(module: nn.Module, keeper: GateKeeper) -> None:
    """Take ``keeper`` from the gate, if it is there; the last one takes the gate away, and no attribute is left."""
    with _lock:
        gate = vars(module).get("_compiled_call_impl")
        if not isinstance(gate, Gate):
            return  # compiled anew in the middle of a run: what stands there now is the user's
        keepers = gate.keepers.get(threading.get_ident(), [])
        if keeper in keepers:
            keepers.remove(keeper)
        if not keepers:
            gate.keepers.pop(threading.get_ident(), None)
        if not gate.keepers:
            if gate.was_set:
                module._compiled_call_impl = gate.previous
            else:
                del module._compiled_call_impl


def keep(output: Any) -> Any:
    """A copy of a denoiser's output, whatever its container: the original may be overwritten by a CUDA graph."""
    return _mapped(lambda tensor: tensor.detach().clone(), output)


def stand_in(output: Any) -> Any:
    """Something of an output's structure and shapes that holds no memory, for callers that only hand it on."""
    return _mapped(lambda tensor: tensor.new_zeros(()).expand(tensor.shape), output)


def _mapped(of: Callable[[Tensor], Tensor], output: Any) -> Any:
    """Replace the tensors in an output; some output classes are dataclasses that pytrees do not know."""

    def leaf_of(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            return of(leaf)
        if dataclasses.is_dataclass(leaf) and not isinstance(leaf, type):
            twin = copy.copy(leaf)
            for field in dataclasses.fields(leaf):
                object.__setattr__(twin, field.name, _mapped(of, getattr(leaf, field.name)))
            return twin
        return leaf

    return tree_map(leaf_of, output)


def shapes(arguments: Any) -> tuple[Any, ...]:
    """The shapes of all tensors in a call's arguments, which tell one call pattern from another.

    Written out, since this runs at every denoiser call and a pytree walk in Python takes ten times as long.
    """
    if isinstance(arguments, Tensor):
        return tuple(arguments.shape)
    if isinstance(arguments, dict):
        return tuple(shapes(value) for value in arguments.values() if isinstance(value, _CONTAINERS))
    if isinstance(arguments, (list, tuple)):
        return tuple(shapes(value) for value in arguments if isinstance(value, _CONTAINERS))
    return ()


_CONTAINERS = (Tensor, dict, list, tuple)
