"""The level `hidden`: what is cached is the residual of a denoiser's block stack, its output minus its input.

At a cached step the denoiser runs all the same, but for its blocks: the first one adds the predicted residual to
what enters it, the others hand on what they get. So the patch embedding sees the fresh latent, and the output head
the fresh timestep. The blocks are found from the model's own block lists and are gated like the denoiser itself.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ertacache.errors import PipelineError
from ertacache.method.prediction import combine
from ertacache.runtime import gate
from ertacache.runtime.families import BLOCK_OUTPUTS, TEXT_FIRST
from ertacache.runtime.unwrap import model_of


def blocks_of(module: nn.Module) -> list[nn.Module]:
    """The blocks of a denoiser, compiled or not: those of every list of its own whose members take hidden states.

    Raises:
        PipelineError: if it has none.
    """
    model = model_of(module)
    lists = [child for child in model.children() if isinstance(child, nn.ModuleList)]
    stacks = [blocks for blocks in lists if _takes(blocks, "hidden_states")]
    blocks = [block for blocks in stacks for block in blocks if block is not None]
    skipping = any(_takes(blocks, "res_hidden_states_tuple") for blocks in lists)
    if not blocks or skipping:
        given = "U-Net blocks hand skip connections on" if skipping else "no list of blocks that take hidden_states"
        raise PipelineError(
            "level 'hidden' caches the residual of one stack of blocks, and this denoiser has none",
            given=f"{type(model).__name__}: {given}",
            cure="Use a method of level 'velocity', such as 'aligned' or 'taylor'.",
        )
    return blocks


def _takes(blocks: nn.ModuleList, name: str) -> bool:
    first = next((block for block in blocks if block is not None), None)
    return first is not None and name in inspect.signature(first.forward).parameters


class Stack:
    """One denoiser's blocks within one run, in one thread."""

    def __init__(self, module: nn.Module) -> None:
        self.name = type(model_of(module)).__name__
        self.blocks = blocks_of(module)
        self.signatures = {block: list(inspect.signature(block.forward).parameters) for block in self.blocks}
        self.entering: Tensor | None = None  # what entered the first block of a call
        self.leaving: list[Tensor] = []  # what left the last one so far
        self.predicted: Tensor | None = None
        self.mode: Literal["", "watching", "skipping"] = ""

    def install(self) -> None:
        """Put gates at all blocks."""
        for block in self.blocks:
            gate.install(block, self)

    def remove(self) -> None:
        """Take them away."""
        for block in self.blocks:
            gate.remove(block, self)

    def computed(self, call: Callable[..., Any], args: Any, kwargs: Any) -> tuple[Any, Tensor]:
        """The denoiser's output, and the residual of its blocks in their dtype."""
        self.mode = "watching"
        try:
            output = call(*args, **kwargs)
            entering, leaving = self.entering, list(self.leaving)
        finally:
            self.mode, self.entering = "", None
            self.leaving.clear()
        if entering is None or not leaving:
            raise self._refused(
                "sees no block of the denoiser run, as when the denoiser is compiled as a whole",
                "no call of a block",
                "Compile its blocks instead (compile_repeated_blocks)",
            )
        if entering.shape != leaving[0].shape:
            raise self._refused(
                "needs a block stack whose output has the shape of its input",
                f"{tuple(entering.shape)} in, {tuple(leaving[0].shape)} out",
            )
        return output, leaving[0] - entering

    def cached(self, call: Callable[..., Any], args: Any, kwargs: Any, history: Sequence[Tensor], factors: Any) -> Any:
        """The denoiser's output where its blocks add ``sum_k factors[k] * history[k]``, in float32."""
        self.mode = "skipping"
        self.predicted = combine([entry.float() for entry in history[: len(factors)]], factors)
        try:
            return call(*args, **kwargs)
        finally:
            self.mode, self.predicted = "", None

    def denoise(self, module: nn.Module, call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """At a block's gate; see `ertacache.runtime.gate.GateKeeper`."""
        if not self.mode:
            return call(*args, **kwargs)
        given = dict(zip(self.signatures[module], args, strict=False)) | kwargs
        hidden: Tensor = given["hidden_states"]
        if self.mode == "skipping":
            if self.predicted is not None:
                hidden = (hidden.float() + self.predicted).to(hidden.dtype)
                self.predicted = None
            return handed_on(module, hidden, given.get("encoder_hidden_states"))
        if self.entering is None:
            self.entering = hidden.detach().clone()
        elif not _joint(module) and hidden.data_ptr() != self.leaving[0].data_ptr():
            # It would be in the residual, and be added once more by the model at a cached step.
            raise self._refused(
                "needs blocks that hand on to each other, and here something is added between two of them",
                f"before a {type(module).__name__}: a ControlNet, a second device, or another stack",
            )
        output = call(*args, **kwargs)
        self.leaving[:] = [_hidden_of(module, output, self.entering.shape[1]).detach()]
        return output

    def _refused(self, reason: str, given: str, instead: str = "") -> PipelineError:
        cure = f"{instead}, or use" if instead else "Use"
        return PipelineError(
            f"level 'hidden' {reason}",
            given=f"{self.name}: {given}",
            cure=f"{cure} a method of level 'velocity', such as 'aligned' or 'taylor'.",
        )


def _bases(block: nn.Module) -> list[str]:
    return [base.__name__ for base in type(model_of(block)).__mro__]


def _joint(block: nn.Module) -> bool:
    """Whether the block works on text and hidden states in one sequence, the text first."""
    return any(name in TEXT_FIRST for name in _bases(block))


def _places(block: nn.Module) -> tuple[int, int] | None:
    """Where in a block's output tuple the hidden states and the text are; None where it returns a tensor."""
    return next((BLOCK_OUTPUTS[name] for name in _bases(block) if name in BLOCK_OUTPUTS), None)


def _hidden_of(block: nn.Module, output: Any, tokens: int) -> Tensor:
    places = _places(block)
    if isinstance(output, Tensor):
        return output[:, -tokens:] if _joint(block) else output
    if places is None or not isinstance(output, tuple):
        raise PipelineError(
            "level 'hidden' does not know which output of this block is the hidden states",
            given=type(block).__name__,
            cure="Say it with ertacache.runtime.families.register_block(), or use level 'velocity'.",
        )
    hidden: Tensor = output[places[0]]
    return hidden


def handed_on(block: nn.Module, hidden: Tensor, text: Tensor | None) -> Any:
    """What a block that changes nothing returns."""
    places = _places(block)
    if places is None:
        return hidden
    return (hidden, text) if places[0] == 0 else (text, hidden)


def sketch(residuals: Sequence[Tensor], size: int = 1 << 16) -> Tensor:
    """At most ``size`` elements of each call's residual, evenly spaced, float32 on the CPU: what Eq. (12) compares."""
    return torch.cat([r.detach().flatten()[:: max(1, -(-r.numel() // size))].float().cpu() for r in residuals])
