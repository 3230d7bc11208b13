"""What a calibration says before the work: the memory it takes, what it costs, and what more would bring."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from ertacache.calibration.budget import Budget, StepsBudget
from ertacache.calibration.progress import CalibrationProgress
from ertacache.calibration.recording import Recording, Setting
from ertacache.calibration.recording_store import readable
from ertacache.calibration.worth import worth_of_more
from ertacache.method.named_methods import Method
from ertacache.runtime.driver import Step


@dataclass(frozen=True)
class Workload:
    """The work of a calibration besides the full runs. The announcement and the recordings depend on it.

    Args:
        full_runs: the most denoiser calls of the whole calibration, in full runs per prompt.
        traced_steps: how many computed steps of closed loops are kept at a time.
        hidden: whether the blocks' residuals are recorded too.
        without: the trained pipeline that is left out of the prior, by name, to judge the calibration.
        step_ratio: that of the policy, where what more full runs would bring was measured; None elsewhere.
        prompts_left: how many prompts are not used, since the limit does not pay for them.
    """

    full_runs: float = 1
    traced_steps: int = 0
    hidden: bool = False
    without: str | None = None
    step_ratio: float | None = None
    prompts_left: int = 0

    @classmethod
    def of(cls, num_inference_steps: int, method: Method, budget: Budget, prompts_left: int = 0) -> Workload:
        """Make the workload of a calibration; a search keeps the traces of two loops at a time."""
        hidden, searches = method.level == "hidden", method.schedule == "search"
        computed = budget.computed if isinstance(budget, StepsBudget) else num_inference_steps
        return cls(
            budget.full_runs,
            traced_steps=2 * computed if searches and not hidden else 0,
            hidden=hidden,
            step_ratio=num_inference_steps / computed if searches and isinstance(budget, StepsBudget) else None,
            prompts_left=prompts_left,
        )


RECORDINGS = Workload()
"""Only the full runs."""


@dataclass(frozen=True)
class Announcement:
    """Announces once, before the work, how much memory and how many denoiser calls calibration takes.

    Args:
        num_steps: T.
        num_prompts: how many prompts are used, by all processes.
        own_prompts: how many of them are this process's.
        workload: what follows after the full runs.
        progress: shows it.
        reserve: told the bytes of all recordings, returns in words where they will be.
    """

    num_steps: int
    num_prompts: int
    own_prompts: int
    workload: Workload
    progress: CalibrationProgress
    reserve: Callable[[int], str]

    def first_step(self, step: Step) -> None:
        """Announce the memory at the first step of the first full run."""
        self._say_memory(step.sample, step.model_output, step.denoiser_calls, step.residuals)

    def first_run(self, seconds: float) -> None:
        """Announce the cost after the first full run.

        Args:
            seconds: how long it took.
        """
        self._say_cost(f"a full run takes {seconds:.3g} s here, so at most about {in_words(seconds * self._in_all)}")

    def found(self, recording: Recording, setting: Setting) -> None:
        """Announce both if the first full run is in the checkpoint."""
        self._say_memory(recording.sample(0), recording.model_output(0), setting.calls_per_step, ())
        self._say_cost("the full runs in the checkpoint are not made again")

    @property
    def _in_all(self) -> float:
        """The most full runs of all prompts together."""
        return self.workload.full_runs * self.num_prompts

    def _say_cost(self, time: str) -> None:
        runs, prompts, left = self._in_all, self.num_prompts, self.workload.prompts_left
        used = f"{prompts} of {prompts + left} prompts" if left else f"{prompts} prompt{'s' * (prompts != 1)}"
        cost = f"calibration makes the denoiser calls of at most {runs:.3g} full runs in all, on {used}"
        self.progress.say(f"{cost}: {time}")
        more = worth_of_more(self.workload.step_ratio, runs) if self.workload.step_ratio else ""
        if more:
            self.progress.say(more)

    def _say_memory(self, sample: Tensor, output: Tensor, calls_per_step: int, residuals: Sequence[Tensor]) -> None:
        steps = self.num_steps
        live, kept = memory(sample, output, residuals, steps, self.own_prompts, self.workload.traced_steps)
        self.progress.expect(int(self.workload.full_runs * steps * calls_per_step * self.num_prompts))
        self.progress.say(
            f"calibration uses {readable(live)} of memory besides the pipeline, and {readable(kept)} for recordings in "
            f"{self.reserve(kept)}"
        )


def memory(
    sample: Tensor, output: Tensor, residuals: Sequence[Tensor], steps: int, prompts: int, traced_steps: int
) -> tuple[int, int]:
    """How much memory a calibration takes.

    Args:
        sample: the latent of a step.
        output: the model output of a step.
        residuals: the blocks' residuals of a step, for level ``hidden``.
        steps: T.
        prompts: how many prompts this process has.
        traced_steps: see `Workload`.

    Returns:
        The bytes that are in use besides the pipeline, and those of all recordings.
    """
    with_contrast = output.nbytes + 4 * output.numel()  # a model output, and the branches' contrast in float32
    kept = sample.nbytes * (steps + 1) + output.nbytes * steps + traced_steps * with_contrast
    live = 18 * sample.numel() * 4
    live += 2 * sum(residual.nbytes for residual in residuals)  # of level hidden
    return live * prompts + with_contrast * steps, kept * prompts  # one prompt at a time has its contrasts in memory


def in_words(seconds: float) -> str:
    """A time as people say it."""
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"
