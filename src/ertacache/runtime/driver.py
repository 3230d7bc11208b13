"""The interface of a driver: it decides in a run which steps to skip, and what replaces their model output.

`ertacache.runtime.run.Run` asks the driver. `ertacache.runtime.policy_driver.PolicyDriver` follows a policy;
calibration has drivers of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor


@dataclass(frozen=True)
class Step:
    """One step at its boundary, when the pipeline calls ``scheduler.step``.

    Args:
        index: the step's index in the scheduler's grid, from 0.
        arguments: the arguments of ``scheduler.step``, by name; see
            `ertacache.runtime.scheduler_step.StepCall.arguments`.
        computed: whether the denoiser ran for this step.
        pattern: identifies the step's calls of denoisers and ControlNets: for each the module, and then its place,
            the shapes of its arguments, and how often a callback has changed its conditions.
        scheduler: the scheduler, before the step.
        outputs: the denoiser's outputs at the last computed step, call by call (None for each at level ``hidden``).
        residuals: at level ``hidden``, the blocks' residuals at the last computed step, call by call.
        stream: which of the latents that the loop steps this is; 0 is that of ``pipe.scheduler``, and comes first.
    """

    index: int
    arguments: Mapping[str, Any]
    computed: bool
    pattern: tuple[Any, ...]
    scheduler: Any
    outputs: tuple[Any, ...] = ()
    residuals: tuple[Tensor, ...] = ()
    stream: int = 0

    @property
    def sample(self) -> Tensor:
        """The latent ``x_i``, (batch, ...)."""
        return cast(Tensor, self.arguments["sample"])

    @property
    def model_output(self) -> Tensor:
        """The model output ``v_i`` that the pipeline gives, usually in the shape of the latent."""
        return cast(Tensor, self.arguments["model_output"])

    @property
    def form(self) -> list[Any]:
        """The pattern but for which modules are called: two experts in turn make calls of one form."""
        return [key[1:] for key in self.pattern]

    @property
    def denoiser_calls(self) -> int:
        """The number of denoiser calls of the step."""
        return len(self.outputs)


class Driver:
    """Decides what a run does at each step. This class computes every step and changes nothing; subclasses override.

    Attributes:
        residuals_kept: at level ``hidden``, for how many computed steps the blocks' residuals are kept; cached steps
            then run the denoiser without its blocks. 0 at the other levels.
    """

    residuals_kept: int = 0

    def open_segment(self, scheduler: Any) -> Sequence[float] | None:
        """Called after ``scheduler.set_timesteps``, when a trajectory begins; may retime the scheduler.

        Returns:
            The T + 1 noise levels if the scheduler was retimed; else None.
        """
        return None

    def is_cached(self, step: int) -> bool:
        """Whether to skip the denoiser at this step."""
        return False

    def block_factors(self, step: int) -> Sequence[float]:
        """At level ``hidden``: the factors of the kept residuals for a cached step, newest first."""
        return (1.0,)

    def model_output(self, step: Step) -> Tensor:
        """Decide the model output that ``scheduler.step`` is given; the pipeline's own object if nothing changes."""
        return step.model_output

    def conditions_changed(self, step: int, what: str) -> None:
        """Called before a step if a callback has changed something other than the latent; ``what`` names it."""

    def stepped(self, index: int, sample: Tensor, stream: int) -> None:
        """Called after a step of a stream with its next latent, (batch, ...), as the scheduler returned it."""


class Stop(BaseException):
    """Raised by a driver to end the pipeline call; an ``except Exception`` in the pipeline does not catch it."""
