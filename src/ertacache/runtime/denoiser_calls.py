"""The denoiser calls of a step: what they returned, kept for the cached steps that follow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from ertacache.method.history import History
from ertacache.runtime import gate
from ertacache.runtime.block_stack import Stack


class DenoiserCalls:
    """What the calls of the last computed step returned, by what tells one call from another.

    Args:
        modules: the denoisers.
        residuals_kept: see `ertacache.runtime.driver.Driver`.

    Attributes:
        made: how many calls of the current step were made so far.
        cached: whether the current step is cached.
        residuals: at level ``hidden``, those of the blocks at the last computed steps, by call.
    """

    def __init__(self, modules: Sequence[nn.Module], residuals_kept: int) -> None:
        self._residuals_kept = residuals_kept
        self._stacks = {id(module): Stack(module) for module in modules} if residuals_kept else {}
        self._outputs: dict[Any, Any] = {}
        self.residuals: dict[Any, History] = {}
        self.made, self.cached = 0, False

    def __len__(self) -> int:
        """How many calls are kept."""
        return len(self._outputs)

    def __contains__(self, key: Any) -> bool:
        return key in self._outputs

    def install(self) -> None:
        """Put gates at the blocks, at level ``hidden``."""
        for stack in self._stacks.values():
            stack.install()

    def remove(self) -> None:
        """Take them away, and drop what is kept."""
        for stack in self._stacks.values():
            stack.remove()
        self.forget()

    def forget(self) -> None:
        """Whatever was kept belongs to another trajectory."""
        self._outputs.clear()
        self.residuals.clear()
        self.begin_step()

    def begin_step(self) -> None:
        """The calls to come are another step's."""
        self.made, self.cached = 0, False

    def begin_computed(self) -> None:
        """The step is computed: what its calls return takes the place of what is kept."""
        self.cached = False
        self._outputs.clear()

    def computed(self, key: Any, module: nn.Module, call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Make a call and keep what it returns, or at level ``hidden`` the residual of its blocks."""
        if self._stacks:
            output, residual = self._stacks[id(module)].computed(call, args, kwargs)
            self.residuals.setdefault(key, History(self._residuals_kept)).push(0, residual)
            self._outputs[key] = None
        else:
            output = call(*args, **kwargs)
            self._outputs[key] = gate.keep(output)
        return gate.keep(output)  # a copy: a CUDA graph's next run would overwrite what guidance and history hold

    def repeated(
        self,
        key: Any,
        module: nn.Module,
        call: Callable[..., Any],
        args: Any,
        kwargs: Any,
        block_factors: Callable[[], Sequence[float]],
    ) -> Any:
        """What was kept of this call; at level ``hidden``, the call with its blocks' residual predicted."""
        if self._stacks:
            history = self.residuals[key].entries
            return self._stacks[id(module)].cached(call, args, kwargs, history, block_factors())
        return gate.keep(self._outputs[key])  # a copy: guidance may work in place, and the next cached step asks again

    @property
    def pattern(self) -> tuple[Any, ...]:
        """What tells the calls of the last computed step from those of another one."""
        return tuple(self._outputs)

    @property
    def outputs(self) -> tuple[Any, ...]:
        """What they returned."""
        return tuple(self._outputs.values())

    def newest_residuals(self) -> tuple[Tensor, ...]:
        """The blocks' residuals of the last computed step, call by call; those of calls not made there are dropped."""
        self.residuals = {key: self.residuals[key] for key in self._outputs if key in self.residuals}
        return tuple(history.entries[0] for history in self.residuals.values())
