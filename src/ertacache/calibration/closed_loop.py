"""Closed loops over the calibration prompts: what a schedule and its predictions really lead to."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from math import log
from statistics import fmean
from typing import Any

from torch import Tensor

from ertacache.calibration.lockstep import Arrival, Lockstep
from ertacache.calibration.prompts import Call
from ertacache.calibration.recording import Recording, Setting, check_finite
from ertacache.method.alignment import MAX_ORDER, NormalEquations, expanded, features
from ertacache.method.named import Method, Predictor
from ertacache.method.residual import to_cache
from ertacache.policy import Prediction
from ertacache.runtime.branches import contrast
from ertacache.runtime.following import predicted, residuals_kept, reuse, taylor
from ertacache.runtime.history import History
from ertacache.runtime.stepping import output_coefficient, plain_step


@dataclass(frozen=True)
class Fit:
    """What one closed loop found.

    Args:
        cached_steps: the schedule it ran.
        predictions: for each cached step, the factors it used, and those that corrected computed steps.
        step_errors: ``||x - x_gt|| / ||x_gt||`` after each step, over the prompts of the loop.
        step_scores: the logarithm of the same, averaged over prompts: what a mean PSNR follows, and what no single
            prompt of a large error can dominate.
        gains: at each computed step after the first cached one, how much of an
            error of the latent turns up in the output.
    """

    cached_steps: tuple[int, ...]
    predictions: dict[int, Prediction]
    step_errors: tuple[float, ...]
    step_scores: tuple[float, ...]
    gains: dict[int, float]

    @property
    def error(self) -> float:
        """The error of the final latent."""
        return self.step_errors[-1]

    @property
    def score(self) -> float:
        """The mean logarithm of the final error."""
        return self.step_scores[-1]


@dataclass
class Trace:
    """What a closed loop computed, so that another loop can start as it did.

    Args:
        cached_steps: the loop's schedule.
        outputs: for each computed step, one output a prompt, and how its guidance branches differed.
    """

    cached_steps: frozenset[int]
    outputs: dict[int, list[tuple[Tensor, Tensor | None]]] = field(default_factory=dict)

    def shared_with(self, cached: Collection[int]) -> frozenset[int]:
        """The computed steps before the first step at which the two schedules differ."""
        differing = self.cached_steps ^ frozenset(cached)
        return frozenset(i for i in self.outputs if i < min(differing, default=len(self.outputs) + len(cached)))


class ClosedLoops:
    """Runs closed loops and counts what they cost.

    Args:
        pipe: the pipeline, left untouched.
        calls: one for each prompt.
        recordings: the full run of each.
        setting: what the full runs showed of the setting.
        on_denoiser_call: for progress bars.
    """

    def __init__(
        self,
        pipe: Any,
        calls: Sequence[Call],
        recordings: Sequence[Recording],
        setting: Setting,
        on_denoiser_call: Callable[[int], None],
    ) -> None:
        self.pipe, self.calls, self.recordings, self.setting = pipe, calls, recordings, setting
        self.on_denoiser_call = on_denoiser_call
        self.denoiser_calls = 0

    def predict(self, cached: Collection[int], method: Method, *, predictor: Predictor | None = None) -> Fit:
        """Skip the cached steps on all prompts and predict them, solving ``aligned`` weights on the way.

        Args:
            cached: the schedule.
            method: its level, predictor and order are used.
            predictor: in place of the method's.
        """
        fit = self.attempt(cached, method, range(len(self.calls)), predictor=predictor)
        assert fit is not None  # nothing gives this loop up
        return fit

    def attempt(
        self,
        cached: Collection[int],
        method: Method,
        prompts: Sequence[int],
        *,
        predictor: Predictor | None = None,
        earlier: Trace | None = None,
        trace: Trace | None = None,
        give_up: Callable[[int, float], bool] = lambda step, score: False,
    ) -> Fit | None:
        """The same on some of the prompts, starting as an earlier loop did, and ending early if it is given up.

        Args:
            cached: the schedule.
            method: its level, predictor and order are used.
            prompts: which prompts to run.
            predictor: whose weights to use in place of the method's.
            earlier: a loop of the same prompts; what it computed before the schedules differ is not computed again
                (but for step 0, which the run must see).
            trace: is filled with what this loop computes.
            give_up: asked after every step with the score of the latent; the loop ends there if it says so.

        Returns:
            What the loop found, or None if it was given up.
        """
        predictor = predictor or method.predictor
        kept = residuals_kept(method)
        # At level hidden a step that does not run leaves no residual behind, so nothing is replayed there.
        replayed = earlier.shared_with(cached) - {0} if earlier and not kept else frozenset()
        chosen = list(prompts)
        size = 1 if predictor == "reuse" else 2 if predictor == "taylor" else MAX_ORDER + 1
        contrasted = predictor == "aligned"
        histories = [History(size) for _ in chosen]
        predictions: dict[int, Prediction] = {}
        gains: dict[int, float] = {}
        errors = Errors(self.recordings, chosen)
        skipped = frozenset(cached)
        silent = skipped | replayed
        given_up = False
        pattern: tuple[Any, ...] = ()

        def block_factors(step: int) -> tuple[float, ...]:
            first = histories[0]
            return (taylor(self.setting.noise_levels, step, first) if predictor == "taylor" else reuse(first)).factors

        with Lockstep(
            self.pipe,
            [self.calls[k] for k in chosen],
            silent.__contains__,
            on_denoiser_call=self.on_denoiser_call,
            first_step=self.setting.first_step,
            residuals_kept=kept,
            block_factors=block_factors if method.predictor == "taylor" else lambda step: (1.0,),
        ) as lockstep:
            for arrivals in lockstep:
                index = arrivals[0].index
                errors.add(index, lockstep.outputs)
                if index and give_up(index - 1, errors.scores[-1]):
                    given_up = True
                    break
                if index not in skipped:
                    if arrivals[0].step.pattern != pattern:  # another expert, or guidance that ends
                        pattern = arrivals[0].step.pattern
                        for history in histories:
                            history.clear()
                    if earlier and index in replayed:
                        seen = earlier.outputs[index]
                    else:
                        seen = [
                            (arrival.reply.detach().clone(), contrast(arrival.step) if contrasted else None)
                            for arrival in arrivals
                        ]
                    if trace is not None:
                        trace.outputs[index] = seen
                    for arrival, history, (output, between) in zip(arrivals, histories, seen, strict=True):
                        check_finite(output, chosen[arrival.prompt], index)
                        arrival.reply = output
                        entry = to_cache(arrival.step.sample.float(), output.float(), method.level)
                        history.push(index, entry, between)
                    gain = self._gain(arrivals, chosen) if self.setting.same_shape else None
                    if gain is not None:
                        gains[index] = gain
                    if predictor != "aligned" or not predictions:  # before the first cached step all is exact
                        continue
                if predictor == "aligned":
                    prediction = self._solve(arrivals, histories, chosen, method)
                elif predictor == "taylor":
                    prediction = taylor(self.setting.noise_levels, index, histories[0])
                else:
                    prediction = reuse(histories[0])
                predictions[index] = prediction
                for arrival, history in zip(arrivals, histories, strict=True):
                    arrival.reply = predicted(arrival.step, history, prediction, method).to(arrival.reply.dtype)
            errors.add(self.setting.num_steps, lockstep.outputs)
            self.denoiser_calls += lockstep.denoiser_calls
        if given_up:
            return None
        return Fit(tuple(sorted(skipped)), predictions, tuple(errors.relative), tuple(errors.scores), gains)

    def _gain(self, arrivals: Sequence[Arrival], chosen: Sequence[int]) -> float | None:
        common = size = 0.0
        for arrival, k in zip(arrivals, chosen, strict=True):
            step, recording = arrival.step, self.recordings[k]
            drift = step.sample.double().cpu() - recording.sample(arrival.index).double()
            response = arrival.reply.double().cpu() - recording.model_output(arrival.index).double()
            common += float((drift * response).sum())
            size += float(drift.square().sum())
        return common / size if size else None

    def _solve(
        self, arrivals: Sequence[Arrival], histories: Sequence[History], chosen: Sequence[int], method: Method
    ) -> Prediction:
        """The factors that take all prompts nearest to their full run's next latent."""
        newest = histories[0]
        order = min(method.order, len(newest.steps) - 1)
        step = arrivals[0].step
        slope = output_coefficient(step.scheduler, step.arguments)
        equations = NormalEquations((order + 1) * (2 if newest.contrasts else 1))
        for arrival, history, k in zip(arrivals, histories, chosen, strict=True):
            here = arrival.step
            reused = predicted(here, history, reuse(history), method)
            landed = plain_step(here.scheduler, here.arguments, reused)
            goal = self.recordings[k].sample(arrival.index + 1).to(landed)
            terms = features(history.entries, order)
            if history.contrasts:
                terms += features(history.contrasts, order)
            equations.add([slope * term for term in terms], goal - landed)
        weights = equations.solve()
        first, *others = expanded(weights[: order + 1])
        between = expanded(weights[order + 1 :]) if newest.contrasts else ()
        return Prediction(tuple(newest.steps[: order + 1]), (1 + first, *others), between)


class Errors:
    """Distances to the full runs, step by step."""

    def __init__(self, recordings: Sequence[Recording], chosen: Sequence[int]) -> None:
        self._recordings = [recordings[k] for k in chosen]
        self.relative: list[float] = []
        self.scores: list[float] = []

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
        self.scores.append(fmean(0.5 * log(max(e / n, _TINY)) for e, n in zip(errors, sizes, strict=True)))


_TINY = 1e-24  # keeps the logarithm finite where a latent is exact
