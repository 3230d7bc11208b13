"""Put an acceleration on a ComfyUI model: each sampling with it follows a policy, and leaves a report."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from ertacache.acceleration import Acceleration, switch_on
from ertacache.integrations.comfyui.line import ComfyLine, attach, guidance_of, refuse_other_caches
from ertacache.integrations.comfyui.wording import worded_for_nodes
from ertacache.learning import Learner
from ertacache.method.worthwhile import FEW_STEPS, few_steps_note
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
        unused_speedup: what the node's slider says, if a policy with a speedup of its own is followed.
    """

    def __init__(self, source: Policy | PolicySource, unused_speedup: float | None = None) -> None:
        self.acceleration: Acceleration = WatchedAcceleration.reporting(source)
        self.reports: list[Report] = []
        self._unused_speedup = unused_speedup

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

    def _sampled(self, executor: Any, guider: Any, sigmas: Tensor, *rest: Any, **options: Any) -> Any:
        """The wrapper of SAMPLER_SAMPLE."""
        policy, model = self.acceleration.policy, guider.model_patcher
        with worded_for_nodes(model, policy, sigmas.tolist()):
            line = ComfyLine(model, executor.class_obj, live=True)
            switch_on(line, self.acceleration)
            result = line(
                lambda line: line.through(executor, guider, sigmas, *rest, policy=policy, **options),
                **guidance_of(guider),
            )
        report = self.acceleration.report
        for hint in self._hints(policy, report):
            report.note(hint)
        self.reports = [*self.reports[-_KEPT:], report]
        return result

    def _hints(self, policy: Policy | None, report: Report) -> Iterator[str]:
        """What to know of a sampling beside what the library says itself."""
        unused, steps = self._unused_speedup, len(report.computed_steps) + len(report.cached_steps)
        if policy is not None and unused is not None and round(policy.step_ratio, 1) != round(unused, 1):
            own = f"{policy.step_ratio:.2g}"
            yield f"the slider's speedup {unused:g} is not used: the connected policy has its own, {own}"
        if policy is not None and policy.calibration.num_prompts == 1:
            yield "the policy was calibrated on one prompt; with eight it holds better for others"
        if policy is not None and report.cached_steps and steps <= FEW_STEPS:
            yield few_steps_note(steps)


_HOLDER = "ertacache_acceleration"
_KEPT = 15


def acceleration_of(model: Any) -> ModelAcceleration | None:
    """The acceleration on a model, or None."""
    found = model.model_options.get("transformer_options", {}).get(_HOLDER)
    return found if isinstance(found, ModelAcceleration) else None
