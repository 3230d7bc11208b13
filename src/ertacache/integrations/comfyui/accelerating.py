"""Put an acceleration on a ComfyUI model: each sampling with it follows a policy, and leaves a report."""

from __future__ import annotations

from typing import Any

from ertacache.acceleration import Acceleration, switch_on
from ertacache.integrations.comfyui.line import ComfyLine, attach, guidance_of, refuse_other_caches
from ertacache.learning import Learner
from ertacache.policy import Policy
from ertacache.runtime.instant import Instant
from ertacache.runtime.policy_source import PolicySource
from ertacache.runtime.report import Report
from ertacache.runtime.step_budget import StepBudget
from ertacache.watching.watched import WatchedAcceleration


class ModelAcceleration:
    """What is on a model: the acceleration, and the reports of its latest samplings.

    Args:
        source: gives each sampling its policy.
    """

    def __init__(self, source: Policy | PolicySource) -> None:
        self.acceleration: Acceleration = WatchedAcceleration.reporting(source)
        self.reports: list[Report] = []

    @classmethod
    def instant(cls, speedup: float) -> ModelAcceleration:
        """Without a policy: made for each sampling from its own noise levels."""
        return cls(Instant(StepBudget(speedup)))

    @classmethod
    def learning(cls, speedup: float, folder: str) -> ModelAcceleration:
        """The first sampling of a setting in full, later ones by what it showed."""
        return cls(Learner(StepBudget(speedup), folder))

    def on(self, model: Any) -> Any:
        """A clone of the model with this acceleration.

        Raises:
            PipelineError: if another cache is on the model.
        """
        refuse_other_caches(model)
        clone = attach(model, self._sampled)
        clone.model_options["transformer_options"][_HOLDER] = self
        return clone

    def _sampled(self, executor: Any, guider: Any, *rest: Any, **options: Any) -> Any:
        """The wrapper of SAMPLER_SAMPLE."""
        line = ComfyLine(guider.model_patcher, executor.class_obj, live=True)
        switch_on(line, self.acceleration)
        policy = self.acceleration.policy
        result = line(
            lambda line: line.through(executor, guider, *rest, policy=policy, **options), **guidance_of(guider)
        )
        self.reports = [*self.reports[-_KEPT:], self.acceleration.report]
        return result


_HOLDER = "ertacache_acceleration"
_KEPT = 15


def acceleration_of(model: Any) -> ModelAcceleration | None:
    """The acceleration on a model, or None."""
    found = model.model_options.get("transformer_options", {}).get(_HOLDER)
    return found if isinstance(found, ModelAcceleration) else None
