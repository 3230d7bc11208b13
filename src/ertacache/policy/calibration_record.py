"""The record of a calibration, kept in the policy: its budget, its cost, and what it measured."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import partial
from statistics import fmean
from typing import Any

from ertacache.value_checks import each, flag, invalid, normalized, number, optional, text, whole

_count = partial(whole, at_least=0)
_quality = partial(number, at_least=-1000, at_most=1000)


@dataclass(frozen=True)
class CalibrationRecord:
    """What calibration did and measured.

    Args:
        budget: the budget as the user gave it, e.g. ``speedup=2.0``.
        num_prompts: how many prompts were used.
        denoiser_calls: all calls of the denoiser, the full runs included.
        full_runs: the same cost for each prompt, in units of one full run.
        error: ``||x_T - x_T_gt|| / ||x_T_gt||`` over the calibration prompts, closed loop, or None if not measured.
        step_errors: the same for the latent after each step; empty if not measured.
        threshold: the threshold of `ertacache.method.threshold`, if that chose the schedule; else None.
        notes: what the user should know, e.g. that Taylor weights were kept.
        psnr: for each calibration prompt, its pictures against the full run's, in dB, with weights that were fitted on
            the other prompts; empty if not measured.
        ssim: the same in SSIM, at most 1.
        sound: the same of the sound's signal-to-error ratio, in dB, of clips with sound.
        seconds: for one whole call on the calibration's machine, measured or derived from measurements, or None if
            unknown.
        taylor_kept: whether the policy has Taylor's weights, because fitted ones were farther from the full runs.

    Raises:
        PolicyFileError: if a value has the wrong type, or is out of range.
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
    sound: tuple[float, ...] = ()

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
            sound=each(_quality),
            seconds=optional(partial(number, above=0)),
            taylor_kept=flag,
        )

    def metadata(self) -> dict[str, Any]:
        """All of it, as JSON data."""
        plain = asdict(self)
        return {name: value for name, value in plain.items() if value or name != "sound"}  # older files have no sound

    @property
    def total_full_runs(self) -> float:
        """The cost of all prompts together, in units of one full run."""
        return self.full_runs * self.num_prompts

    def measured(self) -> str:
        """What was measured of the distance to the full runs, in a few words."""
        if self.psnr:
            return f"PSNR {fmean(self.psnr):.1f} dB over {len(self.psnr)} held-out prompts"
        if self.error is None:
            return "not measured"
        return f"error {self.error:.2%} over {self.num_prompts} prompt{'s' * (self.num_prompts != 1)}"

    def unmeasured(self, *notes: str) -> CalibrationRecord:
        """Drop all measurements, for a policy that was derived from the measured one; add these notes."""
        unknown: dict[str, Any] = {
            "error": None,
            "step_errors": (),
            "psnr": (),
            "ssim": (),
            "sound": (),
            "seconds": None,
        }
        return replace(self, notes=(*self.notes, *notes), **unknown)
