"""Run the closed loops of a calibration: try a schedule with its predictions on all prompts, and count the cost."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from ertacache.calibration.closed_loop import LoopPlan
from ertacache.calibration.joint_loop import GiveUp, JointLoop
from ertacache.calibration.lockstep import Lockstep
from ertacache.calibration.loop_outputs import Trace
from ertacache.calibration.loop_result import Fit, FittedOn, Weights
from ertacache.calibration.quality import Judge
from ertacache.calibration.recording import Recording, Setting
from ertacache.calibration.shard import current_shard
from ertacache.calibration.step_fit import holds_out
from ertacache.method.named_methods import Method, Predictor
from ertacache.method.simulated_loop import Solution
from ertacache.method.surrogate import Surrogate
from ertacache.runtime.repeatable_call import Call

T = TypeVar("T")


class ClosedLoops:
    """Runs closed loops and counts their denoiser calls.

    Calls and recordings are those of this process's own prompts; loops, counts and results are over all prompts.

    Args:
        pipe: the pipeline; left unchanged.
        calls: one call for each own prompt.
        recordings: the full run of each own prompt.
        setting: the setting of the full runs.
        surrogate: estimates the errors of schedules without denoiser calls.
        on_denoiser_call: called with the number of denoiser calls just made, for progress bars.
        traces_in_files: whether traces are kept in files, and not in memory.

    Attributes:
        numbers: the numbers of the own prompts among all.
        num_prompts: how many there are in all.
        holds_out: whether there are enough prompts to hold each one out from its own weights.
        denoiser_calls: the number made so far in all loops; the caller adds those of the full runs.
        judge: measures the pictures of every loop that runs to its end; None until `judge_pictures` is called.
    """

    def __init__(
        self,
        pipe: Any,
        calls: Sequence[Call],
        recordings: Sequence[Recording],
        setting: Setting,
        surrogate: Surrogate,
        on_denoiser_call: Callable[[int], None],
        *,
        traces_in_files: bool = False,
    ) -> None:
        self.pipe, self.calls, self.recordings, self.setting = pipe, calls, recordings, setting
        self.surrogate = surrogate
        self.on_denoiser_call, self.traces_in_files = on_denoiser_call, traces_in_files
        self._shard = current_shard()
        self.num_prompts = len(self._shard.gather([None] * len(calls), "number of prompts"))
        self.numbers = self._shard.numbers(self.num_prompts)
        self.holds_out = holds_out(self.num_prompts)
        self.denoiser_calls = 0
        self.judge: Judge | None = None

    @property
    def full_run(self) -> int:
        """The denoiser calls of one full run of every prompt."""
        return self.cost_of(self.setting.num_steps)

    def cost_of(self, computed: int) -> int:
        """Return the denoiser calls of one loop over all prompts that computes so many steps."""
        return computed * self.setting.calls_per_step * self.num_prompts

    def can_afford(self, computed: int, limit: float) -> bool:
        """Return whether a loop that computes so many steps keeps ``denoiser_calls`` within a limit."""
        return self.denoiser_calls + self.cost_of(computed) <= limit

    def judge_pictures(self) -> None:
        """From now on, decode the final latents of every loop and compare the pictures with the full runs'.

        To decode the full runs' pictures, each call is made once more: it computes the first step (and steps that are
        always computed), and takes the outputs of all others from the recordings.
        """
        calls = [call.decoded() for call in self.calls]
        with (
            Lockstep(
                self.pipe,
                calls,
                lambda step: step not in (0, *self.setting.forced),
                on_denoiser_call=self.on_denoiser_call,
                first_step=self.setting.first_step,
            ) as lockstep,
            self._counting(lambda: lockstep.denoiser_calls),
        ):
            for prompts in lockstep:
                for prompt in prompts:
                    recording = self.recordings[prompt.prompt].of_stream(prompt.step.stream)
                    output = recording.model_output(prompt.index)
                    prompt.reply = output.to(prompt.reply.device)
            self.judge = Judge(lockstep.results)

    def replayed(self, cached: Collection[int], method: Method, earlier: Trace | None) -> frozenset[int]:
        """Return the computed steps of a schedule whose outputs can be taken from an earlier loop.

        These are the computed steps before the two schedules differ, with three exceptions. Step 0 is always computed,
        since a run cannot begin with a skipped step. A step whose denoiser calls differ from those of the step before
        is computed, since a run can only skip calls that its last computed step made. At level ``hidden`` nothing is
        replayed, since a skipped step leaves no residuals of blocks.
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
        """Run one closed loop: skip the cached steps on all prompts and predict them; ``aligned`` solves its weights.

        Args:
            cached: the schedule.
            method: the method; its level, predictor and order are used.
            predictor: a predictor to use in place of the method's.
            weights: the weights that each prompt uses; the default is that of `attempt`.
        """
        fit = self.attempt(cached, method, predictor=predictor, weights=weights)
        assert fit is not None  # nothing gives this loop up
        return fit

    def judged(
        self, cached: Collection[int], method: Method, worth_it: Callable[[Fit], bool] = lambda fit: True
    ) -> Fit:
        """Fit a policy's weights on a schedule, and measure errors and pictures as on new prompts.

        In a first loop, all prompts use the weights that are fitted on all of them; these are the policy's. That loop
        also computes leave-one-out weights. In a second loop each prompt uses those that were computed without it, as a
        new prompt would use the policy's. The second loop fits nothing: weights fitted there would contain the errors
        of other held-out prompts, which add up from step to step.

        Args:
            cached: the schedule.
            method: the method; its level, predictor and order are used.
            worth_it: called with the fit of the first loop, whose errors are too small; returns whether to run the
                second loop.

        Returns:
            The second loop's fit with the first loop's predictions; or the first loop's fit, if no prompt is held out,
            nothing is fitted, or the second loop is not worth it.
        """
        fit = self.predict(cached, method, weights=FittedOn.ALL_PROMPTS)
        if method.predictor != "aligned" or not self.holds_out or not worth_it(fit):
            return fit
        return self.predict(cached, method, weights=fit).with_predictions_of(fit)

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
        """As `predict`, but beginning with the outputs of an earlier loop, and ending early if it is given up.

        Args:
            cached: the schedule.
            method: the method; its level, predictor and order are used.
            predictor: a predictor to use in place of the method's.
            weights: the weights that each prompt uses. By default they are fitted on the other prompts if there are
                enough to hold each one out, and on all prompts if not.
            earlier: the outputs of an earlier loop of the same method; steps that it computed before the two schedules
                differ are not computed again.
            trace: filled with the outputs that this loop computes.
            give_up: called after every step with the score of the latents; the loop ends if it returns True.

        Returns:
            The result of the loop, or None if it was given up.
        """
        predictor = predictor or method.predictor
        fits = predictor == "aligned" and self.holds_out
        weights = weights or (FittedOn.OTHER_PROMPTS if fits else FittedOn.ALL_PROMPTS)
        replayed = self.replayed(cached, method, earlier)
        plan = LoopPlan(frozenset(cached), method, predictor, FittedOn.ALL_PROMPTS, earlier, replayed, trace)
        loop = JointLoop(
            plan,
            weights,
            self.recordings,
            self.setting,
            self.numbers,
            leave_one_out=self.holds_out,
            expected=self._expected(cached, method, predictor),
            give_up=give_up,
        )

        (fit, steps), here = self.settled(lambda: (self._run(loop), trace.steps if trace else []))
        if trace is not None and not here:
            trace.lose(steps)
        return fit

    def _expected(
        self, cached: Collection[int], method: Method, predictor: Predictor
    ) -> Sequence[Mapping[int, Solution]]:
        """The weights of the prior, which knows outputs that are velocities, for each latent and step."""
        prior = self.surrogate.prior
        if prior is None or predictor != "aligned" or method.level != "velocity":
            return ()
        return prior.solutions(sorted(cached), method.order)

    def settled(self, loop: Callable[[], T]) -> tuple[T, bool]:
        """As `ertacache.calibration.shard.Shard.settled`; calls of a loop that is over are counted too."""

        def counted() -> tuple[T, int]:
            before = self.denoiser_calls
            return loop(), self.denoiser_calls - before

        (found, calls), here = self._shard.settled(counted)
        if not here:
            self.denoiser_calls += calls
        return found, here

    def count(self, own: Sequence[int]) -> None:
        """Add the denoiser calls of each own prompt, and those of the others."""
        self.denoiser_calls += sum(self._shard.gather(own, "denoiser calls"))

    @contextmanager
    def _counting(self, own: Callable[[], Sequence[int]]) -> Iterator[None]:
        """Add the denoiser calls that are made meanwhile, also if the user interrupts, which all processes hear.

        After another error nobody waits for what this process would hand in.
        """
        try:
            yield
        except KeyboardInterrupt:
            self.count(own())
            raise
        self.count(own())

    def _run(self, loop: JointLoop) -> Fit | None:
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

            def made() -> list[int]:
                return [calls - again for calls, again in zip(lockstep.denoiser_calls, loop.repeated, strict=True)]

            with self._counting(made):
                for prompts in lockstep:
                    if not loop.advance(prompts, lockstep.outputs):
                        return None
                loop.end(lockstep.outputs)
        return loop.fit(self.judge(lockstep.results) if self.judge else None)
