"""Transfer a policy to other noise levels, such as another number of steps: place its steps and solve its weights anew.

On every grid, a model's outputs vary with the noise level in the same way. The policy keeps this in a Gram matrix
(`ertacache.method.gram_weights`), from which the new weights are solved. The error of the result is predicted
(`ertacache.method.error_growth`); if as many plain steps are predicted to be better, the transfer is refused.
docs/records/transfer.md has the measurements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ertacache.method.error_growth import Feedback, predicted_error_of_plain_steps, predicted_errors
from ertacache.method.gram_weights import Outputs, with_loop_corrections
from ertacache.method.grid_mapping import coarser, curve_difference, place_schedule
from ertacache.method.named_methods import Method
from ertacache.policy import Origin, Policy
from ertacache.runtime.guidance_transfer import scale_of
from ertacache.runtime.sampler_response import latents_of
from ertacache.runtime.schedulers import fresh_twin, set_noise_levels

SCHEDULERS = ("FlowMatchEulerDiscreteScheduler", "UniPCMultistepScheduler")
"""The schedulers with which transfers to other steps were measured, both of them in flow matching."""
NEAR_STEPS = (0.6, 1.7)
"""By how much a call may multiply the number of steps.

In this range a transferred policy is 2 to 16 dB closer to the full run than fewer steps are, and up to 7 dB farther
than a policy calibrated for the call (docs/records/transfer.md).
"""
MOST_BENT = 0.5
"""How many steps the noise levels may leave the calibrated curve: schedulers round, but another shift is far more."""
FARTHER = 1.5
"""How many times the predicted error of plain steps a transfer's predicted error may be.

Predictions rank transfers, but are not more accurate than that (docs/records/transfer.md).
"""


@dataclass(frozen=True)
class Transfer:
    """A transferred policy with its predicted errors.

    An error is how far the last latent misses the full run's, where 1 is the distance from the first latent to that.

    Args:
        policy: the policy for the other noise levels.
        missed: the predicted error of the transferred policy.
        missed_by_plain: the predicted error of as many plain steps as the policy computes.
        missed_there: the predicted error of the original policy on the calibrated grid, where it was measured to be
            good.
    """

    policy: Policy
    missed: float
    missed_by_plain: float
    missed_there: float

    @property
    def refusal(self) -> str | None:
        """Why this transfer is refused, or None if it is not."""
        if self.missed <= FARTHER * max(self.missed_by_plain, self.missed_there):
            return None
        computed, steps = len(self.policy.computed_steps), self.policy.num_inference_steps
        return (
            f"with {computed} of {steps} steps computed its predicted error is {self.missed:.2g} (0 is the full run), "
            f"against {self.missed_by_plain:.2g} of simply running {computed} steps without a cache: do that instead"
        )


def carries(policy: Policy) -> bool:
    """Whether a policy like this can be transferred if it has a Gram matrix."""
    return _is_measured(policy.method) and not policy.first_step


def _is_measured(method: Method) -> bool:
    """Whether transfers were measured with policies of this method: those with searched schedules, as `aligned`."""
    return method.schedule == "search" and method.level == "velocity"


def of_measured_kind(origin: Origin) -> bool:
    """Whether transfers were measured with this scheduler on such noise levels."""
    return measured_with(origin.scheduler_class, origin.noise_levels)


def measured_with(scheduler_class: str, levels: Sequence[float]) -> bool:
    """Whether transfers were measured with a scheduler of this class on such noise levels."""
    return scheduler_class in SCHEDULERS and levels[0] <= 1 + 1e-4


def refusal(policy: Policy, levels: Sequence[float], cause: str = "the scheduler's shift") -> str | None:
    """Say why a policy cannot be transferred to other noise levels, or None if it can, subject to `Transfer.refusal`.

    Args:
        policy: the policy.
        levels: the T' + 1 noise levels of the call.
        cause: the possible causes of different noise levels, for the message.
    """
    steps = len(levels) - 1
    if not _is_measured(policy.method):
        return (
            "only policies of method 'aligned' (schedule 'search', level 'velocity') can be used at other numbers of "
            f"steps or noise levels; this one is of method {policy.method.name!r}"
        )
    if policy.gram is None or policy.origin is None:
        return (
            "this policy lacks the data for a transfer (it was made by image-to-image calls, by calls whose denoiser "
            "calls change on the way, or by hand, or it was transferred before)"
        )
    if policy.calibration.taylor_kept:
        return (
            "calibration kept plain extrapolation for this policy (see policy.calibration.notes), and such policies "
            "are not transferred"
        )
    if not of_measured_kind(policy.origin):
        return f"transfers with {policy.origin.scheduler_class} on such noise levels were not tested"
    calibrated, (fewest, most) = policy.num_inference_steps, NEAR_STEPS
    if not fewest * calibrated <= steps <= most * calibrated or steps < 3:
        return f"this works from {fewest:g} to {most:g} times the calibrated number of steps, and from 3 steps on"
    if any(a <= b for grid in (policy.origin.noise_levels, levels) for a, b in pairwise(grid)):
        return "the noise levels (sigmas) of this call or of calibration do not decrease from step to step"
    known = policy.origin.noise_levels[:-1]
    if levels[0] > known[0] + (known[0] - known[1]) or levels[-2] < known[-1] - (known[-2] - known[-1]):
        return f"the call's noise levels lie outside of the calibrated ones, {known[0]:.4g} to {known[-1]:.4g}"
    bent = curve_difference(policy.origin.noise_levels, levels)
    if bent > MOST_BENT:
        return (
            f"the scheduler's noise levels differ from the calibrated curve by up to {bent:.2g} step widths "
            f"({MOST_BENT:g} is allowed); possible cause: {cause}"
        )
    return None


def response(scheduler: Any, levels: Sequence[float]) -> NDArray[np.float64]:
    """Measure how far a unit of each step's output (column) has moved the latent after each step (row).

    A copy of the scheduler is run on it: it is linear in the outputs, so it starts from zero and gets the k-th unit
    vector as the output of step k. The latents are then the rows.

    Args:
        scheduler: its class and configuration are used; its step needs no arguments but output, timestep and latent.
        levels: the T + 1 noise levels of the steps.

    Returns:
        (T, T), float64, lower triangular.

    Raises:
        PipelineError: if the scheduler cannot be given other noise levels.
    """
    steps = len(levels) - 1
    twin = fresh_twin(scheduler, steps)
    set_noise_levels(twin, levels)
    units, start = torch.eye(steps, dtype=torch.float64), torch.zeros(1, steps, dtype=torch.float64)
    return np.array(latents_of(twin, twin.timesteps, units, start).numpy(), dtype=np.float64)


def on_grid(policy: Policy, scheduler: Any, levels: Sequence[float]) -> Transfer:
    """Transfer a policy to other noise levels, at the same step ratio.

    Args:
        policy: the policy; `refusal` has returned None for it and these levels.
        scheduler: the call's.
        levels: the T' + 1 noise levels of the call.
    """
    origin = policy.origin
    assert policy.gram is not None
    assert origin is not None  # checked by `refusal`
    there, here = origin.noise_levels, tuple(levels)
    steps = len(here) - 1
    computed = max(2, steps * len(policy.computed_steps) // policy.num_inference_steps)
    cached = place_schedule(policy.cached_steps, there, here, computed)
    order = max((len(p.history) for p in policy.predictions.values()), default=1) - 1
    calibrated = Outputs.of(policy.gram.numpy(), there)
    outputs, response_there, response_here = calibrated.at(here), response(scheduler, there), response(scheduler, here)
    fitted = policy.predictions
    weights = with_loop_corrections(
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
    response_plain = response(scheduler, plain)
    return Transfer(
        replace(
            policy,
            num_inference_steps=steps,
            cached_steps=cached,
            predictions=weights if cached else {},
            origin=replace(origin, noise_levels=here),
            calibration=policy.calibration.unmeasured(),
            envelope=None,  # drifts and Gram matrix belong to the calibrated grid
            gram=None,
        ),
        missed=float(predicted_errors(outputs, cached, weights, response_here, feedback)[-1]),
        missed_by_plain=predicted_error_of_plain_steps(outputs, plain, response_plain, response_here, feedback),
        missed_there=float(predicted_errors(calibrated, policy.cached_steps, fitted, response_there, feedback)[-1]),
    )
