"""One closed loop: all prompts skip the cached steps of a schedule and use predictions in their place.

Before the first cached step all latents are exact. From there on, the weights of a step are solved once every prompt
has reached that step. They bring each prompt as near as possible to the next latent of its full run. The latents
already contain the errors of earlier steps, so the weights make up for these too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import Tensor

from ertacache.calibration.deviations import Deviations
from ertacache.calibration.lockstep import PromptAtStep
from ertacache.calibration.loop_outputs import ComputedOutput, Trace
from ertacache.calibration.loop_result import Fit, FittedOn
from ertacache.calibration.recorder import check_finite
from ertacache.calibration.recording import Recording, Setting
from ertacache.calibration.shard import current_shard
from ertacache.calibration.step_fit import StepFit, fit_step
from ertacache.errors import CalibrationError
from ertacache.method.aligned_weights import MAX_ORDER, NormalEquations, features
from ertacache.method.history import History
from ertacache.method.named_methods import Method, Predictor
from ertacache.method.prediction import Prediction, predicted, reuse, taylor
from ertacache.method.residual import to_cache
from ertacache.method.simulated_loop import Solution
from ertacache.runtime.guidance_contrast import contrast
from ertacache.runtime.scheduler_step import output_coefficient, plain_step
from ertacache.runtime.schedulers import sampler_of
from ertacache.watching.drift_score import relative_drift


@dataclass(frozen=True)
class LoopPlan:
    """The plan of a closed loop, as one of the latents that it steps has it.

    Args:
        cached_steps: the schedule.
        method: the method; its level and order are used.
        predictor: the method's predictor, or another one in its place.
        weights: the weights that each prompt uses: fitted in this loop, or given: by step, one for each of all prompts.
            Those of ``taylor`` and ``reuse`` are the same for all.
        earlier: the outputs of an earlier loop of the same method, or None.
        replayed: the computed steps whose outputs are taken from ``earlier`` and not computed again.
        trace: filled with the outputs that this loop computes; None to keep none.
        expected: by step, the weights that fits are drawn towards.
    """

    cached_steps: frozenset[int]
    method: Method
    predictor: Predictor
    weights: FittedOn | Mapping[int, Sequence[Prediction]]
    earlier: Trace | None = None
    replayed: frozenset[int] = frozenset()
    trace: Trace | None = None
    expected: Mapping[int, Solution] = field(default_factory=dict)

    def of_stream(
        self,
        stream: int,
        weights: FittedOn | Mapping[int, Sequence[Prediction]],
        expected: Mapping[int, Solution],
    ) -> LoopPlan:
        """The plan of another latent; 0 is this one's."""
        earlier, trace = (kept and kept.of_stream(stream) for kept in (self.earlier, self.trace))
        return replace(self, weights=weights, earlier=earlier, trace=trace, expected=expected)

    def is_skipped(self, step: int) -> bool:
        """Return whether the denoiser is skipped at this step."""
        return step in self.cached_steps or self.is_replayed(step)

    def is_replayed(self, step: int) -> bool:
        """Return whether the outputs of this step are taken from the earlier loop: if it is to be, and they are here.

        A worker that was started again has lost them, and computes the same ones once more.
        """
        return step in self.replayed and self.earlier is not None and self.earlier.has(step)

    def is_predicted(self, step: int) -> bool:
        """Return whether a prediction replaces the output of this step: if it is cached, or computed and corrected.

        Computed steps are corrected after the first cached step; before it the latents are exact.
        """
        corrected = self.predictor == "aligned" and step > min(self.cached_steps, default=step)
        return corrected or step in self.cached_steps


class ClosedLoop:
    """The state of one closed loop for one of the latents that it steps: what its prompts have cached, and what was
    fitted and measured so far.

    The prompts are this process's own; at each step it hands in their errors and equations, and gets those of all.

    Args:
        plan: the plan of the loop.
        recordings: the full run of each own prompt.
        setting: the setting of the full runs.
        numbers: the numbers of the own prompts among all.
        leave_one_out: whether to fit, for each prompt, weights on the other prompts as well.

    Attributes:
        deviations: how far the latents are from those of the full runs.
        repeated: for each own prompt, the denoiser calls of steps that were computed once more since their outputs were
            lost.
    """

    def __init__(
        self,
        plan: LoopPlan,
        recordings: Sequence[Recording],
        setting: Setting,
        numbers: Sequence[int],
        *,
        leave_one_out: bool,
    ) -> None:
        self.plan, self._recordings, self._setting, self._leave_one_out = plan, recordings, setting, leave_one_out
        self._numbers, self._shard = numbers, current_shard()
        size = {"reuse": 1, "taylor": 2}.get(plan.predictor, MAX_ORDER + 1)
        self._histories = [History(size) for _ in recordings]
        self._calls: Any = ()
        self._grids: list[list[float]] = []
        self._predictions: dict[int, Prediction] = {}
        self._left_out: dict[int, tuple[Prediction, ...]] = {}
        self._drifts: dict[int, list[Tensor]] = {}
        self.deviations = Deviations(recordings)
        self.repeated = [0] * len(recordings)
        self._equations: list[NormalEquations | None] = []

    def note_grid(self, scheduler: Any) -> None:
        """Record the noise levels that a prompt's scheduler has set."""
        self._grids.append(sampler_of(scheduler).noise_levels(scheduler))

    def block_factors(self, step: int) -> Sequence[float]:
        """Return the factors of the kept residuals that replace the blocks at a cached step (level ``hidden``)."""
        if self.plan.method.predictor == "taylor":
            return taylor(self._setting.noise_levels, step, self._histories[0].steps).factors
        return (1.0,)

    def take_in(self, prompts: Sequence[PromptAtStep], latents: Sequence[Tensor | None]) -> None:
        """Take in the step that all prompts have reached, and exchange what they know of it with the other processes.

        Args:
            prompts: the own prompts, at the same step.
            latents: for each of them, the latent at the start of the step, (batch, ...); None at step 0.
        """
        index = prompts[0].index
        if index == 0:
            self._check_grid(prompts[0].step.scheduler)
            self._check_noise(prompts)
        distances = self.deviations.distances(index, latents)
        if index not in self.plan.cached_steps:
            self._keep_outputs(prompts)
        fits = self.plan.predictor == "aligned" and self.plan.is_predicted(index)
        own = self._equations_of(prompts, self.plan.method.order) if fits else [None] * len(prompts)
        told = self._shard.gather(list(zip(distances, own, strict=True)), f"step {index} of a closed loop")
        self.deviations.add([distance for distance, _ in told])
        self._equations = [equations for _, equations in told]

    def go_on(self, prompts: Sequence[PromptAtStep]) -> None:
        """Set the model outputs with which the own prompts continue; after `take_in` of the same step."""
        if self.plan.is_predicted(prompts[0].index):
            self._predict(prompts)

    def end(self, latents: Sequence[Tensor | None]) -> None:
        """Measure the final latents, after all calls have returned."""
        own = self.deviations.distances(self._setting.num_steps, latents)
        self.deviations.add(self._shard.gather(own, "the end of a closed loop"))

    def fit(self) -> Fit:
        """Make the result of the loop."""
        by_prompt = self.deviations.by_prompt
        own = [{step: row[k].tolist() for step, row in self._drifts.items()} for k in range(len(self._recordings))]
        drifts = self._shard.gather(own, "drifts of a closed loop")
        return Fit(
            tuple(sorted(self.plan.cached_steps)),
            self._predictions,
            tuple(self.deviations.relative),
            tuple(self.deviations.scores),
            tuple(by_prompt[-1]) if by_prompt else (),
            {step: tuple(tuple(drift[step]) for drift in drifts) for step in self._drifts},
            left_out=self._left_out,
        )

    def _check_grid(self, scheduler: Any) -> None:
        """Raise `CalibrationError` unless the scheduler has set the noise levels of the full runs.

        They can differ if the full runs come from a checkpoint: its key contains the scheduler's configuration, but a
        user's own scheduler may have settings outside of that.
        """
        wanted = self._setting.grid
        if not self._grids:  # another latent's scheduler may set its noise levels unseen
            self.note_grid(scheduler)
        if not any(len(grid) == len(wanted) and np.allclose(grid, wanted, 1e-5, 1e-6) for grid in self._grids):
            newest = self._grids[-1] if self._grids else []
            pairs = enumerate(zip(newest, wanted, strict=False))
            far = [f"step {i}: {a:.5g}, was {b:.5g}" for i, (a, b) in pairs if not np.isclose(a, b, 1e-5, 1e-6)]
            raise CalibrationError(
                "the scheduler's noise levels changed since the full runs in the checkpoint were made",
                given=(far or [f"{len(newest)} noise levels, were {len(wanted)}"])[0],
                cure="Use a new checkpoint folder. (A scheduler of your own: put every setting into its config.)",
            )

    def _check_noise(self, prompts: Sequence[PromptAtStep]) -> None:
        """Raise `CalibrationError` if a call does not begin with the latent with which its full run began."""
        for prompt in prompts:
            full, now = self._recordings[prompt.prompt].sample(0).float(), prompt.step.sample.detach().cpu().float()
            far = float((now - full).norm() / full.norm().clamp(min=1e-12)) if now.shape == full.shape else 1.0
            if far > _SAME_NOISE:
                number = self._numbers[prompt.prompt]
                raise CalibrationError(
                    "two calls with the same arguments begin with different noise, so a run with a cache cannot be "
                    "compared with the full one",
                    given=f"prompt {number}: latents of {tuple(now.shape)} that differ by {far:.0%}",
                    cure="Have the pipeline draw all noise from the generator that it is given, or pass latents.",
                )

    def _keep_outputs(self, prompts: Sequence[PromptAtStep]) -> None:
        """Pass on the outputs of a computed step, and add them to the histories and the trace."""
        index, step = prompts[0].index, prompts[0].step
        calls = step.form if self.plan.predictor == "aligned" else step.pattern
        if calls != self._calls:  # guidance begins or ends, or, for other predictors, another expert takes over
            self._calls = calls
            for history in self._histories:
                history.clear()
        outputs = [self._computed(prompt) for prompt in prompts]
        for prompt, history, computed in zip(prompts, self._histories, outputs, strict=True):
            check_finite(computed.output, self._numbers[prompt.prompt], index)
            entry = to_cache(prompt.step.sample.float(), computed.output.float(), self.plan.method.level)
            if self.plan.predictor != "aligned" and history.entries:
                self._note_drift(index, entry, history.entries[0])
            prompt.reply = computed.output
            history.push(index, entry, computed.contrast)
        if self.plan.trace is not None:
            self.plan.trace.keep(index, outputs)

    def _computed(self, prompt: PromptAtStep) -> ComputedOutput:
        """Get a prompt's output at this step, as computed now or, if the step is replayed, in the earlier loop."""
        if self.plan.earlier and self.plan.is_replayed(prompt.index):
            return self.plan.earlier.output(prompt.index, prompt.prompt).copied_to(prompt.reply.device)
        if prompt.index in self.plan.replayed:
            self.repeated[prompt.prompt] += prompt.step.denoiser_calls
        return ComputedOutput(prompt.reply, contrast(prompt.step))

    def _predict(self, prompts: Sequence[PromptAtStep]) -> None:
        """Fit this step, and let each prompt continue with its prediction."""
        index, method = prompts[0].index, self.plan.method
        fit = self._fitted(index)
        self._predictions[index], self._left_out[index] = fit.prediction, fit.left_out
        own = self._weights_at(index, fit)
        for prompt, history, prediction in zip(prompts, self._histories, own, strict=True):
            reply = predicted(prediction, history, method, prompt.step.sample, prompt.step.model_output)
            if index not in self.plan.cached_steps:
                self._note_drift(index, prompt.reply.float(), reply)
            prompt.reply = reply.to(prompt.reply.dtype)

    def _weights_at(self, index: int, fit: StepFit) -> Sequence[Prediction]:
        """Return the weights that each own prompt uses at this step."""
        if self.plan.weights is FittedOn.ALL_PROMPTS:
            return [fit.prediction] * len(self._numbers)
        of_all = fit.left_out if self.plan.weights is FittedOn.OTHER_PROMPTS else self.plan.weights[index]
        return [of_all[number] for number in self._numbers]

    def _fitted(self, index: int) -> StepFit:
        """Compute the factors of this step by the plan's predictor."""
        steps = self._histories[0].steps
        if self.plan.predictor == "reuse":
            return StepFit(reuse(steps))
        if self.plan.predictor == "taylor":
            return StepFit(taylor(self._setting.noise_levels, index, steps))
        equations = [one for one in self._equations if one is not None]
        used = tuple(steps[: self.plan.method.order + 1])
        foreseen, expected = self.plan.expected.get(index, ((), ()))
        return fit_step(
            equations,
            used,
            leave_one_out=self._leave_one_out,
            expected=expected if foreseen == used else None,  # a loop may empty its history where none was foreseen
        )

    def _equations_of(self, prompts: Sequence[PromptAtStep], order: int) -> list[NormalEquations]:
        """Set up, for each own prompt, the least squares that take it nearest to its full run's next latent."""
        contrasted = all(history.contrasts for history in self._histories)
        slope = output_coefficient(prompts[0].step.scheduler, prompts[0].step.arguments)
        equations = []
        for prompt, history in zip(prompts, self._histories, strict=True):
            step = prompt.step
            with prompt.random.lent():  # a sampler may be about to draw noise from it
                reused = predicted(reuse(history.steps), history, self.plan.method, step.sample, step.model_output)
                landed = plain_step(step.scheduler, step.arguments, reused)
            goal = self._recordings[prompt.prompt].sample(prompt.index + 1).to(landed)
            terms = features(history.entries, order)
            terms += features(history.contrasts, order) if contrasted else []
            equations.append(NormalEquations(len(terms)))
            equations[-1].add([slope * term for term in terms], goal - landed)
        return equations

    def _note_drift(self, index: int, truth: Tensor, instead: Tensor) -> None:
        self._drifts.setdefault(index, []).append(relative_drift(truth, instead))


_SAME_NOISE = 0.05
"""How far, relatively, latents may be apart that begin with the same noise: encoded pictures may differ a little."""
