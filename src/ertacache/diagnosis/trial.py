"""A short call of a pipeline with one step cached: whether its loop can be followed, and how long its parts take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil
from statistics import median
from typing import Any

from torch import Tensor

from ertacache.calibration.prompts import calls_for
from ertacache.calibration.recorder import record
from ertacache.clock import now
from ertacache.diagnosis.facts import Refusal, refusal_of
from ertacache.errors import CalibrationError
from ertacache.method.named_methods import Method, check_streams_method
from ertacache.runtime.begun_call import borrowed
from ertacache.runtime.call_signature import CallSignature
from ertacache.runtime.driver import Driver, Step, Stop
from ertacache.runtime.repeatable_call import Call
from ertacache.runtime.run import Run

STEPS = 4
"""How many steps a trial's call makes, image-to-image about so many. The third is cached, the others are timed but for
the first."""
CHEAP = 10.0
"""Seconds: a timed call that took less is made again, since the first one warmed up its decoder."""
PROMPT = "a red star"


@dataclass(frozen=True)
class Trial:
    """What a trial has seen.

    Args:
        asked: the ``num_inference_steps`` of its call, or None if the call sets its steps in another way.
        first: the step of the grid that the call began with; more than 0 for image-to-image.
        made: how many steps the call made.
        share: the share of its steps that image-to-image makes of a grid, its ``strength``; 1 if it has none.
        seconds: the time of the whole call.
        intervals: for each step but the first: whether it was computed, its seconds, and those of its denoiser calls.
        denoiser_calls: how many denoiser calls make up a step.
        samples: the latent and the model output of the first step, for each latent that the loop steps.
        warmed_up: whether it is the second timed call.
        calibration: why such a call cannot be calibrated, or None if it can.
        hidden: why level ``hidden`` cannot be used, or None if it can.
    """

    asked: int | None
    first: int
    made: int
    seconds: float
    intervals: tuple[tuple[bool, float, float], ...]
    denoiser_calls: int
    samples: tuple[tuple[Tensor, Tensor], ...]
    share: float = 1.0
    warmed_up: bool = False
    calibration: Refusal | None = None
    hidden: Refusal | None = None

    def typical(self, computed: bool) -> tuple[float, float] | None:
        """The median seconds of computed or of cached steps, and of their denoiser calls; None if there was none."""
        rows = [(seconds, denoised) for was, seconds, denoised in self.intervals if was == computed]
        return (median(row[0] for row in rows), median(row[1] for row in rows)) if rows else None


def try_out(pipe: Any, arguments: Mapping[str, Any], steps: int) -> Trial:
    """Make short calls: one is recorded as calibration does, then one is timed, and again if that took little time.

    Args:
        pipe: the pipeline; left as it was found. It makes the calls itself: a copy's scheduler would not be the one of
            a pipeline within it.
        arguments: those of the call, without the number of steps.
        steps: T of the calls to come, which a call whose arguments set its noise levels makes here too.

    Raises:
        ArgumentError: if sigmas or timesteps are no list of numbers.
        CalibrationError: if the arguments do not go together, or the call makes no step.
        PipelineError: if the pipeline cannot be served, or takes no such argument.
        RunError: if its loop cannot be followed.
    """
    takes = CallSignature.of(pipe)
    sets_levels = not takes.takes("num_inference_steps") or any(
        arguments.get(n) is not None for n in ("sigmas", "timesteps")
    )
    share = _share(takes, arguments)
    asked = steps if sets_levels else max(STEPS, min(steps, ceil(STEPS / share)))
    call = call_of(pipe, arguments, asked)
    with borrowed(pipe):
        calibration = refusal_of(lambda: record(pipe, call, 0, asked, _nothing, _nothing))
        trial = _timed(pipe, call.as_given())
        if trial.made == 0:
            raise CalibrationError(
                "a call with these arguments makes no step at all",
                given=f"num_inference_steps={asked}",
                cure="Ask for more steps, or a larger strength of image-to-image.",
            )
        if trial.seconds < CHEAP:
            trial = replace(_timed(pipe, call.as_given()), warmed_up=True)
        hidden = _refusal_of_hidden(pipe, call, len(trial.samples))
    asked_for = None if sets_levels else asked
    return replace(trial, asked=asked_for, share=share, calibration=calibration, hidden=hidden)


def call_of(pipe: Any, arguments: Mapping[str, Any], num_inference_steps: int) -> Call:
    """A call with these arguments, and with a prompt if the pipeline takes one and none is given.

    Raises:
        ArgumentError: if sigmas or timesteps are no list of numbers.
        CalibrationError: if the arguments do not go together.
        PipelineError: if the pipeline takes no such argument.
    """
    given = dict(arguments)
    prompted = any(name.startswith("prompt") and value is not None for name, value in given.items())
    if CallSignature.of(pipe).takes("prompt") and not prompted:
        given["prompt"] = PROMPT
    (call,) = calls_for(pipe, [given], {"num_inference_steps": num_inference_steps}, 0)
    return call


def _share(takes: CallSignature, given: Mapping[str, Any]) -> float:
    """The share of its steps that image-to-image makes, over 0 and at most 1; 1 for other calls."""
    strength = given.get("strength", takes.defaults.get("strength"))
    return float(strength) if isinstance(strength, int | float) and 0 < strength <= 1 else 1.0


def _nothing(seen: object) -> None:
    """Take no note."""


def _timed(pipe: Any, call: Call) -> Trial:
    """Make a call, and time it."""
    watch, arguments = _Stopwatch(), call.arguments()
    with call.random.lent():
        began = now()
        with Run(pipe, watch) as run:
            run.call(**arguments)
        seconds = now() - began
    return Trial(
        None, watch.first, len(watch.ended), seconds, watch.intervals(), watch.denoiser_calls, tuple(watch.samples)
    )


class _Stopwatch(Driver):
    """Caches the third step, and takes the time of each step and of its denoiser calls.

    Attributes:
        first: the index of the first step.
        denoiser_calls: how many of them make up that step.
        samples: the latent and the model output of the first step of each stream.
        ended: when each step ended.
    """

    def __init__(self) -> None:
        self.first = self.denoiser_calls = 0
        self.ended: list[float] = []
        self.samples: list[tuple[Tensor, Tensor]] = []
        self._computed: list[bool] = []
        self._denoised: list[float] = []
        self._began = 0.0

    def is_cached(self, step: int) -> bool:
        self._began = now()  # not called for the first step, whose times do not count
        return len(self.ended) == 2

    def model_output(self, step: Step) -> Tensor:
        if step.stream == 0:
            self._denoised.append(now() - self._began)
            self._computed.append(step.computed)
        if not self.samples:
            self.first, self.denoiser_calls = step.index, step.denoiser_calls
        if step.stream == len(self.samples):
            self.samples.append((step.sample.detach(), step.model_output.detach()))
        return step.model_output

    def stepped(self, index: int, sample: Tensor, stream: int) -> None:
        if stream == 0:
            self.ended.append(now())

    def intervals(self) -> tuple[tuple[bool, float, float], ...]:
        """See `Trial`."""
        spent = [end - before for before, end in zip(self.ended, self.ended[1:], strict=False)]
        return tuple(zip(self._computed[1:], spent, self._denoised[1:], strict=True))


class _FirstStep(Driver):
    """Ends the call at the first step at level ``hidden``."""

    residuals_kept = 1

    def model_output(self, step: Step) -> Tensor:
        raise Stop


def _refusal_of_hidden(pipe: Any, call: Call, latents: int) -> Refusal | None:
    """Try one step at level ``hidden``."""

    def check() -> None:
        check_streams_method(Method(level="hidden"), latents)
        try:
            with call.random.lent(), Run(pipe, _FirstStep()) as run:
                run.call(**call.arguments())
        except Stop:
            pass

    return refusal_of(check)
