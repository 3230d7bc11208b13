"""The closed loops of a calibration: what a schedule and its predictions lead to on all prompts, and what it costs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

from ertacache.calibration.closed_loop import ClosedLoop, GiveUp, LoopPlan
from ertacache.calibration.lockstep import Lockstep
from ertacache.calibration.loop_outputs import Trace
from ertacache.calibration.loop_result import Fit, FittedOn, Weights
from ertacache.calibration.quality import Judge
from ertacache.calibration.recording import Recording, Setting
from ertacache.calibration.step_fit import holds_out
from ertacache.method.named_methods import Method, Predictor
from ertacache.runtime.repeatable_call import Call


class ClosedLoops:
    """Runs closed loops and counts what they cost.

    Args:
        pipe: the pipeline, left untouched.
        calls: one for each prompt.
        recordings: the full run of each.
        setting: what the full runs showed of the setting.
        on_denoiser_call: called with the number of denoiser calls just made, for progress bars.
        traces_in_files: whether traces are kept in files.

    Attributes:
        holds_out: whether there are prompts enough to hold each one out from its own weights.
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
        self.holds_out = holds_out(len(calls))
        self.denoiser_calls = 0
        self.judge: Judge | None = None

    @property
    def full_run(self) -> int:
        """The denoiser calls of one full run of every prompt."""
        return self.cost_of(self.setting.num_steps)

    def cost_of(self, computed: int) -> int:
        """The denoiser calls of one loop over all prompts that computes so many steps."""
        return computed * self.setting.calls_per_step * len(self.calls)

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
                for prompts in lockstep:
                    for prompt in prompts:
                        output = self.recordings[prompt.prompt].model_output(prompt.index)
                        prompt.reply = output.to(prompt.reply.device)
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
        weights: Weights | None = None,
    ) -> Fit:
        """Skip the cached steps on all prompts and predict them, solving ``aligned`` weights on the way.

        Args:
            cached: the schedule.
            method: its level, predictor and order are used.
            predictor: in place of the method's.
            weights: what each prompt goes on with; by default as of `attempt`.
        """
        fit = self.attempt(cached, method, predictor=predictor, weights=weights)
        assert fit is not None  # nothing gives this loop up
        return fit

    def judged(
        self, cached: Collection[int], method: Method, worth_it: Callable[[Fit], bool] = lambda fit: True
    ) -> Fit:
        """The weights that a policy of this schedule gets, with errors and pictures as on new prompts.

        The weights of all prompts are fitted in a loop that goes on with them. In a second loop each prompt goes on
        with the weights that the first one fitted on the others, as new prompts do. If weights were fitted on the way
        of the second loop instead, others' errors would be in each prompt's weights, and add up from step to step.

        Args:
            cached: the schedule.
            method: its level, predictor and order are used.
            worth_it: asked with the first loop's fit, whose errors flatter, whether to run the second loop.

        Returns:
            The second loop's fit with the first one's predictions. The first one's alone, where no prompt is held out,
            nothing is fitted, or the second loop is not worth it.
        """
        fit = self.predict(cached, method, weights=FittedOn.ALL_PROMPTS)
        if method.predictor != "aligned" or not self.holds_out or not worth_it(fit):
            return fit
        return replace(self.predict(cached, method, weights=fit.left_out), predictions=fit.predictions)

    def attempt(
        self,
        cached: Collection[int],
        method: Method,
        *,
        predictor: Predictor | None = None,
        weights: Weights | None = None,
        earlier: Trace | None = None,
        trace: Trace | None = None,
        give_up: GiveUp = lambda step, score: False,
    ) -> Fit | None:
        """As `predict`, but beginning as an earlier loop did, and ending early if it is given up.

        Args:
            cached: the schedule.
            method: its level, predictor and order are used.
            predictor: whose weights to use in place of the method's.
            weights: what each prompt goes on with; by default weights fitted on the other prompts where there are
                enough to hold each one out, else on all.
            earlier: a loop of the same method; what it computed before the schedules differ is not computed again.
            trace: is filled with what this loop computes.
            give_up: asked after every step with the score of the latents; the loop ends there if it says so.

        Returns:
            What the loop found, or None if it was given up.
        """
        predictor = predictor or method.predictor
        fits = predictor == "aligned" and self.holds_out
        weights = weights or (FittedOn.OTHER_PROMPTS if fits else FittedOn.ALL_PROMPTS)
        replayed = self.replayed(cached, method, earlier)
        plan = LoopPlan(frozenset(cached), method, predictor, weights, earlier, replayed, trace, give_up)
        return self._run(ClosedLoop(plan, self.recordings, self.setting, leave_one_out=self.holds_out))

    def _run(self, loop: ClosedLoop) -> Fit | None:
        with Lockstep(
            self.pipe,
            [call.decoded() for call in self.calls] if self.judge else self.calls,
            loop.plan.is_skipped,
            loop.note_grid,
            on_denoiser_call=self.on_denoiser_call,
            first_step=self.setting.first_step,
            residuals_kept=loop.plan.method.residuals_kept,
            block_factors=loop.block_factors,
        ) as lockstep:
            try:
                for prompts in lockstep:
                    if not loop.advance(prompts, lockstep.outputs):
                        return None
                loop.end(lockstep.outputs)
            finally:
                self.denoiser_calls += lockstep.denoiser_calls
        return loop.fit(self.judge(lockstep.results) if self.judge else None)
