"""A policy meets another setting than it was calibrated in: it is transferred, or refused with the reason.

What was measured to cost little is done in the call, and said in its report; docs/transfer.md has the figures.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from threading import Lock
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray

from ertacache.arguments import number
from ertacache.errors import PolicyMismatchError
from ertacache.method.choice import Method
from ertacache.method.error_growth import Feedback, missed, missed_by_plain
from ertacache.method.grid import bend, coarser, placed
from ertacache.method.outputs import Outputs, corrected
from ertacache.method.prediction import Prediction
from ertacache.policy import CalibrationRecord, Origin, Policy
from ertacache.runtime import identity
from ertacache.runtime.run import Report
from ertacache.runtime.samplers import lay
from ertacache.runtime.seams import own_class, patched_on
from ertacache.runtime.stepping import StepCall, landed

Made = TypeVar("Made")

SCHEDULERS = ("FlowMatchEulerDiscreteScheduler", "UniPCMultistepScheduler")
"""With which a transfer to other steps was measured, both of them in flow matching."""
NEAR_STEPS = (0.6, 1.7)
"""By what a call may multiply the number of steps.

A transferred policy is nearer to the full run than fewer steps by 2 to 16 dB there, and loses up to 7 dB against one
that was calibrated there (docs/transfer.md).
"""
NEAR_SCALES = (0.75, 1.0)
"""By what a call may multiply the guidance scale: that was measured to lose 1 dB at most, and 1.25 up to 10 dB."""
MOST_BENT = 0.5
"""By how many steps the noise levels may leave the calibrated curve: schedulers round, another shift is far more."""
FARTHER = 1.5
"""How many times as large the predicted error of a transfer may be as that of plain steps.

Predictions rank transfers, and are no better than that (docs/transfer.md).
"""
KEPT = 8
"""How many transfers of one policy are kept."""


@dataclass(frozen=True)
class Transfer:
    """A policy on other noise levels, and what is predicted of it.

    Args:
        policy: the policy there.
        missed: by how much its last latent is predicted to miss the full run's, in shares of the way to that.
        missed_by_plain: the same of as many plain steps as it computes.
        missed_there: the same of the policy where it was calibrated, and measured to be good.
    """

    policy: Policy
    missed: float
    missed_by_plain: float
    missed_there: float

    @property
    def refusal(self) -> str | None:
        """Why it is not made; None if it is."""
        if self.missed <= FARTHER * max(self.missed_by_plain, self.missed_there):
            return None
        computed, steps = len(self.policy.computed_steps), self.policy.num_inference_steps
        return (
            f"with {computed} of {steps} steps computed it is predicted to miss the full run by {self.missed:.2g} of "
            f"the way from noise, and {computed} plain steps by {self.missed_by_plain:.2g}"
        )


class Kept:
    """What was made of policies, by what it was made for: the newest `KEPT` of each policy, for as long as that lives.

    Threads may share it; of two that ask for the same at once, both may make it.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._made: WeakKeyDictionary[Policy, dict[Hashable, Any]] = WeakKeyDictionary()

    def get(self, policy: Policy, key: Hashable, make: Callable[[], Made]) -> Made:
        """What was made for this key, or what is made now."""
        with self._lock:
            made = self._made.setdefault(policy, {})
            if key in made:
                made[key] = made.pop(key)  # the newest
                return cast(Made, made[key])
        found = make()  # without the lock: it takes a while
        with self._lock:
            made[key] = found
            while len(made) > KEPT:
                del made[next(iter(made))]
        return found

    def __len__(self) -> int:
        with self._lock:
            return sum(map(len, self._made.values()))


_kept = Kept()


def carries(policy: Policy) -> bool:
    """Whether a policy like this can be transferred once it knows its outputs' Gram matrix."""
    return _is_measured(policy.method) and not policy.first_step


def policy_for(
    policy: Policy, scheduler: Any, levels: Sequence[float], report: Report, given: identity.Given | None = None
) -> Policy:
    """The policy for a call on these noise levels: as it is, or transferred.

    Args:
        policy: the policy that was given.
        scheduler: that of the call; left as it is.
        levels: the T' + 1 noise levels of the call.
        report: is told of a transfer.
        given: what the call was given, if it is known.

    Raises:
        PolicyMismatchError: if the grid is another one, and the policy cannot be transferred to it.
    """
    cause = identity.cause_of_levels(policy, scheduler, given)
    difference = identity.grid_difference(policy, levels, cause)
    if difference is None:
        return policy
    moved = _brought(policy, scheduler, levels, cause)
    if isinstance(moved, str):
        raise identity.mismatch(policy, *difference, reason=moved, steps=len(levels) - 1, given=given)
    report.note(
        f"the policy was calibrated on other noise levels, of {policy.num_inference_steps} steps; its computed steps "
        f"were placed and its weights solved anew for these {moved.num_inference_steps}, "
        f"{len(moved.computed_steps)} of them computed; one that is calibrated on them may be nearer to the full run"
    )
    return moved


def _brought(policy: Policy, scheduler: Any, levels: Sequence[float], cause: str) -> Policy | str:
    """The policy on other noise levels, or why it is not brought there."""
    if patched_on(scheduler, "step") is not None:
        return "the scheduler's step() is patched on the object, and how that answers to an output is not known"
    reason = refusal(policy, levels, cause)
    if reason:
        return reason
    key = own_class(scheduler), repr(sorted(scheduler.config.items())), tuple(levels)
    transfer = _kept.get(policy, key, lambda: on_grid(policy, scheduler, levels))
    return transfer.refusal or transfer.policy


def refusal(policy: Policy, levels: Sequence[float], cause: str = "the scheduler's shift") -> str | None:
    """Why no policy like this is transferred to other noise levels; None if one is.

    `Transfer.refusal` has what speaks against this one.

    Args:
        policy: the policy.
        levels: the T' + 1 noise levels.
        cause: what levels may differ by.
    """
    steps = len(levels) - 1
    if not _is_measured(policy.method):
        return (
            "that was measured for searched schedules of level 'velocity' alone, and this policy has schedule "
            f"{policy.method.schedule!r}, level {policy.method.level!r}"
        )
    if policy.gram is None or policy.origin is None:
        return (
            "the policy does not know how its outputs vary with the noise level, as only some of 'aligned' do, "
            "and none at other guidance than they were calibrated at"
        )
    if policy.calibration.taylor_kept:
        return "its fitted weights were worse than Taylor's in calibration"
    if not _of_measured_kind(policy.origin):
        return f"a transfer with {policy.origin.scheduler_class} was not measured for such noise levels"
    calibrated, (fewest, most) = policy.num_inference_steps, NEAR_STEPS
    if not fewest * calibrated <= steps <= most * calibrated or steps < 3:
        return f"it holds from {fewest:g} to {most:g} times the calibrated number of steps"
    if any(a <= b for grid in (policy.origin.noise_levels, levels) for a, b in pairwise(grid)):
        return "noise levels that do not fall are no grid to place steps on"
    known = policy.origin.noise_levels[:-1]
    if levels[0] > known[0] + (known[0] - known[1]) or levels[-2] < known[-1] - (known[-2] - known[-1]):
        return f"its noise levels lie outside of the calibrated ones, {known[0]:.4g} to {known[-1]:.4g}"
    bent = bend(policy.origin.noise_levels, levels)
    if bent > MOST_BENT:
        return f"its noise levels follow another curve ({cause}), by up to {bent:.2g} calibrated steps"
    return None


def response(scheduler: Any, levels: Sequence[float]) -> NDArray[np.float64]:
    """How far the output of each step (column) has moved the latent after each step (row), (T, T).

    The scheduler says it itself: it is linear in the outputs, so the rows are where it goes from zero when the output
    of step k is the k-th unit vector.

    Args:
        scheduler: of whose class and configuration; its step takes an output, a timestep and a latent, no more.
        levels: the T + 1 noise levels that its steps go along.
    """
    kind: Any = own_class(scheduler)
    twin = kind.from_config(scheduler.config)
    steps = len(levels) - 1
    twin.set_timesteps(steps, **({"mu": 1.0} if twin.config.get("use_dynamic_shifting") else {}))  # laid over
    lay(twin, levels)
    latent, rows = torch.zeros(1, steps, dtype=torch.float64), []
    step_call = StepCall.of(twin)
    for timestep, unit in zip(twin.timesteps, torch.eye(steps, dtype=torch.float64), strict=True):
        arguments = {"model_output": unit[None], "timestep": timestep, "sample": latent}
        latent = landed(step_call.call(twin.step, arguments))
        rows.append(latent[0].numpy())
    return np.array(rows, dtype=np.float64)


def on_grid(policy: Policy, scheduler: Any, levels: Sequence[float]) -> Transfer:
    """The policy of the same step ratio on other noise levels; only for what :func:`refusal` lets pass."""
    origin = policy.origin
    assert policy.gram is not None
    assert origin is not None  # seen to by `refusal`
    there, here = origin.noise_levels, tuple(levels)
    steps = len(here) - 1
    computed = max(2, steps * len(policy.computed_steps) // policy.num_inference_steps)
    cached = placed(policy.cached_steps, there, here, computed)
    order = max((len(p.history) for p in policy.predictions.values()), default=1) - 1
    calibrated = Outputs.of(policy.gram.numpy(), there)
    outputs, response_there, response_here = calibrated.at(here), response(scheduler, there), response(scheduler, here)
    fitted = policy.predictions
    weights = corrected(
        outputs.solved(cached, order, response_here),
        here,
        fitted,
        calibrated.solved(policy.cached_steps, order, response_there),
        there,
    )
    scale = _scale_of(origin.guidance)
    guidance = max(1.0, origin.guidance[scale]) if scale else 1.0
    feedback = Feedback.seen_in(calibrated, policy.cached_steps, fitted, response_there, guidance)
    plain = coarser(here, computed)
    return Transfer(
        replace(
            policy,
            num_inference_steps=steps,
            cached_steps=cached,
            predictions=weights if cached else {},
            origin=replace(origin, noise_levels=here),
            calibration=_unmeasured(policy.calibration),
            envelope=None,  # drifts, as the matrix, are those of the calibrated grid
            gram=None,
        ),
        missed=float(missed(outputs, cached, weights, response_here, feedback)[-1]),
        missed_by_plain=missed_by_plain(outputs, plain, response(scheduler, plain), response_here, feedback),
        missed_there=float(missed(calibrated, policy.cached_steps, fitted, response_there, feedback)[-1]),
    )


def at_guidance(policy: Policy, guidance: Mapping[str, float]) -> Policy:
    """The policy for a call at this guidance: `transferred` where that was measured to cost little, else as it is.

    Args:
        policy: the policy that was given.
        guidance: the guidance arguments of the call.
    """
    if policy.origin is None or policy.gram is None or not carries(policy) or not _of_measured_kind(policy.origin):
        return policy
    known = policy.origin.guidance
    scale = _scale_of(known)
    if scale is None or known.keys() != guidance.keys() or guidance == known:
        return policy
    if known.get("guidance_rescale") or known.get("use_dynamic_cfg"):
        return policy  # of which no output is proportional to the scale
    if known.get("guidance_scale_2", known[scale]) != known[scale]:
        return policy  # one ratio would be that of one expert
    near = NEAR_SCALES[0] <= guidance[scale] / known[scale] <= NEAR_SCALES[1]
    if not near or guidance[scale] <= 1 or not all(p.contrast_factors for p in policy.predictions.values()):
        return policy  # a scale of 1 switches the second branch off
    moved = _kept.get(policy, (scale, guidance[scale]), lambda: transferred(policy, **{scale: guidance[scale]}))
    return moved if moved.origin and moved.origin.guidance == guidance else policy  # another argument may differ too


def transferred(policy: Policy, **guidance: float) -> Policy:
    """A policy that is taken at other guidance than it was calibrated at; docs/transfer.md has what that costs.

    Its steps stay, and so do its weights, in the variables that guidance mixes: of an output ``v = u + g d``, where the
    branches differ by ``d``, it predicts ``u`` and ``d`` as it did. In its own variables, ``v`` and ``d``, the factors
    of the contrasts are multiplied by what the scale is multiplied by. Other guidance bends the trajectory too, and
    that the weights do not follow: calls do this unasked for near scales only, and `calibrate` at the other guidance
    loses nothing.

    Args:
        policy: a policy with an origin.
        **guidance: guidance arguments of the calls to come, e.g. ``true_cfg_scale=7.0``; the others stay.

    Raises:
        ArgumentError: if a value is no number.
        PolicyMismatchError: if the policy's calls had no such argument, nobody noted what they had, or it is none.

    >>> transferred(policy, true_cfg_scale=7.0).save("flux-7.safetensors")  # doctest: +SKIP
    """
    identity.check_policy(policy)
    known = policy.origin.guidance if policy.origin else {}
    for name in guidance:
        if name not in known:
            raise PolicyMismatchError(
                "the policy's calls had no such guidance argument",
                given=f"{name}, where they had {', '.join(known) or 'none'}",
                cure="Name one of those, or calibrate a policy for this setting with ertacache.calibrate().",
            )
    assert policy.origin is not None or not guidance
    if policy.origin is None or not guidance:
        return policy
    wanted = {name: float(number(name, value)) for name, value in guidance.items()}
    second = known.get("guidance_scale_2")
    if "guidance_scale" in wanted and second is not None and second == known["guidance_scale"]:
        wanted.setdefault("guidance_scale_2", wanted["guidance_scale"])  # as the pipeline fills it in
    note = "used at other guidance than it was calibrated at: " + ", ".join(
        f"{name} {known[name]:g} -> {value:g}" for name, value in sorted(wanted.items())
    )
    scale = _scale_of(known)
    ratio = wanted[scale] / known[scale] if scale in wanted else 1.0
    if second and scale == "guidance_scale" and wanted.get("guidance_scale_2", second) / second != ratio:
        ratio = 1.0  # two experts, and the weights of which is not known: they stay
    return replace(
        policy,
        origin=replace(policy.origin, guidance={**known, **wanted}),
        predictions={step: _contrasted(prediction, ratio) for step, prediction in policy.predictions.items()},
        envelope=None,  # other guidance drifts otherwise
        gram=None,  # and has other outputs
        calibration=_unmeasured(policy.calibration, notes=(*policy.calibration.notes, note)),
    )


def _is_measured(method: Method) -> bool:
    """Whether transfers were measured with policies of this method: of searched schedules, and so of `aligned`."""
    return method.schedule == "search" and method.level == "velocity"


def _of_measured_kind(origin: Origin) -> bool:
    """Whether transfers were measured with this scheduler on such noise levels."""
    return origin.scheduler_class in SCHEDULERS and origin.noise_levels[0] <= 1 + 1e-4


def _unmeasured(record: CalibrationRecord, **changes: Any) -> CalibrationRecord:
    """The record of a policy whose quality and time nobody measured."""
    return replace(record, error=None, step_errors=(), psnr=(), ssim=(), seconds=None, **changes)


def _scale_of(guidance: Mapping[str, float]) -> str | None:
    """What multiplies the difference of the branches. Beside ``true_cfg_scale``, ``guidance_scale`` is an input."""
    return next((name for name in ("true_cfg_scale", "guidance_scale") if guidance.get(name)), None)


def _contrasted(prediction: Prediction, ratio: float) -> Prediction:
    return replace(prediction, contrast_factors=tuple(factor * ratio for factor in prediction.contrast_factors))
