"""The budget of a calibration: exactly one of six ways to say what is wanted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ertacache.arguments import as_error, number, whole
from ertacache.calibration.fitting import MIN_HELD_OUT
from ertacache.errors import ArgumentError, BudgetError
from ertacache.method.choice import Method
from ertacache.method.schedule import check_budget, computed_steps_for

QUALITIES = {"min_psnr": "psnr", "min_ssim": "ssim"}
"""Budgets of quality, and the field of `ertacache.calibration.quality.Quality` that each is about."""


FULL_RUNS = 5.0
"""What calibration for a budget of steps may cost, in full runs' denoiser calls per prompt, unless the user says so."""
MOST_FULL_RUNS = 1e6
"""More than that is no limit."""
QUALITY_RUNS = 8.0
"""For a budget of quality, which has to find the number of steps too."""


@dataclass(frozen=True)
class Budget:
    """How much may be computed, or what has to be reached. All but ``asked`` and one other are None.

    Args:
        asked: as the user wrote it.
        computed: how many steps may be computed; for ``seconds`` once it was measured what a step takes.
        threshold: the lambda of Eq. (12).
        seconds: of one whole call.
        quality: a field of `ertacache.calibration.quality.Quality`, and what its mean over prompts must reach.
        full_runs: no trial of the search begins that could take calibration's denoiser calls above so many full runs'.
    """

    asked: str
    computed: int | None = None
    threshold: float | None = None
    seconds: float | None = None
    quality: tuple[str, float] | None = None
    full_runs: float = FULL_RUNS


def the_one(given: Mapping[str, float | None]) -> tuple[str, float]:
    """The only budget among these, by name.

    Raises:
        BudgetError: if there is none, more than one, or one that is no number.
    """
    found = {name: value for name, value in given.items() if value is not None}
    if len(found) != 1:
        raise BudgetError(
            "exactly one budget is needed",
            given=", ".join(f"{name}={value}" for name, value in found.items()) or "none",
            cure=f"Pass one of {', '.join(given)}.",
        )
    name, value = next(iter(found.items()))
    return name, as_error(whole if name == "num_computed_steps" else number, BudgetError)(name, value)


def parse_budget(
    num_steps: int, method: Method, given: Mapping[str, float | None], full_runs: float | None = None
) -> Budget:
    """Exactly one budget, of those that `ertacache.calibrate` takes, and what meeting it may cost.

    Raises:
        BudgetError: if there is none, more than one, or one that is no number, cannot be met, or does not suit the
            method.
    """
    budget = _parsed(num_steps, method, given)
    if full_runs is None:
        return replace(budget, full_runs=QUALITY_RUNS) if budget.quality else budget
    try:
        full_runs = number("full_runs", full_runs, above=1, at_most=MOST_FULL_RUNS)
    except ArgumentError as wrong:
        raise BudgetError(
            "calibration begins with a full run of every prompt, and ends",
            given=f"full_runs={wrong.given}",
            cure=f"Allow more than 1, up to {MOST_FULL_RUNS:g}; {FULL_RUNS:g} is usual, 8 or more search longer, "
            "and Ctrl-C ends the search.",
        ) from None
    observed = method.schedule == "offline" or method.timestep_adjustment or method.rectification is not None
    least = 1 + observed + method.timestep_adjustment  # what is fitted on a cached trajectory has a full run for it
    return replace(budget, full_runs=max(full_runs, least))


def _parsed(num_steps: int, method: Method, given: Mapping[str, float | None]) -> Budget:
    name, value = the_one(given)
    asked = f"{name}={value}"
    if name == "speedup":
        return Budget(asked, computed_steps_for(num_steps, value))
    if name == "num_computed_steps":
        check_budget(num_steps, int(value), given=f"{asked} at {num_steps} steps")
        return Budget(asked, int(value))
    if not value > 0:
        raise BudgetError("a budget must be positive", given=asked, cure="Give a number above 0.")
    if name == "threshold":
        if method.schedule != "offline":
            raise BudgetError(
                "a threshold is for Algorithm 2 only",
                given=f"{asked} with schedule={method.schedule!r}",
                cure="Use another budget, or a method with schedule='offline' such as 'paper'; 0.02 to 0.6 are usual.",
            )
        return Budget(asked, threshold=value)
    if name == "seconds":
        return Budget(asked, seconds=value)
    if method.schedule == "offline" or method.timestep_adjustment or method.rectification:
        raise BudgetError(
            "a budget of quality needs a method whose prompts can be judged apart from its fit",
            given=f"{asked} with method {method.name!r}",
            cure="Use 'aligned', 'taylor', 'reuse' or 'uniform', or another budget.",
        )
    ceiling = {"min_psnr": 100.0, "min_ssim": 1.0}[name]
    if value >= ceiling:
        raise BudgetError(
            "this quality is that of the full run alone", given=asked, cure=f"Ask for less than {ceiling:g}."
        )
    return Budget(asked, quality=(QUALITIES[name], value))


def check_prompts(budget: Budget, num_prompts: int) -> None:
    """Raise `BudgetError` where there are too few prompts to hold any out."""
    if budget.quality and num_prompts < MIN_HELD_OUT:
        raise BudgetError(
            "a budget of quality is judged on prompts that the fit did not use, and there are too few",
            given=f"{budget.asked} with {num_prompts} prompts",
            cure=f"Give {MIN_HELD_OUT} prompts or more; 16 or 32 make the interval narrow.",
        )
