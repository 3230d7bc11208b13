"""Repeat a pipeline call from the same noise, on a copy of the pipeline with its own state."""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Mapping
from typing import Any

from diffusers import ConfigMixin
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from ertacache.runtime.randomness import RandomState
from ertacache.runtime.scheduler_step import copied_generators
from ertacache.runtime.schedulers import check_copies
from ertacache.runtime.unwrap import is_modular, own_class


class Call:
    """The keyword arguments of one pipeline call, copied afresh for each run.

    Tensors are cloned, and generators are copied in their first state. So every run begins alike, even if the pipeline
    works in place or draws numbers; the user's own objects stay unchanged.

    Args:
        arguments: the keyword arguments that the user gave.
        random: the global random state to begin with, for pipelines that draw without their generator.
        added: keyword arguments that calibration adds for its own runs.
        decodes: whether pictures are wanted of it; a modular pipeline then keeps the block that decodes them.
    """

    def __init__(
        self,
        arguments: Mapping[str, Any],
        random: RandomState,
        added: Mapping[str, Any] | None = None,
        *,
        decodes: bool = False,
    ) -> None:
        self._arguments, self._added = _copied(dict(arguments)), dict(added or {})
        self.random, self.decodes = random, decodes

    def arguments(self) -> dict[str, Any]:
        """Make a fresh copy of the arguments."""
        copied: dict[str, Any] = _copied(self._arguments | self._added)
        return copied

    def as_given(self) -> Call:
        """Make the call as the user gave it, decoding included, for timing."""
        return Call(self._arguments, self.random, decodes=True)

    def decoded(self) -> Call:
        """Make the call return pictures or clips as tensors in 0 .. 1, not latents."""
        return Call(self._arguments | {"output_type": "pt"}, self.random, decodes=True)


def _copied(value: Any) -> Any:
    return copied_generators(tree_map_only(Tensor, lambda t: t.detach().clone(), value))


def gives_latents(pipe: Any) -> bool:
    """Whether a pipeline supports ``output_type="latent"``, judged by its source; many refuse unknown types."""
    if is_modular(pipe):
        return False  # its blocks differ
    try:
        return re.search(r"""["']latent["']""", inspect.getsource(own_class(pipe))) is not None
    except (OSError, TypeError):  # a class without source, as from an interactive session
        return False


def twin_of(pipe: Any, *, decodes: bool = True) -> Any:
    """Copy the pipeline with its own schedulers and guiders; the modules are shared.

    Args:
        pipe: the pipeline; left unchanged.
        decodes: whether a modular pipeline keeps the block that decodes pictures.

    Raises:
        PipelineError: if its scheduler cannot be copied.
    """
    check_copies(pipe.scheduler)
    twin = copy.copy(pipe)
    twin.__class__ = own_class(pipe)
    for name, value in vars(pipe).items():
        stateful = isinstance(value, ConfigMixin) and not isinstance(value, nn.Module)
        if stateful and not hasattr(type(value), "components"):  # not a pipeline within the pipeline
            setattr(twin, name, copy.deepcopy(value))
    twin.scheduler = copy.deepcopy(pipe.scheduler)
    if is_modular(twin):
        twin._blocks = copy.deepcopy(pipe._blocks)
        for name in () if decodes else _DECODING:
            twin._blocks.sub_blocks.pop(name, None)
    silence(twin)
    return twin


_DECODING = ("decode", "after_decode")
"""The names of the blocks that come after the last step, in all of diffusers' modular pipelines."""


def silence(pipe: Any) -> None:
    """Switch the progress bars of a pipeline, or of its modular blocks, off."""
    if hasattr(pipe, "set_progress_bar_config"):
        pipe.set_progress_bar_config(disable=True)
    inner = [pipe._blocks] if is_modular(pipe) else getattr(pipe, "sub_blocks", {}).values()
    for blocks in inner:
        silence(blocks)
