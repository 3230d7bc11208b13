"""Level ``hidden``: cache the residual of a denoiser's block stack (its output minus its input), not its output.

At a cached step the denoiser runs without its blocks: the first block adds the predicted residual to its input, the
others return their input. So the patch embedding sees the fresh latent, and the output head the fresh timestep. The
blocks are found in the model's own block lists, and have gates (`ertacache.runtime.gate`) like the denoiser itself.
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
from ertacache.runtime.layout_tables import BLOCK_OUTPUTS, TEXT_FIRST
from ertacache.runtime.unwrap import model_of


def blocks_of(module: nn.Module) -> list[nn.Module]:
    """Find the blocks of a denoiser: the members of all its module lists whose ``forward`` takes ``hidden_states``.

    Args:
        module: the denoiser, compiled or not.

    Raises:
        PipelineError: if it has none, or its blocks have skip connections.
    """
    model = model_of(module)
    lists = [child for child in model.children() if isinstance(child, nn.ModuleList)]
    stacks = [blocks for blocks in lists if _takes(blocks, "hidden_states")]
    blocks = [block for blocks in stacks for block in blocks if block is not None]
    skipping = any(_takes(blocks, "res_hidden_states_tuple") for blocks in lists)
    if not blocks or skipping:
        given = "U-Net blocks with skip connections" if skipping else "no list of blocks that take hidden_states"
        raise PipelineError(
            "level 'hidden' caches the residual of one stack of blocks, but this denoiser has none",
            given=f"{type(model).__name__}: {given}",
            cure="Use a method of level 'velocity', such as 'aligned' or 'taylor'.",
        )
    return blocks


def _takes(blocks: nn.ModuleList, name: str) -> bool:
    first = next((block for block in blocks if block is not None), None)
    return first is not None and name in inspect.signature(first.forward).parameters


class Stack:
    """The blocks of one denoiser within one run, in one thread; the keeper of their gates.

    Args:
        module: the denoiser, compiled or not.

    Raises:
        PipelineError: if it has no single stack of blocks.
    """

    def __init__(self, module: nn.Module) -> None:
        self.name = type(model_of(module)).__name__
        self.blocks = blocks_of(module)
        self.signatures = {block: list(inspect.signature(block.forward).parameters) for block in self.blocks}
        self.entering: Tensor | None = None  # the input of the first block of the current call
        self.leaving: list[Tensor] = []  # one tensor: the output of the last block so far
        self.predicted: Tensor | None = None
        self.mode: Literal["", "watching", "skipping"] = ""

    def install(self) -> None:
        """Put gates at all blocks."""
        for block in self.blocks:
            gate.install(block, self)

    def remove(self) -> None:
        """Remove the gates."""
        for block in self.blocks:
            gate.remove(block, self)

    def computed(self, call: Callable[..., Any], args: Any, kwargs: Any) -> tuple[Any, Tensor]:
        """Call the denoiser as usual, and watch its blocks.

        Returns:
            The denoiser's output, and the residual of its blocks, in the blocks' shape and dtype.

        Raises:
            PipelineError: if the blocks do not work as one stack.
        """
        self.mode = "watching"
        try:
            output = call(*args, **kwargs)
            entering, leaving = self.entering, list(self.leaving)
        finally:
            self.mode, self.entering = "", None
            self.leaving.clear()
        if entering is None or not leaving:
            raise self.unseen()
        if entering.shape != leaving[0].shape:
            raise self._refused(
                "needs a block stack whose output has the shape of its input",
                f"{tuple(entering.shape)} in, {tuple(leaving[0].shape)} out",
            )
        return output, leaving[0] - entering

    def cached(self, call: Callable[..., Any], args: Any, kwargs: Any, history: Sequence[Tensor], factors: Any) -> Any:
        """Call the denoiser with its blocks skipped: together they add ``sum_k factors[k] * history[k]``, in float32.

        Args:
            call: the denoiser.
            args: its positional arguments.
            kwargs: its keyword arguments.
            history: residuals of this call at the last computed steps, newest first.
            factors: at least one, at most as many as there are residuals.

        Returns:
            The denoiser's output.
        """
        self.mode = "skipping"
        self.predicted = combine([entry.float() for entry in history[: len(factors)]], factors)
        try:
            return call(*args, **kwargs)
        finally:
            self.mode, self.predicted = "", None

    def denoise(self, module: nn.Module, call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Run or skip one block; see `ertacache.runtime.gate.GateKeeper`."""
        if not self.mode:
            return call(*args, **kwargs)
        arguments = dict(zip(self.signatures[module], args, strict=False)) | kwargs
        hidden: Tensor = arguments["hidden_states"]
        if self.mode == "skipping":
            if self.predicted is not None:
                hidden = (hidden.float() + self.predicted).to(hidden.dtype)
                self.predicted = None
            return handed_on(module, hidden, arguments.get("encoder_hidden_states"))
        if self.entering is None:
            self.entering = hidden.detach().clone()
        elif not _joint(module) and hidden.data_ptr() != self.leaving[0].data_ptr():
            # The residual would contain it, and at a cached step the model would add it a second time.
            raise self._refused(
                "needs blocks that take each other's output, but here something is added between two of them",
                f"before a {type(module).__name__}: a ControlNet, a second device, or another stack",
            )
        output = call(*args, **kwargs)
        self.leaving[:] = [_hidden_of(module, output, self.entering.shape[1]).detach()]
        return output

    def unseen(self) -> PipelineError:
        """Make the error for a denoiser that runs without its blocks being seen."""
        return self._refused(
            "saw none of the denoiser's blocks run, for instance because it is compiled as a whole",
            "no call of a block",
            "Compile its blocks instead (compile_repeated_blocks)",
        )

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
    """Whether the block takes text and hidden states as one sequence, the text first."""
    return any(name in TEXT_FIRST for name in _bases(block))


def _places(block: nn.Module) -> tuple[int, int] | None:
    """The places of hidden states and text in a block's output tuple, or None if it returns a tensor."""
    return next((BLOCK_OUTPUTS[name] for name in _bases(block) if name in BLOCK_OUTPUTS), None)


def _hidden_of(block: nn.Module, output: Any, tokens: int) -> Tensor:
    places = _places(block)
    if isinstance(output, Tensor):
        return output[:, -tokens:] if _joint(block) else output
    if places is None or not isinstance(output, tuple):
        raise PipelineError(
            "level 'hidden' does not know which output of this block is the hidden states",
            given=type(block).__name__,
            cure="Register the block with ertacache.runtime.layout_tables.register_block(), or use level 'velocity'.",
        )
    hidden: Tensor = output[places[0]]
    return hidden


def handed_on(block: nn.Module, hidden: Tensor, text: Tensor | None) -> Any:
    """Make the output of a block that changes nothing.

    Args:
        block: for the layout of its output.
        hidden: the hidden states, (batch, tokens, channels).
        text: the text's hidden states, if the block takes them.
    """
    places = _places(block)
    if places is None:
        return hidden
    return (hidden, text) if places[0] == 0 else (text, hidden)


def sketch(residuals: Sequence[Tensor], size: int = 1 << 16) -> Tensor:
    """Pick at most ``size`` evenly spaced elements of each residual, to compare residuals cheaply.

    Args:
        residuals: one for each denoiser call of a step, any shape and floating dtype.
        size: the most elements to keep of each.

    Returns:
        All of them in one row, float32, on the CPU.
    """
    return torch.cat([r.detach().flatten()[:: max(1, -(-r.numel() // size))].float().cpu() for r in residuals])
