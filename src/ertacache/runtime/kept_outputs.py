"""Keep the results of a step's calls of denoisers and ControlNets for the cached steps that follow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from ertacache.method.history import History
from ertacache.runtime import gate
from ertacache.runtime.block_stack import Stack


class DenoiserCalls:
    """The results of the last computed step's denoiser calls, by a key that identifies each call.

    Args:
        modules: the denoisers.
        residuals_kept: see `ertacache.runtime.driver.Driver`.

    Attributes:
        made: how many calls of the current step were made so far.
        cached: whether the current step is cached.
        residuals: at level ``hidden``, the residuals of the blocks at the last computed steps, by call.

    Raises:
        PipelineError: at level ``hidden``, if a denoiser has no single stack of blocks.
    """

    def __init__(self, modules: Sequence[nn.Module], residuals_kept: int) -> None:
        self._residuals_kept = residuals_kept
        self._denoisers = {id(module) for module in modules}
        self._stacks = {id(module): Stack(module) for module in modules} if residuals_kept else {}
        self._outputs: dict[Any, Any] = {}
        self.residuals: dict[Any, History] = {}
        self.made, self.cached = 0, False

    def is_of_a_denoiser(self, key: Any) -> bool:
        """Whether a call is of a denoiser, not of a ControlNet; a key begins with the module's identity."""
        return key[0] in self._denoisers

    def __len__(self) -> int:
        """The number of calls whose results are kept."""
        return len(self._outputs)

    def __contains__(self, key: Any) -> bool:
        return key in self._outputs

    def install(self) -> None:
        """Put gates at the blocks, at level ``hidden``."""
        for stack in self._stacks.values():
            stack.install()

    def remove(self) -> None:
        """Remove the gates, and drop all results."""
        for stack in self._stacks.values():
            stack.remove()
        self.forget()

    def forget(self) -> None:
        """Drop all results, as when another trajectory begins."""
        self._outputs.clear()
        self.residuals.clear()
        self.begin_step()

    def begin_step(self) -> None:
        """Begin a step; whether it is cached is not decided yet."""
        self.made, self.cached = 0, False

    def begin_computed(self) -> None:
        """Begin the calls of a computed step: drop the last computed step's results."""
        self.cached = False
        self._outputs.clear()

    def computed(self, key: Any, module: nn.Module, call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Make a denoiser call and keep its output; at level ``hidden``, the residual of its blocks.

        Args:
            key: identifies the call within its step.
            module: the denoiser.
            call: what runs it.
            args: its positional arguments.
            kwargs: its keyword arguments.

        Returns:
            A copy of the output.
        """
        if not self.is_of_a_denoiser(key):  # what a ControlNet gives is for a denoiser, which does not run then either
            output = call(*args, **kwargs)
            self._outputs[key] = gate.stand_in(output)
            return output
        if id(module) in self._stacks:
            output, residual = self._stacks[id(module)].computed(call, args, kwargs)
            self.residuals.setdefault(key, History(self._residuals_kept)).push(0, residual)
            self._outputs[key] = None
        else:
            output = call(*args, **kwargs)
            self._outputs[key] = gate.keep(output)
        return gate.keep(output)  # a copy: a CUDA graph's next run would overwrite it while guidance still needs it

    def repeated(
        self,
        key: Any,
        module: nn.Module,
        call: Callable[..., Any],
        args: Any,
        kwargs: Any,
        block_factors: Callable[[], Sequence[float]],
    ) -> Any:
        """Return the kept output of a call; at level ``hidden``, make the call with its blocks skipped.

        Args:
            key: identifies the call within its step.
            module: the denoiser.
            call: what runs it.
            args: its positional arguments.
            kwargs: its keyword arguments.
            block_factors: gives the factors of the blocks' residuals, newest first.
        """
        if not self.is_of_a_denoiser(key):
            return gate.stand_in(self._outputs[key])  # anew: what gets it may empty its lists
        if id(module) in self._stacks:
            history = self.residuals[key].entries
            return self._stacks[id(module)].cached(call, args, kwargs, history, block_factors())
        return gate.keep(self._outputs[key])  # a copy: guidance may work in place, and the next cached step needs it

    @property
    def pattern(self) -> tuple[Any, ...]:
        """The keys of the last computed step's calls, of ControlNets too: they differ if a step makes other calls."""
        return tuple(self._outputs)

    @property
    def outputs(self) -> tuple[Any, ...]:
        """The outputs of the last computed step's denoiser calls (None for each at level ``hidden``)."""
        return tuple(output for key, output in self._outputs.items() if self.is_of_a_denoiser(key))

    def newest_residuals(self) -> tuple[Tensor, ...]:
        """Get the blocks' residuals of the last computed step, call by call; drop those of calls it did not make."""
        self.residuals = {key: self.residuals[key] for key in self._outputs if key in self.residuals}
        return tuple(history.entries[0] for history in self.residuals.values())
