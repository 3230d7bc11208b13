"""What calibration did and measured, kept in the policy."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from ertacache.arguments import each, flag, invalid, normalized, number, optional, text, whole

_count = partial(whole, at_least=0)
_quality = partial(number, at_least=-1000, at_most=1000)


@dataclass(frozen=True)
class CalibrationRecord:
    """What calibration did and measured.

    Args:
        budget: the budget as it was asked for, e.g. ``speedup=2.0``.
        num_prompts: how many prompts it ran on.
        denoiser_calls: all of them, the full runs included.
        full_runs: the same per prompt, in units of one full run.
        error: ``||x_T - x_T_gt|| / ||x_T_gt||`` over the calibration prompts, closed loop.
        step_errors: the same for the latent after each step.
        threshold: the lambda of Eq. (12), where Algorithm 2 chose the schedule.
        notes: what the user should know, e.g. that Taylor weights were kept.
        psnr: of each calibration prompt's pictures against its full run's, in dB, by weights that were fitted without
            it; empty where nobody asked.
        ssim: the same.
        seconds: of one whole call on the machine of the calibration, where that was timed or follows from what was.
        taylor_kept: whether Taylor's weights were nearer to the full runs than fitted ones, and are the policy's.
    """

    budget: str
    num_prompts: int = 0
    denoiser_calls: int = 0
    full_runs: float = 0.0
    error: float | None = None
    step_errors: tuple[float, ...] = ()
    threshold: float | None = None
    notes: tuple[str, ...] = ()
    psnr: tuple[float, ...] = ()
    ssim: tuple[float, ...] = ()
    seconds: float | None = None
    taylor_kept: bool = False

    def __post_init__(self) -> None:
        normalized(
            self,
            invalid("policy"),
            budget=text,
            num_prompts=_count,
            denoiser_calls=_count,
            full_runs=partial(number, at_least=0),
            error=optional(partial(number, at_least=0)),
            step_errors=each(partial(number, at_least=0)),
            threshold=optional(number),
            notes=each(text),
            psnr=each(_quality),
            ssim=each(_quality),
            seconds=optional(partial(number, above=0)),
            taylor_kept=flag,
        )

    def unmeasured(self, *notes: str) -> CalibrationRecord:
        """That of a policy made from this one, whose quality and time nobody measured; with these notes more."""
        nothing: dict[str, Any] = {"error": None, "step_errors": (), "psnr": (), "ssim": (), "seconds": None}
        return replace(self, notes=(*self.notes, *notes), **nothing)
