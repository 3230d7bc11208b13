"""Instant policies: made in the call, from its own noise levels and the prior, without any recording of the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ertacache.method.error_growth import Feedback
from ertacache.method.gram_weights import solve_weights
from ertacache.method.named_methods import INSTANT
from ertacache.method.prediction import Prediction
from ertacache.method.prior import prior_outputs
from ertacache.method.schedule import denser_at_ends
from ertacache.policy import CalibrationRecord, Policy
from ertacache.runtime.call_setting import CallSetting
from ertacache.runtime.denoisers import loop_modules
from ertacache.runtime.guidance_transfer import scale_of
from ertacache.runtime.pipeline_settings import refuse_other_caches
from ertacache.runtime.policy_for_call import Resolved, Undecided
from ertacache.runtime.sampler_response import direction_of, response_of
from ertacache.runtime.schedulers import angles_of
from ertacache.runtime.step_budget import StepBudget
from ertacache.runtime.unwrap import own_class

FINISH = 1.5
"""How much denser computed steps are towards the end; see `ertacache.method.schedule.denser_at_ends`."""
ANSWER = 0.2
"""How strongly outputs are taken to answer errors of the latent, see `ertacache.method.error_growth.Feedback`."""
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
        self._made: dict[Any, Policy] = {}

    def check(self, pipe: Any) -> None:
        """See `ertacache.runtime.policy_source.PolicySource`."""
        refuse_other_caches(pipe, loop_modules(pipe))

    def resolve(self, pipe: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Resolved:
        """See `ertacache.runtime.policy_source.PolicySource`."""
        self.check(pipe)
        setting = CallSetting.of(pipe, args, kwargs)

        def decide(scheduler: Any, levels: tuple[float, ...], first: int) -> Resolved:
            return Resolved(self.policy(scheduler, levels, first, setting.guidance), True, (NOTE,), setting)

        return Undecided(NOTHING_CACHED, setting=setting, decide=decide)

    def policy(self, scheduler: Any, levels: Sequence[float], first: int, guidance: Mapping[str, float]) -> Policy:
        """The policy of a call; made once for a setting.

        Args:
            scheduler: that of the call, before its first step; left unchanged.
            levels: the T + 1 noise levels of its grid.
            first: the step that the call begins with.
            guidance: the guidance arguments of the call.
        """
        strength = strength_of(guidance)
        key = own_class(scheduler), repr(sorted(scheduler.config.items())), tuple(levels), first, strength
        if key not in self._made:
            self._made[key] = self._solved(scheduler, levels, first, strength)
            while len(self._made) > _KEPT:
                del self._made[next(iter(self._made))]
        return self._made[key]

    def _solved(self, scheduler: Any, levels: Sequence[float], first: int, strength: float) -> Policy:
        steps = len(levels) - 1 - first
        computed = self.budget.computed(steps)
        record = CalibrationRecord(f"{self.budget} (instant)", notes=(NOTE,))
        if computed == steps:
            return replace(NOTHING_CACHED, num_inference_steps=steps, calibration=record).shifted(first)
        outputs = prior_outputs(angles_of(scheduler, levels[first:]), strength, self.without)
        cached = denser_at_ends(steps, computed, (), finish=FINISH)
        response = response_of(scheduler, first, levels[first:])
        answers = Feedback(ANSWER, 0.0).answers(outputs.levels) * direction_of(response)
        solved, _ = solve_weights(outputs.rows, None, cached, INSTANT.order, response, answers=answers)
        predictions = {i: Prediction.by_weights(history, w.tolist()) for i, (history, w) in solved.items()}
        return Policy(steps, cached, INSTANT, predictions, calibration=record).shifted(first)


def strength_of(guidance: Mapping[str, float]) -> float:
    """The guidance scale of a call, also where it is an input of a distilled model; 1 for none."""
    scale = scale_of(guidance)
    return max(1.0, guidance[scale]) if scale else 1.0


_KEPT = 8
NOTHING_CACHED = Policy(1, (), INSTANT)
"""What a call follows until its noise levels and its first step are known."""
