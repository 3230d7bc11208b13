"""Instant policies: made in the call, from its own noise levels and the prior, without any recording of the model."""

from __future__ import annotations

import logging
import time
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ertacache.method.gram_weights import Outputs
from ertacache.method.named_methods import INSTANT
from ertacache.method.prediction import Prediction
from ertacache.method.prior import prior_outputs
from ertacache.method.schedule import fewest_computed
from ertacache.method.surrogate import Surrogate
from ertacache.method.worthwhile import FEW_STEPS, few_steps_note
from ertacache.policy import CalibrationRecord, Policy
from ertacache.policy.predictions import shifted
from ertacache.runtime.call_setting import CallSetting
from ertacache.runtime.denoisers import changes_of_expert, loop_modules
from ertacache.runtime.guidance_transfer import strength_of
from ertacache.runtime.memo import Memo
from ertacache.runtime.pipeline_settings import refuse_other_caches
from ertacache.runtime.policy_for_call import Resolved, Undecided
from ertacache.runtime.sampler_response import response_of
from ertacache.runtime.schedulers import angles_of, check_weights_fit
from ertacache.runtime.step_budget import StepBudget
from ertacache.runtime.unwrap import own_class, patched_on

_log = logging.getLogger(__name__)
NOTE = (
    "not calibrated: schedule and weights are what other models have in common. Pass learn=FOLDER to learn this one "
    "from ordinary generations, or calibrate it with ertacache.calibrate()"
)


class Instant:
    """Gives each call an instant policy.

    Args:
        budget: how many steps are computed.
        without: the trained pipeline that is left out of the prior, by name, to judge it.
    """

    def __init__(self, budget: StepBudget, without: str | None = None) -> None:
        self.budget, self.without = budget, without

    def check(self, pipe: Any) -> None:
        """See `ertacache.runtime.policy_source.PolicySource`."""
        refuse_other_caches(pipe, loop_modules(pipe))

    def resolve(self, pipe: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Resolved:
        """See `ertacache.runtime.policy_source.PolicySource`."""
        self.check(pipe)
        setting = CallSetting.of(pipe, args, kwargs)

        def decide(scheduler: Any, levels: tuple[float, ...], first: int) -> Resolved:
            check_weights_fit(scheduler)
            changes = changes_of_expert(pipe, scheduler)
            policy = self.policy(scheduler, levels, first, setting.guidance, changes)

            def solve_stream(number: int, other: Any, levels: Sequence[float], first: int) -> dict[int, Prediction]:
                outputs = prior_outputs(angles_of(other, levels[first:]), strength_of(setting.guidance), self.without)
                return solved_stream(policy, outputs, other, levels, first)

            return Resolved(policy, True, policy.calibration.notes, setting, solve_stream=solve_stream)

        return Undecided(NOTHING_CACHED, setting=setting, decide=decide)

    def policy(
        self,
        scheduler: Any,
        levels: Sequence[float],
        first: int,
        guidance: Mapping[str, float],
        changes: Sequence[int] = (),
    ) -> Policy:
        """The policy of a call; made once for a setting, whatever the pipeline: it does not depend on the model.

        Args:
            scheduler: that of the call, before its first step; left unchanged.
            levels: the T + 1 noise levels of its grid.
            first: the step that the call begins with.
            guidance: the guidance arguments of the call.
            changes: the steps of the grid at which another expert takes over.
        """
        strength = strength_of(guidance)
        key = sampling_key(scheduler, levels, first, changes), strength, self.budget, self.without
        return _MADE.get(key, lambda: self._solved(scheduler, levels, first, strength, changes))

    def _solved(
        self, scheduler: Any, levels: Sequence[float], first: int, strength: float, changes: Sequence[int]
    ) -> Policy:
        begun = time.perf_counter()
        computed = self.budget.computed(len(levels) - 1 - first)
        blank = replace(NOTHING_CACHED, calibration=CalibrationRecord(f"{self.budget} (instant)", notes=(NOTE,)))
        outputs = prior_outputs(angles_of(scheduler, levels[first:]), strength, self.without)
        policy = solved_policy(blank, [outputs], scheduler, levels, first, computed, changes)
        _log.info(
            "instant policy for %s, %d steps: made in %.1f s, and kept for later calls",
            own_class(scheduler).__name__,
            len(levels) - 1 - first,
            time.perf_counter() - begun,
        )
        return policy


def sampling_key(scheduler: Any, levels: Sequence[float], first: int, changes: Sequence[int] = ()) -> Hashable:
    """What `solved_policy` depends on beside the outputs and the number of computed steps; arguments as there."""
    sampler = own_class(scheduler), patched_on(scheduler, "step"), repr(sorted(scheduler.config.items()))
    return *sampler, tuple(levels), first, tuple(changes)


def solved_stream(
    policy: Policy, outputs: Outputs, scheduler: Any, levels: Sequence[float], first: int
) -> dict[int, Prediction]:
    """Solve the predictions of a further latent that the loop steps, on the schedule that was chosen.

    Args:
        policy: the policy of the call.
        outputs: on the noise levels of the steps that the call makes.
        scheduler: what steps the latent, before its first step; left unchanged.
        levels: the T + 1 noise levels of its grid.
        first: the step that the call begins with.
    """
    if not policy.cached_steps:
        return {}
    surrogate = Surrogate.answering(outputs, response_of(scheduler, first, levels[first:]))
    return shifted(surrogate.solved([i - first for i in policy.cached_steps], policy.method.order), first)


def solved_policy(
    blank: Policy,
    outputs: Sequence[Outputs],
    scheduler: Any,
    levels: Sequence[float],
    first: int,
    computed: int,
    changes: Sequence[int] = (),
) -> Policy:
    """The policy by outputs that are expected of a call: the schedule and weights that end nearest in simulated loops.

    Args:
        blank: its method and its record are the policy's.
        outputs: on the noise levels of the steps that the call makes, of each latent that the loop steps; the schedule
            is chosen for all of them, the weights are the first one's.
        scheduler: that of the call, before its first step; left unchanged.
        levels: the T + 1 noise levels of its grid.
        first: the step that the call begins with.
        computed: how many of the steps that the call makes are computed.
        changes: the steps of the grid at which another expert takes over, whose outputs are not extrapolated from the
            other's.
    """
    steps = len(levels) - 1 - first
    if computed == steps:
        return replace(blank, num_inference_steps=steps).shifted(first)
    response = response_of(scheduler, first, levels[first:])
    forced = [step - first for step in changes if step > first]
    computed = max(computed, fewest_computed(steps, forced))
    surrogate = Surrogate.joint([Surrogate.answering(one, response, forced, forced) for one in outputs])
    cached = surrogate.best_bend(computed)
    predictions, record = surrogate.solved(cached, blank.method.order), blank.calibration
    if cached and steps <= FEW_STEPS:
        record = replace(record, notes=(*record.notes, few_steps_note(steps)))
    made = replace(blank, num_inference_steps=steps, cached_steps=cached, predictions=predictions, calibration=record)
    return made.shifted(first)


_MADE: Memo[Policy] = Memo(32)
"""Kept for the process: every block of `ertacache.accelerated`, and every node of an engine, has an `Instant` anew."""
NOTHING_CACHED = Policy(1, (), INSTANT)
"""What a call follows until its noise levels and its first step are known."""
