"""Who decides in a run: what to skip, and what a skipped step's model output is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor


@dataclass(frozen=True)
class Step:
    """One step at its boundary: the arguments of ``scheduler.step``, and how they came about.

    Args:
        index: of the scheduler's grid.
        arguments: of the call, by name; see `ertacache.runtime.scheduler_probe.StepCall.arguments`.
        computed: whether the denoiser ran for it.
        pattern: which denoiser calls make it up: their modules and the shapes of their arguments.
        scheduler: about to step.
        outputs: what the denoiser returned, call by call, at the last computed step (None at level ``hidden``).
        residuals: those of the blocks, call by call, at level ``hidden``.
    """

    index: int
    arguments: Mapping[str, Any]
    computed: bool
    pattern: tuple[Any, ...]
    scheduler: Any
    outputs: tuple[Any, ...] = ()
    residuals: tuple[Tensor, ...] = ()

    @property
    def sample(self) -> Tensor:
        """``x_i``."""
        return cast(Tensor, self.arguments["sample"])

    @property
    def model_output(self) -> Tensor:
        """``v_i``, as the pipeline gives it."""
        return cast(Tensor, self.arguments["model_output"])

    @property
    def denoiser_calls(self) -> int:
        """How many denoiser calls make up the step."""
        return len(self.pattern)


class Driver:
    """Who decides in a run; this one computes every step and changes nothing.

    Attributes:
        residuals_kept: at level ``hidden``, of how many computed steps the residuals of the blocks are kept; cached
            steps then run the denoiser without its blocks. 0 at the other levels.
    """

    residuals_kept: int = 0

    def open_segment(self, scheduler: Any) -> Sequence[float] | None:
        """``set_timesteps`` has returned: check the grid, forget the history; the noise levels if it was retimed."""
        return None

    def is_cached(self, step: int) -> bool:
        """Whether the denoiser is to be skipped at this step."""
        return False

    def block_factors(self, step: int) -> Sequence[float]:
        """At level ``hidden``, the factors of the kept residuals of the blocks, newest first."""
        return (1.0,)

    def model_output(self, step: Step) -> Tensor:
        """What ``scheduler.step`` is given; the step's own model output, untouched, where nothing is to change."""
        return step.model_output

    def conditions_changed(self, step: int, what: str) -> None:
        """A callback has changed something besides the latent, before this step."""

    def stepped(self, index: int, sample: Tensor) -> None:
        """The step is made: the next latent, as the scheduler returned it."""


class Stop(BaseException):
    """A driver ends the pipeline call with it; no ``except Exception`` on the way stops it."""
