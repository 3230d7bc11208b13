"""A policy on other noise levels than it was calibrated on: its computed steps placed anew, its weights solved anew.

What stays the same between two grids of one model is how its outputs vary with the noise level. That is in the Gram
matrix which the policy keeps (`ertacache.method.outputs`); whether the transfer beats as many plain steps is predicted
(`ertacache.method.error_growth`). docs/transfer.md has what was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ertacache.method.choice import Method
from ertacache.method.error_growth import Feedback, missed, missed_by_plain
from ertacache.method.grid import bend, coarser, placed
from ertacache.method.outputs import Outputs, corrected
from ertacache.policy import Origin, Policy
from ertacache.runtime.guidance_transfer import scale_of
from ertacache.runtime.scheduler_probe import StepCall, landed
from ertacache.runtime.schedulers import lay
from ertacache.runtime.unwrap import own_class

SCHEDULERS = ("FlowMatchEulerDiscreteScheduler", "UniPCMultistepScheduler")
"""With which a transfer to other steps was measured, both of them in flow matching."""
NEAR_STEPS = (0.6, 1.7)
"""By what a call may multiply the number of steps.

A transferred policy is nearer to the full run than fewer steps by 2 to 16 dB there, and loses up to 7 dB against one
that was calibrated there (docs/transfer.md).
"""
MOST_BENT = 0.5
"""By how many steps the noise levels may leave the calibrated curve: schedulers round, another shift is far more."""
FARTHER = 1.5
"""How many times as large the predicted error of a transfer may be as that of plain steps.

Predictions rank transfers, and are no better than that (docs/transfer.md).
"""


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


def carries(policy: Policy) -> bool:
    """Whether a policy like this can be transferred once it knows its outputs' Gram matrix."""
    return _is_measured(policy.method) and not policy.first_step


def _is_measured(method: Method) -> bool:
    """Whether transfers were measured with policies of this method: of searched schedules, and so of `aligned`."""
    return method.schedule == "search" and method.level == "velocity"


def of_measured_kind(origin: Origin) -> bool:
    """Whether transfers were measured with this scheduler on such noise levels."""
    return origin.scheduler_class in SCHEDULERS and origin.noise_levels[0] <= 1 + 1e-4


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
    if not of_measured_kind(policy.origin):
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
    scale = scale_of(origin.guidance)
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
            calibration=policy.calibration.unmeasured(),
            envelope=None,  # drifts, as the matrix, are those of the calibrated grid
            gram=None,
        ),
        missed=float(missed(outputs, cached, weights, response_here, feedback)[-1]),
        missed_by_plain=missed_by_plain(outputs, plain, response(scheduler, plain), response_here, feedback),
        missed_there=float(missed(calibrated, policy.cached_steps, fitted, response_there, feedback)[-1]),
    )
