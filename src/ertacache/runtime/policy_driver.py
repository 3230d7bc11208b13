"""The driver that follows a policy: which steps it skips, and the model output it gives to the scheduler.

It implements Algorithm 1, lines 13-28, and the predictions of the other methods.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ertacache.method.history import History
from ertacache.method.named_methods import Predictor
from ertacache.method.prediction import Prediction, predicted, reuse, taylor
from ertacache.method.rectification import rectified
from ertacache.method.residual import to_cache
from ertacache.runtime.driver import Driver, Step
from ertacache.runtime.guidance_contrast import contrast
from ertacache.runtime.observer import ComputedStep, Observer
from ertacache.runtime.policy_for_call import Resolved
from ertacache.runtime.report import Report
from ertacache.runtime.schedulers import retime, sampler_of


class CachedStream:
    """What is cached of one of the latents that the loop steps.

    Args:
        levels: the noise levels of its grid.
        fitted: its predictions by step.
        predictor: the method's.

    Attributes:
        history: the cache.
        contrasted: whether predictions use the contrasts of the guidance branches.
    """

    def __init__(self, levels: Sequence[float], fitted: Mapping[int, Prediction], predictor: Predictor) -> None:
        self.levels, self.predictions = levels, fitted
        most = max((len(p.history) for p in fitted.values()), default=1)
        self.history = History(1 if predictor == "reuse" else max(most, 2))  # Taylor may need 2
        self.contrasted = any(p.contrast_factors for p in fitted.values())

    def fitted(self, step: int) -> Prediction | None:
        """Get the policy's prediction for a step, or None if it was fitted on another history than this run has."""
        fitted = self.predictions.get(step)
        if fitted is None:
            return None
        same = list(fitted.history) == self.history.steps[: len(fitted.history)]
        return fitted if same and len(fitted.contrast_factors) <= len(self.history.contrasts) else None


class PolicyDriver(Driver):
    """Follows a policy through one run; each check of the policy is made as early as possible.

    Args:
        resolved: the policy as the call follows it.
        report: gets a note wherever the run departs from the policy.
        observers: notified of the run's steps.

    Attributes:
        policy: the policy that is followed, after a transfer to the call's grid if that is needed.
        levels: the noise levels of the grid, once it is set.
        streams: what is cached of each latent that the loop steps.
        skipped: the steps that were cached so far.
    """

    def __init__(self, resolved: Resolved, report: Report | None = None, observers: Sequence[Observer] = ()) -> None:
        self.given, self.report, self.observers = resolved, report or Report(), observers
        self.residuals_kept = resolved.policy.method.residuals_kept
        self.levels: list[float] = []
        self.pattern: tuple[Any, ...] = ()
        self.since = 0  # the step since which the denoiser's calls are those of the pattern
        self.skipped: list[int] = []
        self.error_model: tuple[Tensor, Tensor] | None = None
        self._follow(resolved)

    def _follow(self, resolved: Resolved) -> None:
        """Follow this policy from the first step on."""
        for note in resolved.notes:
            self.report.note(note)
        self.resolved, policy = resolved, resolved.policy
        self.policy = policy
        self.cached = frozenset(policy.cached_steps)
        self.position = {step: k for k, step in enumerate(policy.cached_steps)}
        self.newest = {step: max(i for i in range(step) if i not in self.cached) for step in self.cached}
        self.streams: list[CachedStream] = []
        self.watching = (*self.observers, *resolved.observers)
        for observer in self.watching:
            observer.begin(resolved.as_calibrated)

    def open_segment(self, scheduler: Any) -> list[float] | None:
        """Compare the grid with the policy's, transfer the policy if needed, and warp the grid if the policy has one.

        Raises:
            PipelineError: if the grid is to be warped and the scheduler cannot be given other noise levels.
            PolicyMismatchError: if the policy is for another grid, and cannot be transferred to this one.
        """
        self.levels = sampler_of(scheduler).noise_levels(scheduler)
        self._follow(self.given.on_grid(scheduler, self.levels))
        self.skipped = []
        self.pattern = ()
        if self.policy.time_grid is None:
            return None
        self.levels = retime(scheduler, self.policy.time_grid)
        return self.levels

    def is_cached(self, step: int) -> bool:
        """Whether to skip this step: the policy caches it, the history is not empty, and no observer objects."""
        wanted = step in self.cached and bool(self.streams and self.streams[0].history.steps)
        return wanted and not any([observer.asks_to_compute(step) for observer in self.watching])

    def model_output(self, step: Step) -> Tensor:
        """Cache the output of a computed step, or predict that of a cached one."""
        if step.computed and step.stream == 0 and step.pattern != self.pattern:
            self._calls_change(step)
        if step.stream == len(self.streams):
            self.streams.append(self._new_stream(step))
        elif step.stream == 0:
            self.resolved.check_streams(len(self.streams))
        stream = self.streams[step.stream]
        return self._computed(step, stream) if step.computed else self._predicted(step, stream)

    def _calls_change(self, step: Step) -> None:
        """Go on with other denoiser calls: of another expert, or since guidance begins or ends.

        Weights that were fitted through a change of experts use the outputs of both. All others would not: Taylor's
        lose up to 9 dB by it (docs/records/research-log.md).
        """
        alike = self.policy.method.fits_weights and step.form == [key[1:] for key in self.pattern]
        if not alike:
            for stream in self.streams:
                stream.history.clear()
        if not self.pattern:
            self._check_first(step)
        self.pattern, self.since = step.pattern, step.index

    def _new_stream(self, step: Step) -> CachedStream:
        """Begin to cache a stream, at its first step."""
        predictor = self.policy.method.predictor
        if step.stream == 0:
            return CachedStream(self.levels, self.policy.predictions, predictor)
        levels = sampler_of(step.scheduler).noise_levels(step.scheduler)
        predictions = self.resolved.at_stream(step.stream, step.scheduler, levels, step.index, step.sample.shape)
        return CachedStream(levels, predictions, predictor)

    def _computed(self, step: Step, stream: CachedStream) -> Tensor:
        method, output = self.policy.method, step.model_output
        truth = output.detach().float()
        entry = to_cache(step.sample.float(), truth, method.level)
        before = next(zip(stream.history.steps, stream.history.entries, strict=True), None)
        stream.history.push(step.index, entry, contrast(step) if stream.contrasted else None)
        correction = self._correction(step.index, stream)
        corrected = None if correction is None else predicted(correction, stream.history, method, step.sample, output)
        for observer in self.watching:
            observer.computed(ComputedStep(step.index, truth, corrected, entry, before, output.dtype, step.stream))
        return output if corrected is None else corrected.to(output.dtype)

    def _predicted(self, step: Step, stream: CachedStream) -> Tensor:
        if step.stream == 0:
            self.skipped.append(step.index)
        prediction, output = self._prediction(step.index, stream), step.model_output
        instead = predicted(prediction, stream.history, self.policy.method, step.sample, output)
        return self._rectified(step.index, stream, instead).to(output.dtype)

    def conditions_changed(self, step: int, what: str) -> None:
        """Add a note, unless calibration's callbacks changed something before this step as well."""
        if self.policy.origin is None or step not in self.policy.origin.changes:
            self.report.note(
                f"a callback changed {what} before step {step}: that step was computed, and older outputs are not used "
                "any more; in calibration there was no such change"
            )

    def stepped(self, index: int, sample: Tensor, stream: int) -> None:
        """Notify the observers of the next latent."""
        for observer in self.watching:
            observer.stepped(index, sample, stream)

    def block_factors(self, step: int) -> tuple[float, ...]:
        """At level ``hidden``: the factors of the blocks' residuals at a cached step, newest first."""
        return (1.0,) if self.policy.method.predictor == "aligned" else self._prediction(step, self.streams[0]).factors

    def _check_first(self, step: Step) -> None:
        shapes = step.sample.shape, step.model_output.shape
        resolved = self.resolved.at_first_step(step.index, step.denoiser_calls, *shapes)
        if resolved.policy is not self.policy:
            self._follow(resolved)
        for note in resolved.notes:
            self.report.note(note)
        if step.index in self.cached:
            self.report.note(f"step {step.index} was computed: it is the first step of this call")

    def _prediction(self, step: int, stream: CachedStream) -> Prediction:
        """Get the prediction of a cached step: the policy's, or Taylor's if this run has another history."""
        predictor = self.policy.method.predictor
        if predictor == "reuse":
            return reuse(stream.history.steps)
        fitted = stream.fitted(step)
        if fitted is not None:
            return fitted
        if predictor == "aligned":
            self.report.note(
                f"step {step} was extrapolated with generic weights (Taylor's) in place of fitted ones, because the "
                "computed steps before it, or the guidance, differ from calibration; expect lower quality"
            )
        return taylor(stream.levels, step, [i for i in stream.history.steps if i >= self.since])

    def _correction(self, step: int, stream: CachedStream) -> Prediction | None:
        """Get the policy's correction of a computed step; None unless this run has cached the same steps so far."""
        if self.policy.method.predictor != "aligned" or step in self.cached or step not in stream.predictions:
            return None
        alike = self.skipped == [i for i in self.policy.cached_steps if i < step]
        correction = stream.fitted(step) if alike else None
        if correction is None:
            self.report.note(
                "fitted corrections of computed steps were left out, because this run did not cache the same steps as "
                "calibration (another strength, say), or its guidance differs; expect lower quality"
            )
        return correction

    def _rectified(self, step: int, stream: CachedStream, predicted: Tensor) -> Tensor:
        model = self.policy.rectification
        if model is None:
            return predicted
        if stream.history.steps[0] != self.newest[step]:
            self.report.note(
                f"step {step}: the computed step before it differs from calibration, so its error was not rectified"
            )
            return predicted
        if self.error_model is None or self.error_model[0].device != predicted.device:
            k, b = (t.to(predicted.device, torch.float32) for t in (model.k, model.b))
            self.error_model = k, b
        k, b = (stacked[self.position[step]] for stacked in self.error_model)
        return rectified(predicted, k, b, model.granularity, model.axis)
