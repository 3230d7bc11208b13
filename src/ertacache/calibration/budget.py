"""The budget of a calibration: users give exactly one of six arguments, which make four kinds of budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ertacache.calibration.step_fit import MIN_HELD_OUT, holds_out
from ertacache.errors import BudgetError
from ertacache.method.named_methods import Method
from ertacache.method.schedule import check_budget, computed_steps_for
from ertacache.value_checks import as_error, number, whole

Measure = Literal["psnr", "ssim", "sound"]
"""A field of `ertacache.calibration.quality.Quality`."""
QUALITIES: dict[str, Measure] = {"min_psnr": "psnr", "min_ssim": "ssim", "min_sound": "sound"}
"""The budgets of quality, each with the measure that it bounds."""
CEILINGS = {"min_psnr": 100.0, "min_ssim": 1.0, "min_sound": 100.0}
"""The quality of the full run itself: PSNR and the sound's signal to error in dB, as their metrics cap it, and SSIM."""


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """The fields of all kinds of budget.

    Args:
        asked: the budget as the user wrote it, such as ``speedup=2.0``.
        full_runs: the cost limit, in full runs per prompt; the search begins no trial that could exceed it, and with 1
            there is no closed loop at all.
    """

    asked: str
    full_runs: float = 1.0


@dataclass(frozen=True, kw_only=True)
class StepsBudget(_Asked):
    """At most so many computed steps."""

    computed: int


@dataclass(frozen=True, kw_only=True)
class ThresholdBudget(_Asked):
    """Algorithm 2 with this lambda of Eq. (12)."""

    threshold: float


@dataclass(frozen=True, kw_only=True)
class SecondsBudget(_Asked):
    """At most so many seconds for one whole call."""

    seconds: float


@dataclass(frozen=True, kw_only=True)
class QualityBudget(_Asked):
    """At least this quality in the mean over prompts.

    Args:
        measure: PSNR, SSIM, or the signal-to-error ratio of the sound.
        least: the bound: in dB, or SSIM up to 1.
    """

    measure: Measure
    least: float


Budget = StepsBudget | ThresholdBudget | SecondsBudget | QualityBudget


def only_budget(given: Mapping[str, float | None]) -> tuple[str, float]:
    """Return the name and the value of the only budget among these.

    Args:
        given: the budgets by name; None where one was not given.

    Raises:
        BudgetError: if there is no budget, more than one, or one that is not a number.
    """
    wanted = {name: value for name, value in given.items() if value is not None}
    if len(wanted) != 1:
        raise BudgetError(
            "exactly one budget is needed",
            given=", ".join(f"{name}={value}" for name, value in wanted.items()) or "none",
            cure=f"Pass one of {', '.join(given)}.",
        )
    name, value = next(iter(wanted.items()))
    return name, as_error(whole if name == "num_computed_steps" else number, BudgetError)(name, value)


def parse_budget(num_steps: int, method: Method, given: Mapping[str, float | None]) -> Budget:
    """Check the budget that a user gave, and make it; its cost limit is yet to be set.

    Args:
        num_steps: how many steps a call makes.
        method: the method that the budget is for.
        given: the budgets by the names of `ertacache.calibrate`; None where one was not given.

    Raises:
        BudgetError: if there is no budget, more than one, or one that is not a number, cannot be met, or does not suit
            the method.
    """
    name, value = only_budget(given)
    asked = f"{name}={value}"
    if name == "speedup":
        return StepsBudget(asked=asked, computed=computed_steps_for(num_steps, value))
    if name == "num_computed_steps":
        check_budget(num_steps, int(value), given=f"{asked} at {num_steps} steps")
        return StepsBudget(asked=asked, computed=int(value))
    if not value > 0:
        raise BudgetError("a budget must be positive", given=asked, cure="Give a number above 0.")
    if name == "threshold":
        _check_threshold(asked, method)
        return ThresholdBudget(asked=asked, threshold=value)
    if name == "seconds":
        return SecondsBudget(asked=asked, seconds=value)
    _check_quality(name, value, asked, method)
    return QualityBudget(asked=asked, measure=QUALITIES[name], least=value)


def check_prompts(budget: Budget, num_prompts: int) -> None:
    """Raise `BudgetError` if the budget is one of quality and there are too few prompts to hold any out."""
    if isinstance(budget, QualityBudget) and not holds_out(num_prompts):
        raise BudgetError(
            "a budget of quality is judged on prompts that the fit did not use, and there are too few",
            given=f"{budget.asked} with {num_prompts} prompts",
            cure=f"Give {MIN_HELD_OUT} prompts or more; 16 or 32 make the interval narrow.",
        )


def _check_threshold(asked: str, method: Method) -> None:
    if method.schedule != "offline":
        raise BudgetError(
            "a threshold is for Algorithm 2 only",
            given=f"{asked} with schedule={method.schedule!r}",
            cure="Use another budget, or a method with schedule='offline' such as 'paper'; 0.02 to 0.6 are usual.",
        )


def _check_quality(name: str, value: float, asked: str, method: Method) -> None:
    if method.fits_cached_trajectory:
        raise BudgetError(
            "budgets of quality do not work with this method: it cannot be measured on held-out prompts",
            given=f"{asked} with method {method.name!r}",
            cure="Use 'aligned', 'taylor', 'reuse' or 'uniform', or another budget.",
        )
    if value >= CEILINGS[name]:
        only = "an SSIM of 1" if name == "min_ssim" else "it is capped at 100 dB"
        raise BudgetError(
            f"only the full run itself has this quality ({only})",
            given=asked,
            cure=f"Ask for less than {CEILINGS[name]:g}.",
        )
