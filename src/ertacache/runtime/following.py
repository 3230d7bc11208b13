"""The driver that follows a policy: Algorithm 1, lines 13-28, and the prediction of aligned rectification."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ertacache.errors import PipelineError
from ertacache.method.alignment import MAX_ORDER, coefficients, combine, taylor_weights
from ertacache.method.named import Method
from ertacache.method.rectification import along, rectify
from ertacache.method.residual import from_cache, to_cache
from ertacache.policy import Policy
from ertacache.runtime import identity
from ertacache.runtime.history import History
from ertacache.runtime.run import Driver, Report, Step
from ertacache.runtime.samplers import retime, sampler_of


class PolicyDriver(Driver):
    """Follows ``policy`` through one run; the policy's own checks are made as early as each can be."""

    def __init__(self, policy: Policy, report: Report | None = None) -> None:
        self.policy = policy
        self.report = report or Report()
        self.cached = frozenset(policy.cached_steps)
        self.position = {step: k for k, step in enumerate(policy.cached_steps)}
        self.newest = {step: max(i for i in range(step) if i not in self.cached) for step in self.cached}
        self.history = History(MAX_ORDER + 1 if policy.method.predictor != "reuse" else 1)
        self.residuals_kept = residuals_kept(policy.method)
        self.levels: list[float] = []
        self.pattern: tuple[Any, ...] = ()
        self.error_model: tuple[Tensor, Tensor] | None = None

    def open_segment(self, scheduler: Any) -> list[float] | None:
        """Check the grid against the policy's, and warp it if the policy says so."""
        sampler = sampler_of(scheduler)
        identity.check_noise_levels(self.policy, sampler.noise_levels(scheduler))
        self.levels = sampler.noise_levels(scheduler)
        self.history.clear()
        self.pattern = ()
        if self.policy.time_grid is None:
            return None
        self.levels = retime(scheduler, self.policy.time_grid)
        return self.levels

    def is_cached(self, step: int) -> bool:
        """Whether the policy skips this step, and there is something to predict it from."""
        return step in self.cached and bool(self.history.steps)

    def model_output(self, step: Step) -> Tensor:
        """A computed step's own output, or the prediction in its place, in the dtype of the output."""
        method = self.policy.method
        if step.pattern != self.pattern:  # another expert, or guidance that ends: what came before is no history
            self.history.clear()
            if not self.pattern:
                self._check_first(step)
            self.pattern = step.pattern
        output = step.model_output
        if step.computed:
            self.history.push(step.index, to_cache(step.sample.float(), output.detach().float(), method.level))
            return output
        instead = predicted(step, self.history, self.factors(step.index), method)
        return self._rectified(step.index, instead).to(output.dtype)

    def block_factors(self, step: int) -> tuple[float, ...]:
        """How the residual of the blocks is predicted at a cached step of level ``hidden``."""
        return (1.0,) if self.policy.method.predictor == "aligned" else self.factors(step)

    def _check_first(self, step: Step) -> None:
        if self.policy.method.level == "output" and step.sample.shape != step.model_output.shape:
            raise PipelineError(
                "level 'output' caches v - x, and here the two differ in shape",
                given=f"x {tuple(step.sample.shape)}, v {tuple(step.model_output.shape)}",
                cure="Calibrate with a method of level 'velocity', such as 'aligned' or 'taylor'.",
            )
        identity.check_calls_per_step(self.policy, step.denoiser_calls)
        identity.check_latent_shape(self.policy, step.sample.shape[1:])

    def factors(self, step: int) -> tuple[float, ...]:
        """The policy's factors, or Taylor's where they were fitted on another history than this run has."""
        method, history = self.policy.method, self.history.steps
        if method.predictor == "reuse":
            return (1.0,)
        prediction = self.policy.predictions.get(step)
        if prediction is not None and list(prediction.history) == history[: len(prediction.history)]:
            return prediction.factors
        if method.predictor == "aligned":
            self.report.note(f"step {step}: its history is not the calibrated one, so Taylor weights were used")
        return coefficients(taylor_weights(self.levels, step, history))

    def _rectified(self, step: int, predicted: Tensor) -> Tensor:
        model = self.policy.rectification
        if model is None:
            return predicted
        if self.history.steps[0] != self.newest[step]:
            self.report.note(f"step {step}: its history is not the calibrated one, so its error was not rectified")
            return predicted
        if self.error_model is None or self.error_model[0].device != predicted.device:
            k, b = (t.to(predicted.device, torch.float32) for t in (model.k, model.b))
            self.error_model = k, b
        k, b = (along(t[self.position[step]], predicted.ndim, model.granularity, model.axis) for t in self.error_model)
        return rectify(predicted, k, b)


def predicted(step: Step, history: History, factors: Sequence[float], method: Method) -> Tensor:
    """The model output of a cached step, float32.

    At level ``hidden`` the blocks were predicted on the way to the boundary, with the same factors; but ``aligned``
    reuses their residual, and adds the differences of the outputs that the factors stand for.
    """
    if method.level != "hidden":
        return from_cache(step.sample.float(), combine(history.entries, factors), method.level)
    if method.predictor != "aligned" or len(factors) == 1:
        return step.model_output.float()
    return step.model_output.float() + combine(history.entries, factors) - history.entries[0]


def residuals_kept(method: Method) -> int:
    """See `ertacache.runtime.run.Driver`."""
    return 0 if method.level != "hidden" else 2 if method.predictor == "taylor" else 1
