"""Find the weights that offloading has moved away.

accelerate leaves tensors on the meta device and keeps the weights elsewhere; diffusers' group offloading can keep them
in files.
"""

from __future__ import annotations

from dataclasses import dataclass

from safetensors import safe_open
from torch import Tensor, nn


def tensor_where_kept(module: nn.Module, name: str) -> Tensor:
    """Get a parameter or buffer from where accelerate keeps it; a meta tensor if it is not in memory at all.

    Args:
        module: the model.
        name: the dotted name of the parameter or buffer.
    """
    path, _, last = name.rpartition(".")
    owner = module.get_submodule(path)
    tensor: Tensor = getattr(owner, last)
    if not tensor.is_meta:
        return tensor
    hook = getattr(owner, "_hf_hook", None)
    for each in getattr(hook, "hooks", (hook,)):
        kept = getattr(each, "weights_map", None)
        weight = kept[last] if kept is not None and last in kept else None
        if isinstance(weight, Tensor):
            return weight
    return tensor


@dataclass(frozen=True)
class OnDisk:
    """A tensor in a file of diffusers' group offloading. The tensor in the module is uninitialised memory meanwhile.

    Args:
        path: the safetensors file.
        key: the tensor's name in the file.
    """

    path: str
    key: str

    def read(self) -> Tensor:
        """Read the tensor, onto the CPU."""
        with safe_open(self.path, "pt") as file:
            tensor: Tensor = file.get_tensor(self.key)
        return tensor


def on_disk(module: nn.Module) -> dict[int, OnDisk]:
    """Find the parameters and buffers of a model that group offloading keeps in files, by ``id`` of the tensor."""
    offloaded: dict[int, OnDisk] = {}
    for child in module.modules():
        registry = vars(child).get("_diffusers_hook")
        group = getattr(registry.hooks.get("group_offloading"), "group", None) if registry is not None else None
        if group is not None and getattr(group, "_is_offloaded_to_disk", False):
            offloaded |= {id(t): OnDisk(group.safetensors_file_path, key) for t, key in group.tensor_to_key.items()}
    return offloaded
