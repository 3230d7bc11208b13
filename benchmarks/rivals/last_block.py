"""What the rivals share that predict what leaves the last block: a skipped step runs the output head alone."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol, TypeVar

from torch import Tensor, nn

from benchmarks.rivals.base import Calls, Subject, ordered_blocks, replaced
from ertacache.runtime.block_stack import handed_on
from ertacache.runtime.layout_tables import BLOCK_OUTPUTS


class Predictor(Protocol):
    """Predicts a tensor at skipped steps from what it was at computed ones, for one guidance branch."""

    def computed(self, step: int, feature: Tensor) -> None:
        """Learn from a computed step."""

    def predicted(self, step: int) -> Tensor:
        """What a skipped step uses instead."""


P = TypeVar("P", bound=Predictor)


def visual_of(block: nn.Module, output: Any) -> Tensor:
    """The visual tokens in what a block returned."""
    places = BLOCK_OUTPUTS.get(type(block).__name__)
    visual: Tensor = output if places is None else output[places[0]]
    return visual


@contextmanager
def recorded(denoiser: nn.Module) -> Iterator[list[Tensor]]:
    """The visual tokens that leave the last block, one tensor for each call of the denoiser."""
    found: list[Tensor] = []
    last = ordered_blocks(denoiser)[-1]
    hook = last.register_forward_hook(lambda block, args, output: found.append(visual_of(block, output)))
    try:
        yield found
    finally:
        hook.remove()


@contextmanager
def predicting(subject: Subject, computed_steps: Collection[int], new: Callable[[], P]) -> Iterator[dict[int, P]]:
    """Run no block at the other steps of one call of the pipeline; what leaves the last one is predicted.

    Args:
        subject: the pipeline.
        computed_steps: those that run all blocks.
        new: makes a predictor.

    Yields:
        The predictor of each guidance branch.
    """
    calls = Calls(subject.calls_per_step)
    predictors = {branch: new() for branch in range(subject.calls_per_step)}
    blocks = ordered_blocks(subject.denoiser)

    def standing_in(block: nn.Module) -> Callable[..., Any]:
        names = list(inspect.signature(block.forward).parameters)
        is_last = block is blocks[-1]

        def forward(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            predictor = predictors[calls.branch]
            if calls.step in computed_steps:
                output = original(*args, **kwargs)
                if is_last:
                    predictor.computed(calls.step, visual_of(block, output))
                return output
            given = dict(zip(names, args, strict=False)) | kwargs
            hidden = predictor.predicted(calls.step) if is_last else given["hidden_states"]
            return handed_on(block, hidden, given.get("encoder_hidden_states"))

        return forward

    with ExitStack() as stack:
        stack.enter_context(calls.counted(subject.denoiser))
        for block in blocks:
            stack.enter_context(replaced(block, standing_in(block)))
        yield predictors
