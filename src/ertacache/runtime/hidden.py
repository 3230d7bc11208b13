"""The level `hidden`: what is cached is the residual of a denoiser's block stack, its output minus its input.

At a cached step the denoiser runs all the same, but for its blocks: the first one adds the predicted residual to
what enters it, the others hand on what they get. So the patch embedding sees the fresh latent, and the output head
the fresh timestep. The blocks are found from the model's own block lists and are gated like the denoiser itself.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ertacache.errors import PipelineError
from ertacache.method.alignment import combine
from ertacache.runtime import gate
from ertacache.runtime.families import BLOCK_LISTS, BLOCK_OUTPUTS, TEXT_FIRST


def blocks_of(module: nn.Module) -> list[nn.Module]:
    """The blocks of a denoiser, compiled or not: a row of `BLOCK_LISTS`, else every list of its own that has any.

    Raises:
        PipelineError: if it has none.
    """
    model = getattr(module, "_orig_mod", module)
    names = BLOCK_LISTS.get(type(model).__name__)
    lists = [
        child
        for name, child in model.named_children()
        if isinstance(child, nn.ModuleList) and (_takes_hidden_states(child) if names is None else name in names)
    ]
    blocks = [block for blocks in lists for block in blocks]
    if not blocks:
        raise PipelineError(
            "level 'hidden' caches the residual of a block stack, and this denoiser has no list of such blocks",
            given=type(model).__name__,
            cure="Use a method of level 'velocity', such as 'aligned' or 'taylor'.",
        )
    return blocks


def _takes_hidden_states(blocks: nn.ModuleList) -> bool:
    return bool(blocks) and "hidden_states" in inspect.signature(blocks[0].forward).parameters


class Stack:
    """One denoiser's blocks within one run, in one thread."""

    def __init__(self, module: nn.Module) -> None:
        self.name = type(getattr(module, "_orig_mod", module)).__name__
        self.blocks = blocks_of(module)
        self.signatures = {block: list(inspect.signature(block.forward).parameters) for block in self.blocks}
        self.ends: list[Tensor] = []  # what entered the first block of a call, what left the last one
        self.predicted: Tensor | None = None
        self.skipping = False

    def install(self) -> None:
        """Put gates at all blocks."""
        for block in self.blocks:
            gate.install(block, self)

    def remove(self) -> None:
        """Take them away."""
        for block in self.blocks:
            gate.remove(block)

    def computed(self, call: Callable[..., Any], args: Any, kwargs: Any) -> tuple[Any, Tensor]:
        """The denoiser's output, and the residual of its blocks in their dtype."""
        self.ends.clear()
        output = call(*args, **kwargs)
        if not self.ends:
            raise PipelineError(
                "level 'hidden' sees no block of the denoiser run, as when the denoiser is compiled as a whole",
                given=self.name,
                cure="Compile its blocks instead (compile_repeated_blocks), or use level 'velocity'.",
            )
        entering, leaving = self.ends
        self.ends.clear()
        if entering.shape != leaving.shape:
            raise PipelineError(
                "level 'hidden' needs a block stack whose output has the shape of its input",
                given=f"{self.name}: {tuple(entering.shape)} in, {tuple(leaving.shape)} out",
                cure="Use a method of level 'velocity', such as 'aligned' or 'taylor'.",
            )
        return output, leaving - entering

    def cached(self, call: Callable[..., Any], args: Any, kwargs: Any, history: Sequence[Tensor], factors: Any) -> Any:
        """The denoiser's output where its blocks add ``sum_k factors[k] * history[k]``, in float32."""
        self.skipping = True
        self.predicted = combine([entry.float() for entry in history[: len(factors)]], factors)
        try:
            return call(*args, **kwargs)
        finally:
            self.skipping, self.predicted = False, None

    def denoise(self, module: nn.Module, call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """At a block's gate; see `ertacache.runtime.gate.GateKeeper`."""
        given = dict(zip(self.signatures[module], args, strict=False)) | kwargs
        hidden = given["hidden_states"]
        if not self.skipping:
            if not self.ends:
                self.ends.append(hidden.detach().clone())
            output = call(*args, **kwargs)
            self.ends[1:] = [_hidden_of(module, output, self.ends[0].shape[1]).detach()]
            return output
        if self.predicted is not None:
            hidden = (hidden.float() + self.predicted).to(hidden.dtype)
            self.predicted = None
        return _returned(module, hidden, given.get("encoder_hidden_states"))


def _places(block: nn.Module) -> tuple[int, int] | None:
    """Where in a block's output tuple the hidden states and the text are; None where it returns a tensor."""
    model = getattr(block, "_orig_mod", block)
    for base in type(model).__mro__:
        if base.__name__ in BLOCK_OUTPUTS:
            return BLOCK_OUTPUTS[base.__name__]
    return None


def _hidden_of(block: nn.Module, output: Any, tokens: int) -> Tensor:
    places = _places(block)
    if isinstance(output, Tensor):
        joint = type(getattr(block, "_orig_mod", block)).__name__ in TEXT_FIRST
        return output[:, -tokens:] if joint else output
    if places is None or not isinstance(output, tuple):
        raise PipelineError(
            "level 'hidden' does not know which output of this block is the hidden states",
            given=type(block).__name__,
            cure="Add a row to ertacache.runtime.families.BLOCK_OUTPUTS, or use level 'velocity'.",
        )
    hidden: Tensor = output[places[0]]
    return hidden


def _returned(block: nn.Module, hidden: Tensor, text: Tensor | None) -> Any:
    """What a block hands on that changes nothing."""
    places = _places(block)
    if places is None:
        return hidden
    return (hidden, text) if places[0] == 0 else (text, hidden)


def sketch(residuals: Sequence[Tensor], size: int = 1 << 16) -> Tensor:
    """At most ``size`` elements of each call's residual, evenly spaced, float32 on the CPU: what Eq. (12) compares."""
    return torch.cat([r.detach().flatten()[:: max(1, -(-r.numel() // size))].float().cpu() for r in residuals])
