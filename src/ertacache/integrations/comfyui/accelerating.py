"""Put an acceleration on a ComfyUI model: each sampling with it follows a policy, and leaves a report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ertacache.acceleration import Acceleration, switch_on
from ertacache.integrations.comfyui.line import KEY, ComfyLine, attach, guidance_of, put, refuse_other_caches
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
        guarded: whether the guard compares each sampling with calibration's; for calibrated policies.
    """

    def __init__(self, source: Policy | PolicySource, *, guarded: bool = False) -> None:
        envelope = isinstance(source, Policy) and source.envelope is not None
        self.acceleration: Acceleration = WatchedAcceleration(source, "report" if guarded and envelope else None)
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

    def _sampled(
        self,
        executor: Any,
        guider: Any,
        sigmas: Tensor,
        extra_args: Mapping[str, Any],
        callback: Any,
        noise: Tensor,
        *rest: Any,
        **options: Any,
    ) -> Any:
        """The wrapper of SAMPLER_SAMPLE."""
        line = ComfyLine(guider.model_patcher, executor.class_obj, live=True)

        def begin(line: ComfyLine) -> Any:
            put(line, extra_args)
            try:
                line.opened(sigmas, extra_args.get("seed"), self.acceleration.policy)
                return executor(guider, sigmas, extra_args, callback, noise, *rest, **options)
            finally:
                extra_args["model_options"]["transformer_options"].pop(KEY, None)

        switch_on(line, self.acceleration)
        result = line(begin, **guidance_of(guider))
        self.reports = [*self.reports[-_KEPT:], self.acceleration.report]
        return result


_HOLDER = "ertacache_acceleration"
_KEPT = 15


def acceleration_of(model: Any) -> ModelAcceleration | None:
    """The acceleration on a model, or None."""
    found = model.model_options.get("transformer_options", {}).get(_HOLDER)
    return found if isinstance(found, ModelAcceleration) else None
