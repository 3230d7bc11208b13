"""Closed loops over the calibration prompts: what a schedule and its predictions really lead to."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import log
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ertacache.calibration.fitting import MIN_HELD_OUT, StepFit, fit_step
from ertacache.calibration.lockstep import Arrival, Lockstep
from ertacache.calibration.quality import Judge, Quality
from ertacache.calibration.recording import Recording, Setting, check_finite
from ertacache.errors import CalibrationError
from ertacache.method.alignment import MAX_ORDER, NormalEquations, features
from ertacache.method.choice import Method, Predictor
from ertacache.method.history import History
from ertacache.method.prediction import Prediction, predicted, reuse, taylor
from ertacache.method.residual import to_cache
from ertacache.policy.envelope import Envelope
from ertacache.runtime.calls import Call
from ertacache.runtime.guidance_contrast import contrast
from ertacache.runtime.scheduler_probe import output_coefficient, plain_step
from ertacache.runtime.schedulers import sampler_of
from ertacache.watching.envelope import MIN_PROMPTS, envelope_of, relative_drift

Weights = Literal["others", "all"] | Mapping[int, Sequence[Prediction]]
"""What each prompt of a loop goes on with: weights fitted on the other prompts of the loop, or on all of them; or what
is given by step, one for each prompt. With too few prompts to hold one out, "others" are all."""

MANY_PROMPTS = 4
"""With fewer, a third difference would be fitted to little but their luck."""


@dataclass(frozen=True)
class Fit:
    """What one closed loop found.

    Args:
        cached_steps: the schedule it ran.
        predictions: for each cached step, the factors it used, and those that corrected computed steps.
        step_errors: ``||x - x_gt|| / ||x_gt||`` after each step, over the prompts of the loop.
        step_scores: the logarithm of the same, averaged over prompts: what a mean PSNR follows, and what no single
            prompt of a large error can dominate.
        prompt_scores: the logarithm of the final error of each prompt.
        drifts: by computed step that has one, one row a prompt, one number a sample; see `ertacache.watching.envelope`.
        quality: of the pictures, if the loops have a judge.
        left_out: by step for each prompt the weights that this loop fits on the others.

    The errors, scores, drifts and pictures are those of the `Weights` that the prompts went on with.
    """

    cached_steps: tuple[int, ...]
    predictions: dict[int, Prediction]
    step_errors: tuple[float, ...]
    step_scores: tuple[float, ...]
    prompt_scores: tuple[float, ...]
    drifts: Mapping[int, tuple[tuple[float, ...], ...]] = field(default_factory=dict)
    quality: Quality | None = None
    left_out: Mapping[int, tuple[Prediction, ...]] = field(default_factory=dict, compare=False, repr=False)

    @property
    def error(self) -> float:
        """The error of the final latent."""
        return self.step_errors[-1]

    @property
    def score(self) -> float:
        """The mean logarithm of the final error."""
        return self.step_scores[-1]

    @property
    def envelope(self) -> Envelope | None:
        """For a guard: what it drifted; None of too few prompts."""
        if len(self.prompt_scores) < MIN_PROMPTS or not self.drifts:
            return None
        flat = {step: [value for own in rows for value in own] for step, rows in self.drifts.items()}
        return envelope_of(flat, len(self.step_errors))


class Seen(NamedTuple):
    """What one prompt's computed step returned, and how its guidance branches differed, if there are several."""

    output: Tensor
    contrast: Tensor | None

    def copied_to(self, device: torch.device) -> Seen:
        """A copy, which nothing else writes into."""
        between = self.contrast
        return Seen(self.output.to(device, copy=True), between if between is None else between.to(device, copy=True))


class Trace:
    """What a closed loop computed, so that another loop can start as it did; in main memory, or in temporary files.

    Args:
        cached_steps: the loop's schedule.
        in_files: whether to keep it in files, for as long as this object lives.
    """

    def __init__(self, cached_steps: Collection[int], *, in_files: bool = False) -> None:
        self.cached_steps = frozenset(cached_steps)
        self._folder = TemporaryDirectory(prefix="ertacache-") if in_files else None
        self._seen: dict[int, list[Seen]] = {}
        self._steps: list[int] = []

    def keep(self, step: int, seen: Sequence[Seen]) -> None:
        """Keep a computed step, one row a prompt."""
        self._steps.append(step)
        copies = [row.copied_to(torch.device("cpu")) for row in seen]
        if self._folder is None:
            self._seen[step] = copies
            return
        tensors = {f"output {k}": row.output.contiguous() for k, row in enumerate(copies)}
        tensors |= {f"contrast {k}": r.contrast.contiguous() for k, r in enumerate(copies) if r.contrast is not None}
        save_file(tensors, self._path(step))

    def row(self, step: int, prompt: int) -> Seen:
        """What was kept."""
        if self._folder is None:
            return self._seen[step][prompt]
        with safe_open(self._path(step), "pt") as file:
            names = set(file.keys())
            between = f"contrast {prompt}"
            return Seen(file.get_tensor(f"output {prompt}"), file.get_tensor(between) if between in names else None)

    def shared_with(self, cached: Collection[int]) -> frozenset[int]:
        """The computed steps before the first step at which the two schedules differ."""
        differing = self.cached_steps ^ frozenset(cached)
        return frozenset(i for i in self._steps if i < min(differing, default=len(self._steps) + len(cached)))

    def _path(self, step: int) -> Path:
        assert self._folder is not None  # seen to by the callers
        return Path(self._folder.name) / f"{step}.safetensors"


class ClosedLoops:
    """Runs closed loops and counts what they cost.

    Args:
        pipe: the pipeline, left untouched.
        calls: one for each prompt.
        recordings: the full run of each.
        setting: what the full runs showed of the setting.
        on_denoiser_call: for progress bars.
        traces_in_files: whether traces are kept in files.

    Attributes:
        denoiser_calls: of all loops so far; the full runs are for the caller to add.
        judge: looks at the pictures of every loop that runs to its end, if there is one; see `judge_pictures`.
    """

    def __init__(
        self,
        pipe: Any,
        calls: Sequence[Call],
        recordings: Sequence[Recording],
        setting: Setting,
        on_denoiser_call: Callable[[int], None],
        *,
        traces_in_files: bool = False,
    ) -> None:
        self.pipe, self.calls, self.recordings, self.setting = pipe, calls, recordings, setting
        self.on_denoiser_call, self.traces_in_files = on_denoiser_call, traces_in_files
        self.denoiser_calls = 0
        self.judge: Judge | None = None

    @property
    def full_run(self) -> int:
        """The denoiser calls of one full run of every prompt."""
        return self.setting.num_steps * self.setting.calls_per_step * len(self.calls)

    @property
    def holds_out(self) -> bool:
        """Whether there are prompts enough that each can go on with weights fitted on the others."""
        return len(self.calls) >= MIN_HELD_OUT

    def judge_pictures(self) -> None:
        """From now on, decode what a loop ends with and compare it with the full runs' pictures.

        Those are decoded from the recordings: a run computes its first step, and goes on with what was recorded.
        """
        calls = [call.decoded() for call in self.calls]
        with Lockstep(
            self.pipe,
            calls,
            lambda step: step not in (0, *self.setting.forced),
            on_denoiser_call=self.on_denoiser_call,
            first_step=self.setting.first_step,
        ) as lockstep:
            try:
                for arrivals in lockstep:
                    for arrival in arrivals:
                        output = self.recordings[arrival.prompt].model_output(arrival.index)
                        arrival.reply = output.to(arrival.reply.device)
                self.judge = Judge(lockstep.results)
            finally:
                self.denoiser_calls += lockstep.denoiser_calls

    def replayed(self, cached: Collection[int], method: Method, earlier: Trace | None) -> frozenset[int]:
        """The steps that a loop need not compute, since an earlier one did.

        Step 0 is computed, since a run must see it, and so are steps whose denoiser calls are others than the step
        before's: only what the last computed step called can be left out. At level ``hidden`` a step that does not run
        leaves no residual behind, so nothing is replayed there.
        """
        if earlier is None or method.residuals_kept:
            return frozenset()
        return earlier.shared_with(cached) - {0, *self.setting.forced}

    def predict(
        self,
        cached: Collection[int],
        method: Method,
        *,
        predictor: Predictor | None = None,
        weights: Weights = "others",
    ) -> Fit:
        """Skip the cached steps on all prompts and predict them, solving ``aligned`` weights on the way.

        Args:
            cached: the schedule.
            method: its level, predictor and order are used.
            predictor: in place of the method's.
            weights: what each prompt goes on with.
        """
        fit = self.attempt(cached, method, predictor=predictor, weights=weights)
        assert fit is not None  # nothing gives this loop up
        return fit

    def judged(
        self, cached: Collection[int], method: Method, worth_it: Callable[[Fit], bool] = lambda fit: True
    ) -> Fit:
        """What a policy of this schedule has for weights, and does on prompts that it was not fitted on.

        The weights of all are fitted in a loop that goes on with them. In a second one each prompt goes on with the
        weights that the first one fitted on the others, as prompts do that come later. Fitted on the way of such a
        loop, others' errors would be in each prompt's weights, and add up from step to step.

        Args:
            cached: the schedule.
            method: its level, predictor and order are used.
            worth_it: whether what the first loop found, which flatters, is reason to run the second one.
        """
        fit = self.predict(cached, method, weights="all")
        if method.predictor != "aligned" or not self.holds_out or not worth_it(fit):
            return fit
        return replace(self.predict(cached, method, weights=fit.left_out), predictions=fit.predictions)

    def attempt(
        self,
        cached: Collection[int],
        method: Method,
        *,
        predictor: Predictor | None = None,
        earlier: Trace | None = None,
        trace: Trace | None = None,
        give_up: Callable[[int, float], bool] = lambda step, score: False,
        weights: Weights = "others",
    ) -> Fit | None:
        """The same, starting as an earlier loop did, and ending early if it is given up.

        Args:
            cached: the schedule.
            method: its level, predictor and order are used.
            predictor: whose weights to use in place of the method's.
            earlier: a loop of the same method; what it computed before the schedules differ is not computed again.
            trace: is filled with what this loop computes.
            give_up: asked after every step with the score of the latent; the loop ends there if it says so.
            weights: what each prompt goes on with.

        Returns:
            What the loop found, or None if it was given up.
        """
        predictor = predictor or method.predictor
        given: Mapping[int, Sequence[Prediction]] = {} if isinstance(weights, str) else weights
        levels, skipped = self.setting.noise_levels, frozenset(cached)
        replayed = self.replayed(cached, method, earlier)
        size = 1 if predictor == "reuse" else 2 if predictor == "taylor" else MAX_ORDER + 1
        histories = [History(size) for _ in self.calls]
        predictions: dict[int, Prediction] = {}
        left_out: dict[int, tuple[Prediction, ...]] = {}
        errors = Errors(self.recordings)
        drifted: dict[int, list[Tensor]] = {}
        pattern: tuple[Any, ...] = ()

        def fit_at(arrivals: Sequence[Arrival]) -> StepFit:
            if predictor == "aligned":
                return self._solve(arrivals, histories, method)
            newest = histories[0].steps
            found = taylor(levels, arrivals[0].index, newest) if predictor == "taylor" else reuse(newest)
            return StepFit(found, [found] * len(arrivals))

        def seen_by(arrival: Arrival) -> Seen:
            if earlier and arrival.index in replayed:
                return earlier.row(arrival.index, arrival.prompt).copied_to(arrival.reply.device)
            return Seen(arrival.reply, contrast(arrival.step))

        laid: list[list[float]] = []
        with Lockstep(
            self.pipe,
            [call.decoded() for call in self.calls] if self.judge else self.calls,
            (skipped | replayed).__contains__,
            lambda scheduler: laid.append(sampler_of(scheduler).noise_levels(scheduler)),
            on_denoiser_call=self.on_denoiser_call,
            first_step=self.setting.first_step,
            residuals_kept=method.residuals_kept,
            block_factors=lambda step: (
                taylor(levels, step, histories[0].steps).factors if method.predictor == "taylor" else (1.0,)
            ),
        ) as lockstep:
            try:
                for arrivals in lockstep:
                    index = arrivals[0].index
                    if not index:
                        self._check_grid(laid)
                    errors.add(index, lockstep.outputs)
                    if index and give_up(index - 1, errors.scores[-1]):
                        return None
                    if index not in skipped:
                        if arrivals[0].step.pattern != pattern:  # another expert, or guidance that ends
                            pattern = arrivals[0].step.pattern
                            for history in histories:
                                history.clear()
                        seen = [seen_by(arrival) for arrival in arrivals]
                        if predictor != "aligned" and histories[0].entries:
                            drifted[index] = [
                                relative_drift(_entry(arrival, row, method), history.entries[0])
                                for arrival, row, history in zip(arrivals, seen, histories, strict=True)
                            ]
                        self._take_in(arrivals, histories, seen, method)
                        if trace is not None:
                            trace.keep(index, seen)
                    # A computed step is corrected after the first cached one; before it all is exact.
                    if index in skipped or (predictor == "aligned" and predictions):
                        fit = fit_at(arrivals)
                        predictions[index], left_out[index] = fit.prediction, tuple(fit.own)
                        own = [fit.prediction] * len(arrivals) if weights == "all" else given.get(index, fit.own)
                        for arrival, history, prediction in zip(arrivals, histories, own, strict=True):
                            here = arrival.step
                            reply = predicted(prediction, history, method, here.sample, here.model_output)
                            if index not in skipped:
                                drifted.setdefault(index, []).append(relative_drift(arrival.reply.float(), reply))
                            arrival.reply = reply.to(arrival.reply.dtype)
                errors.add(self.setting.num_steps, lockstep.outputs)
            finally:
                self.denoiser_calls += lockstep.denoiser_calls
        return Fit(
            tuple(sorted(skipped)),
            predictions,
            tuple(errors.relative),
            tuple(errors.scores),
            tuple(errors.prompt_scores),
            {step: tuple(tuple(found.tolist()) for found in row) for step, row in drifted.items()},
            self.judge(lockstep.results) if self.judge else None,
            left_out,
        )

    def _check_grid(self, laid: Sequence[Sequence[float]]) -> None:
        """Raise `CalibrationError` unless a grid that was laid is that of the full runs, which a checkpoint has lent.

        Its key knows a scheduler by its configuration, and one of the user's own may have settings beside that.
        """
        wanted = self.setting.grid
        if not any(len(levels) == len(wanted) and np.allclose(levels, wanted, 1e-5, 1e-6) for levels in laid):
            found, kept = ([round(level, 4) for level in levels] for levels in (laid[-1] if laid else (), wanted))
            raise CalibrationError(
                "the full runs in the checkpoint are of other noise levels than the scheduler lays now",
                given=f"{found}, where they have {kept}",
                cure="Give another checkpoint folder, or have the scheduler's config tell all its settings.",
            )

    def _take_in(
        self, arrivals: Sequence[Arrival], histories: Sequence[History], seen: Sequence[Seen], method: Method
    ) -> None:
        """A computed step, on the way and into the histories."""
        for arrival, history, row in zip(arrivals, histories, seen, strict=True):
            check_finite(row.output, arrival.prompt, arrival.index)
            arrival.reply = row.output
            history.push(arrival.index, _entry(arrival, row, method), row.contrast)

    def _solve(self, arrivals: Sequence[Arrival], histories: Sequence[History], method: Method) -> StepFit:
        """The factors that take the prompts nearest to their full run's next latent."""
        order = method.order if len(arrivals) >= MANY_PROMPTS else min(method.order, 2)
        steps = histories[0].steps[: order + 1]
        contrasted = all(history.contrasts for history in histories)
        here = arrivals[0].step
        slope = output_coefficient(here.scheduler, here.arguments)
        equations = []
        for arrival, history in zip(arrivals, histories, strict=True):
            step = arrival.step
            with arrival.random.lent():  # a sampler may be about to draw noise from it
                reused = predicted(reuse(history.steps), history, method, step.sample, step.model_output)
                landed = plain_step(step.scheduler, step.arguments, reused)
            goal = self.recordings[arrival.prompt].sample(arrival.index + 1).to(landed)
            terms = features(history.entries, order)
            terms += features(history.contrasts, order) if contrasted else []
            equations.append(NormalEquations(len(terms)))
            equations[-1].add([slope * term for term in terms], goal - landed)
        return fit_step(equations, steps)


def _entry(arrival: Arrival, seen: Seen, method: Method) -> Tensor:
    """What the cache keeps of a computed step."""
    return to_cache(arrival.step.sample.float(), seen.output.float(), method.level)


class Errors:
    """Distances to the full runs, step by step."""

    def __init__(self, recordings: Sequence[Recording]) -> None:
        self._recordings = recordings
        self.relative: list[float] = []
        self.scores: list[float] = []
        self.prompt_scores: list[float] = []

    def add(self, index: int, samples: Sequence[Tensor | None]) -> None:
        """``samples``: for each prompt the latent that step ``index`` starts from; nothing at step 0."""
        errors, sizes = [], []
        for recording, sample in zip(self._recordings, samples, strict=True):
            if sample is None:
                return
            full = recording.sample(index).double()
            errors.append(float((sample.detach().cpu().double() - full).square().sum()))
            sizes.append(max(float(full.square().sum()), _TINY))
        self.relative.append((sum(errors) / sum(sizes)) ** 0.5)
        self.prompt_scores = [0.5 * log(max(e / n, _TINY)) for e, n in zip(errors, sizes, strict=True)]
        self.scores.append(fmean(self.prompt_scores))


_TINY = 1e-24  # keeps the logarithm finite where a latent is exact
