"""The parts of an examination's result, as data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ertacache.errors import ERTACacheError


@dataclass(frozen=True)
class Refusal:
    """Why something is refused, in the words of the error that it would raise.

    Args:
        what: what fails.
        given: what was given.
        cure: what to do about it.
    """

    what: str
    given: str
    cure: str

    @classmethod
    def of(cls, error: ERTACacheError) -> Refusal:
        """Keep the parts of an error."""
        return cls(error.what, str(error.given), error.cure)

    def __str__(self) -> str:
        return f"{self.what} (given: {self.given}). {self.cure}"


def refusal_of(check: Callable[[], object]) -> Refusal | None:
    """Make a check that raises an error of this library if it fails; return the refusal, or None if it passes."""
    try:
        check()
    except ERTACacheError as error:
        return Refusal.of(error)
    return None


@dataclass(frozen=True)
class Way:
    """One way to accelerate the pipeline.

    Args:
        name: ``instant``, ``learn``, ``calibrate`` or ``by hand``.
        code: how it is called from Python.
        refusal: why it cannot be used, or None if it can.
    """

    name: str
    code: str
    refusal: Refusal | None = None


@dataclass(frozen=True)
class LevelFacts:
    """What can be cached.

    Args:
        name: ``velocity``, ``output`` or ``hidden``; see `ertacache.Method`.
        refusal: why it cannot, or None if it can, as far as this is known.
        tried: whether a trial has shown it.
    """

    name: str
    refusal: Refusal | None
    tried: bool


@dataclass(frozen=True)
class DenoiserFacts:
    """One module that runs in the sampling loop.

    Args:
        name: the attribute of the pipeline that holds it.
        model: the name of its class.
        stored: the kinds of storage of its weights, the most frequent first.
        state: in words, whether it is compiled, offloaded, or casts its weights.
        adapters: the active adapters with their scales.
        is_control: whether it is a ControlNet, which is skipped with the denoiser.
        unread: why some of its weights cannot be compared with a policy's; empty if all can.
    """

    name: str
    model: str
    stored: str
    state: tuple[str, ...] = ()
    adapters: tuple[str, ...] = ()
    is_control: bool = False
    unread: str = ""


@dataclass(frozen=True)
class SchedulerFacts:
    """The scheduler.

    Args:
        name: the name of its class.
        refusal: why it is not supported, or None if it is.
        transfers: whether searched policies are transferred to other numbers of steps on it; None if its noise levels
            are known in a call only.
        retimes: whether methods with timestep adjustment (``offline+time``, ``paper``) can be used.
        others: the names of diffusers' schedulers for the same kind of model that are supported too.
        beside: the names of the pipeline's further schedulers, such as one for sound.
    """

    name: str
    refusal: Refusal | None
    transfers: bool | None
    retimes: bool
    others: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()


@dataclass(frozen=True)
class Finding:
    """Something that is not refused, but should be known.

    Args:
        what: what was found.
        cure: what to do about it.
    """

    what: str
    cure: str


@dataclass(frozen=True)
class Estimate:
    """What a trial on this machine says of full runs. All times are in seconds.

    Args:
        steps: T, for which all figures hold.
        trial_steps: how many steps one call of the trial made.
        warmed_up: whether a whole call, decoding included, was made before the one that was timed.
        full_run: a whole call with every step computed.
        outside: the part of it before the first and after the last step: text encoders, decoder.
        step: a computed step.
        denoiser: the denoiser calls of a computed step.
        cached_step: a cached step.
        denoiser_calls: how many of them make up a step.
        latents: the shapes of the latents that the loop steps, each without the batch axis.
        computed: how many steps are computed at a step ratio of 2.
        at_2x: a whole call then.
        calibration_runs: the most full runs that a calibration to 2x makes by default.
        calibration: the time that these take.
        memory: the bytes that such a calibration uses besides the pipeline.
        recordings: the bytes of its recordings.
    """

    steps: int
    trial_steps: int
    warmed_up: bool
    full_run: float
    outside: float
    step: float
    denoiser: float
    cached_step: float
    denoiser_calls: int
    latents: tuple[tuple[int, ...], ...]
    computed: int
    at_2x: float
    calibration_runs: float
    calibration: float
    memory: int
    recordings: int

    @property
    def denoiser_share(self) -> float:
        """The share of a full run that the denoiser takes, 0 to 1."""
        return min(1.0, self.denoiser * self.steps / self.full_run)

    @property
    def speedup(self) -> float:
        """How many times faster a whole call is at a step ratio of 2."""
        return self.full_run / self.at_2x

    @property
    def pays_from(self) -> float:
        """From how many calls on a calibration has taken less time than it saves; infinity if nothing is saved."""
        saved = self.full_run - self.at_2x
        return self.calibration / saved if saved > 0 else float("inf")


@dataclass(frozen=True)
class PolicyFit:
    """Whether a policy fits the pipeline.

    Args:
        summary: what the policy is, in a line.
        refusal: why it does not fit, or None if it does.
        call: why a call with the given arguments would be refused, or None if it would not.
        notes: what the report of each call would say.
        unseen: why no call could be begun, so that its noise levels were not compared; empty if one was.
    """

    summary: str
    refusal: Refusal | None
    call: Refusal | None = None
    notes: tuple[str, ...] = ()
    unseen: str = ""
