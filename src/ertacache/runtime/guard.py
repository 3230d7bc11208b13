"""The guard: watches whether a generation drifts as calibration's did, and computes the rest of it if it does not.

Drifts are found on the device and read on the host one computed step later, so that nothing waits for the step that
was just queued.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, log
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ertacache.arguments import told
from ertacache.errors import GuardError
from ertacache.policy import Policy
from ertacache.policy.envelope import Envelope
from ertacache.watching.envelope import is_outside, relative_drift, score, size_of

Mode = Literal["report", "compute"]


class Late:
    """The drifts of one step on the way to the host; reading waits for that step alone, which is done by then.

    Args:
        values: (batch,), on any device. From CUDA they go to pinned memory behind what is queued.
    """

    def __init__(self, values: Tensor) -> None:
        self._values = values
        self._arrived: Any = None
        self._read: list[float] | None = None
        if values.device.type == "cuda":
            self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrived.record(torch.cuda.current_stream(values.device))

    def read(self) -> list[float]:
        """One for each sample; waited for once."""
        if self._read is None:
            if self._arrived is not None:
                self._arrived.synchronize()
            self._read = self._values.tolist()
        return self._read


class GuardReport:
    """What the guard saw in one call; what it asks the device for, it asks for when it is read.

    Attributes:
        mode: what the guard was asked to do.
        computed_steps: the steps that it had computed and that the policy caches.
    """

    def __init__(self, envelope: Envelope, mode: Mode) -> None:
        self.mode, self.envelope = mode, envelope
        self.computed_steps: list[int] = []
        self._late: dict[int, Late] = {}

    def keep(self, step: int, drift: Tensor) -> None:
        """Take in the drift of a computed step, (batch,)."""
        self._late[step] = Late(drift)

    def forget(self) -> None:
        """Another trajectory begins."""
        self._late.clear()

    @property
    def drifts(self) -> tuple[dict[int, float], ...]:
        """For each sample of the batch, what was compared, by step."""
        return self._drifts(list(self._late))

    @property
    def complete(self) -> bool:
        """Whether every step was compared that calibration's runs have."""
        return self.envelope.reached(self._late) == len(self.envelope.steps)

    @property
    def scores(self) -> tuple[float, ...]:
        """How far outside of the envelope each sample is; empty if no step could be compared with calibration's."""
        reached = self.envelope.reached(self._late)
        return tuple(score(self.envelope, own) for own in self.drifts) if reached else ()

    @property
    def limit(self) -> float:
        """The score over which a sample is outside."""
        return self.envelope.limit

    @property
    def left(self) -> tuple[bool, ...]:
        """For each sample of the batch, whether it is outside of the envelope, by all that was compared."""
        return tuple(score > self.limit for score in self.scores)

    def left_before_the_last(self) -> bool:
        """Whether a sample was outside by all drifts but the newest, which the device may not have found yet."""
        return any(is_outside(self.envelope, own) for own in self._drifts(list(self._late)[:-1]))

    def _drifts(self, steps: Sequence[int]) -> tuple[dict[int, float], ...]:
        samples = zip(*(self._late[step].read() for step in steps), strict=True)
        return tuple(dict(zip(steps, row, strict=True)) for row in samples)

    def __str__(self) -> str:
        scores, left = self.scores, self.left
        if not scores:
            return "guard: no step could be compared with calibration's"
        worst = f"score {max(scores):.2f}, limit {self.limit:.2f}"
        computed = f"; {len(self.computed_steps)} cached steps were computed" if self.computed_steps else ""
        if not any(left):
            return f"guard: within calibration's envelope ({worst}){computed}"
        return f"guard: outside of calibration's envelope{_which(left)} ({worst}){computed}"


class DraftReport:
    """What its draft tells of a generation; see `ertacache.draft`. The device is asked when it is read.

    Args:
        distances: (batch,), of the final latents.
        drifts: what the run and the draft drifted; None where a policy has no envelope.
        mean: of the logarithm of the error, over calibration's samples.
        deviation: of the same.
        limit: the score over which a sample is off by more than calibration's.
        denoiser_calls: of the draft.
    """

    def __init__(
        self,
        distances: Tensor,
        drifts: tuple[GuardReport, GuardReport] | None,
        mean: float,
        deviation: float,
        limit: float,
        denoiser_calls: int,
    ) -> None:
        self._late, self._watched = Late(distances), drifts
        self.mean, self.deviation, self.limit = mean, deviation, limit
        self.denoiser_calls = denoiser_calls

    @property
    def distances(self) -> tuple[float, ...]:
        """The root mean square of the difference of the final latents, for each sample of the batch."""
        return tuple(self._late.read())

    @property
    def errors(self) -> tuple[float, ...]:
        """What `estimated_errors` makes of it, for each sample of the batch."""
        return estimated_errors(self.distances, self._watched)

    @property
    def scores(self) -> tuple[float, ...]:
        """The logarithm of the error, in standard deviations of calibration's samples above their mean.

        Empty if not all steps could be compared that calibration's runs have, as after the guard had some computed.
        """
        return tuple((log(e) - self.mean) / self.deviation if e else -inf for e in self.errors)

    @property
    def left(self) -> tuple[bool, ...]:
        """For each sample of the batch, whether it is off by more than calibration's are, or no number."""
        return tuple(not score <= self.limit for score in self.scores)

    def __str__(self) -> str:
        scores, left = self.scores, self.left
        if not scores:
            return "draft: not all steps could be compared with calibration's"
        worst = f"score {max(scores):.2f}, limit {self.limit:.2f}; {self.denoiser_calls} more denoiser calls"
        if not any(left):
            return f"draft: as near as calibration's ({worst})"
        return f"draft: farther off than calibration's{_which(left)} ({worst})"


def _which(left: Sequence[bool]) -> str:
    """Of several samples, those that left."""
    return "" if len(left) == 1 else f": samples {', '.join(str(k) for k, out in enumerate(left) if out)}"


def estimated_errors(distances: Sequence[float], drifts: tuple[GuardReport, GuardReport] | None) -> tuple[float, ...]:
    """How far the final latents are from those of the full run, by what a draft tells.

    The distance to a draft of fewer steps is nearly all the draft's own error. How large that is for what the draft
    drifted is how much this denoiser grows errors on this prompt; so a run is off by as much for what *it* drifted.
    To a draft of more steps it is mostly the run's error as it is, and the drifts change little (docs/research-log.md).

    Args:
        distances: to the draft, one for each sample.
        drifts: what the run and the draft drifted; None if that is not known, and the distance is all there is.

    Returns:
        One for each sample; none if not all steps were compared that calibration's runs have.
    """
    if drifts is None:
        return tuple(distances)
    if not all(watched.complete for watched in drifts):
        return ()
    of_samples = zip(distances, *(watched.drifts for watched in drifts), strict=True)
    return tuple(distance * size_of(own.values()) / size_of(other.values()) for distance, own, other in of_samples)


class Guard:
    """One call's guard.

    Args:
        policy: which the call follows.
        envelope: the policy's.
        mode: what to do about a sample that leaves it.
    """

    def __init__(self, policy: Policy, envelope: Envelope, mode: Mode) -> None:
        self.report = GuardReport(envelope, mode)
        self.compared = frozenset(envelope.steps)
        computed = policy.computed_steps
        self._before = dict(zip(computed[1:], computed, strict=False))
        self._corrects = not policy.predictions.keys().isdisjoint(computed)
        self._computing = False

    def begin(self) -> None:
        """A trajectory begins."""
        self.report.forget()
        self._computing = False

    def saw(
        self, step: int, truth: Tensor, corrected: Tensor | None, entry: Tensor, before: tuple[int, Tensor] | None
    ) -> None:
        """A computed step.

        One that the policy corrects in other runs and not in this one is not compared, nor, where it corrects none, one
        that follows another step than calibration's did.

        Args:
            step: its index.
            truth: what the denoiser returned, (batch, ...), float32.
            corrected: what the policy makes of it, if it corrects it.
            entry: what the cache keeps of it.
            before: the computed step before, and what the cache kept of that.
        """
        if step not in self.compared:
            return
        if corrected is not None:
            self.report.keep(step, relative_drift(truth, corrected))
        elif not self._corrects and before and before[0] == self._before[step]:
            self.report.keep(step, relative_drift(entry, before[1]))

    def computes(self, step: int) -> bool:
        """Whether this step, which the policy caches, is computed.

        Once a sample has left the envelope all later steps are: what is predicted from there on is not what the
        weights were fitted on.
        """
        if self.report.mode != "compute":
            return False
        self._computing = self._computing or self.report.left_before_the_last()
        if self._computing and step not in self.report.computed_steps:
            self.report.computed_steps.append(step)
        return self._computing


def check_guard(policy: Policy, mode: str | None) -> Envelope | None:
    """The envelope that a guard of this mode needs, or None without one.

    Raises:
        GuardError: if there is no such mode, or the policy has no envelope.
    """
    if mode is None:
        return None
    if not isinstance(mode, str) or mode not in get_args(Mode):
        raise GuardError("there is no such guard", given=told(mode), cure="Choose 'report', 'compute' or None.")
    if not policy.cached_steps:
        raise GuardError(
            "there is nothing to guard, since this policy caches nothing",
            given=f"budget {policy.calibration.budget or 'none'}",
            cure="Leave the guard out, or calibrate for a budget that leaves steps to cache.",
        )
    if policy.envelope is None:
        raise GuardError(
            "a guard compares with what calibration saw, and this policy has no envelope",
            given=f"method {policy.method.name}, {policy.calibration.num_prompts} calibration prompts",
            cure="Calibrate it again on four prompts or more, in the setting of the calls to come (a transferred one "
            "has none), by a method that predicts its cached steps in a closed loop, such as 'aligned', 'taylor' or "
            "'reuse'; or leave the guard out.",
        )
    return policy.envelope
