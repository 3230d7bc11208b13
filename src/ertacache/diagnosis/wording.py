"""An examination's result in words: the conclusion, and rows of a name and a text."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from math import ceil, inf

from ertacache.calibration.announcement import in_words
from ertacache.calibration.recording_store import readable
from ertacache.diagnosis.facts import (
    DenoiserFacts,
    Estimate,
    LevelFacts,
    PolicyFit,
    Refusal,
    SchedulerFacts,
    Way,
)

Row = tuple[str, str]
_WIDTH = 110
"""Columns of the text."""
_DOES = {"instant": "2x at once", "learn": "Learn from generations", "calibrate": "Calibrate", "by hand": "By hand"}

_TRANSFERS = {
    True: "searched policies are transferred to other numbers of steps",
    False: "policies are not transferred to other numbers of steps, so calibrate with that of the calls to come",
    None: "whether policies are transferred to other numbers of steps shows in a call",
}


def conclusion(refusal: Refusal | None, ways: Sequence[Way], policy: PolicyFit | None, tried: bool) -> str:
    """The first line: whether it is served, and by what."""
    if refusal is not None:
        return f"Not served: {refusal}"
    if policy is not None and policy.refusal is not None:
        return f"Served, but not by this policy: {policy.refusal}"
    if policy is not None and policy.call is not None:
        return f"Served, but this call not by this policy: {policy.call}"
    how = "a short call was made" if tried else "by all that shows without a call"
    open_ways = [way for way in ways if way.refusal is None]
    return f"Served ({how}). {_DOES[open_ways[0].name]}: {open_ways[0].code}"


def ways(of: Sequence[Way]) -> str:
    """The ways that work."""
    return ", ".join(way.name for way in of if way.refusal is None) or "none"


def levels(of: Sequence[LevelFacts]) -> str:
    """The levels that work."""
    return ", ".join(level.name for level in of if level.refusal is None) or "none"


def scheduler_rows(scheduler: SchedulerFacts) -> Iterator[Row]:
    """What the scheduler allows, and which others there are."""
    can = []
    if scheduler.refusal is None:
        can.append(_TRANSFERS[scheduler.transfers])
        can += [] if scheduler.retimes else ["methods with timestep adjustment do not work"]
    yield "scheduler", "; ".join([scheduler.name, *can])
    if scheduler.beside:
        yield "beside it", ", ".join(scheduler.beside)
    if scheduler.others:
        names = ", ".join(name.removesuffix("Scheduler") for name in scheduler.others)
        yield "supported too", f"{names} (if the pipeline takes them)"


def denoiser(facts: DenoiserFacts) -> str:
    """One denoiser."""
    adapters = [f"adapters {', '.join(facts.adapters)}"] if facts.adapters else []
    return ", ".join([f"{facts.name}: {facts.model}", facts.stored, *facts.state, *adapters])


def numbers(of: Mapping[str, float]) -> str:
    """Numbers by name."""
    return ", ".join(f"{name}={value:g}" for name, value in of.items()) or "none"


def policy_rows(policy: PolicyFit | None) -> Iterator[Row]:
    """What is said of a given policy."""
    if policy is None:
        return
    fits = "fits" if policy.call is None else "fits the pipeline, and not this call"
    yield "policy", f"{policy.summary}: {fits if policy.refusal is None else 'does not fit'}"
    if policy.call is not None:
        yield "this call", f"would be refused: {policy.call}"
    if policy.unseen:
        yield "not seen", f"whether it fits the call's noise levels, since the call could not be begun: {policy.unseen}"
    for note in policy.notes:
        yield "its reports", note


def estimate_rows(estimate: Estimate | None, tried: bool) -> Iterator[Row]:
    """What a trial on this machine says."""
    if estimate is None:
        if not tried:
            yield "timed", "nothing; time=True (--time) makes a few calls of four steps"
        return
    e, calls = estimate, estimate.denoiser_calls
    second = "the second of two whole calls" if e.warmed_up else "one whole call, its decoder not warmed up,"
    yield "timed", f"{second} of {e.trial_steps} steps, one of them cached; the rest follows from that"
    yield (
        "full run",
        f"{e.full_run:.3g} s for {e.steps} steps of {e.step:.3g} s, each of {calls} denoiser call{'s' * (calls != 1)}, "
        f"and {e.outside:.3g} s outside of them; the denoiser takes {e.denoiser_share:.0%} of it",
    )
    yield (
        "at 2x",
        f"about {e.at_2x:.3g} s, {e.speedup:.2f} times faster: {e.computed} steps computed, a cached one takes "
        f"{e.cached_step:.2g} s",
    )
    pays = "" if e.pays_from == inf else f"; it pays from call {ceil(e.pays_from)} on"
    yield (
        "calibration",
        f"to 2x makes at most {e.calibration_runs:.3g} full runs: {in_words(e.calibration)}{pays}. It takes "
        f"{readable(e.memory)} of memory besides the pipeline, and {readable(e.recordings)} for recordings",
    )
    several = ", ".join(" x ".join(map(str, shape)) for shape in e.latents)
    yield ("latents" if len(e.latents) > 1 else "latent", several)


def table(rows: Sequence[Row]) -> list[str]:
    """Rows of a name and a text, wrapped."""
    wide = max(len(name) for name, _ in rows)
    lines = []
    for name, text in rows:
        first, later = f"  {name:<{wide}}  ", " " * (wide + 4)
        lines += textwrap.wrap(
            text,
            _WIDTH,
            initial_indent=first,
            subsequent_indent=later,
            break_on_hyphens=False,
            break_long_words=False,
        )
    return lines
