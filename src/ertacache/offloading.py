"""Where weights are while offloading has moved them away: accelerate's to the meta device, diffusers' to files."""

from __future__ import annotations

from dataclasses import dataclass

from safetensors import safe_open
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


@dataclass(frozen=True)
class OnDisk:
    """A tensor in a file of diffusers' group offloading; what the module holds in its place is uninitialised memory."""

    path: str
    key: str

    def read(self) -> Tensor:
        """The tensor, on the CPU."""
        with safe_open(self.path, "pt") as file:
            tensor: Tensor = file.get_tensor(self.key)
        return tensor


def on_disk(module: nn.Module) -> dict[int, OnDisk]:
    """By ``id``, the parameters and buffers of a model that group offloading keeps in files."""
    found: dict[int, OnDisk] = {}
    for child in module.modules():
        registry = vars(child).get("_diffusers_hook")
        group = getattr(registry.hooks.get("group_offloading"), "group", None) if registry is not None else None
        if group is not None and getattr(group, "_is_offloaded_to_disk", False):
            found |= {id(t): OnDisk(group.safetensors_file_path, key) for t, key in group.tensor_to_key.items()}
    return found
