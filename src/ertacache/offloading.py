"""Where weights are while accelerate's sequential offloading has moved them to the meta device."""

from __future__ import annotations

from torch import Tensor, nn


def at_hand(module: nn.Module, name: str) -> Tensor:
    """A parameter or buffer by its dotted name, from where offloading keeps it; on the meta device if it is nowhere."""
    path, _, last = name.rpartition(".")
    owner = module.get_submodule(path)
    tensor: Tensor = getattr(owner, last)
    if not tensor.is_meta:
        return tensor
    hook = getattr(owner, "_hf_hook", None)
    for each in getattr(hook, "hooks", (hook,)):
        kept = getattr(each, "weights_map", None)
        found = kept[last] if kept is not None and last in kept else None
        if isinstance(found, Tensor):
            return found
    return tensor
