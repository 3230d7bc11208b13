"""A pipeline call that can be made again, from the same noise, and a twin of the pipeline to make it with."""

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
from ertacache.runtime.scheduler_probe import copied_generators
from ertacache.runtime.schedulers import check_copies
from ertacache.runtime.unwrap import own_class


class Call:
    """The keyword arguments of one pipeline call, given out fresh each time.

    Tensors are cloned and generators copied in the state they were in at first, so that a pipeline that works
    in place, or draws numbers, starts alike in the full and in the cached run; the user's own stay untouched.

    Args:
        arguments: as the user gave them.
        random: the global random state that it begins with, for what a pipeline draws without its generator.
        added: what calibration adds for its own runs.
    """

    def __init__(
        self, arguments: Mapping[str, Any], random: RandomState, added: Mapping[str, Any] | None = None
    ) -> None:
        self._arguments, self._added = _copied(dict(arguments)), dict(added or {})
        self.random = random

    def arguments(self) -> dict[str, Any]:
        """A fresh copy."""
        copied: dict[str, Any] = _copied(self._arguments | self._added)
        return copied

    def as_given(self) -> Call:
        """The call that the user will make, decoding included: what is to be timed."""
        return Call(self._arguments, self.random)

    def decoded(self) -> Call:
        """The same call, for pictures or clips in place of latents: tensors in 0 .. 1."""
        return Call(self._arguments | {"output_type": "pt"}, self.random)


def _copied(value: Any) -> Any:
    return copied_generators(tree_map_only(Tensor, lambda t: t.detach().clone(), value))


def gives_latents(kind: type) -> bool:
    """Whether a pipeline's code knows the output type "latent"; many refuse what they do not know."""
    try:
        return re.search(r"""["']latent["']""", inspect.getsource(kind)) is not None
    except (OSError, TypeError):  # made in an interactive session
        return False


def twin_of(pipe: Any) -> Any:
    """A shallow copy of the pipeline with schedulers and guiders of its own: the same modules, none of its state.

    Raises:
        PipelineError: if copies of its scheduler do not step by themselves.
    """
    check_copies(pipe.scheduler)
    twin = copy.copy(pipe)
    twin.__class__ = own_class(pipe)
    for name, value in vars(pipe).items():
        stateful = isinstance(value, ConfigMixin) and not isinstance(value, nn.Module)
        if stateful and not hasattr(type(value), "components"):  # which pipelines within a pipeline have
            setattr(twin, name, copy.deepcopy(value))
    twin.scheduler = copy.deepcopy(pipe.scheduler)
    if hasattr(twin, "set_progress_bar_config"):
        twin.set_progress_bar_config(disable=True)
    return twin
