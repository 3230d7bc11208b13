"""One closed loop over all latents that it steps, such as a clip and its sound: one schedule, weights for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

from torch import Tensor

from ertacache.calibration.closed_loop import ClosedLoop, LoopPlan
from ertacache.calibration.lockstep import PromptAtStep
from ertacache.calibration.loop_result import Fit, FittedOn, Weights, joint
from ertacache.calibration.quality import Quality
from ertacache.calibration.recording import Recording, Setting
from ertacache.method.simulated_loop import Solution

GiveUp = Callable[[int, float], bool]
"""``give_up(step, score)`` returns whether to end a loop early, given the score of its latents after this step."""
Latents = Callable[[int], Sequence[Tensor | None]]
"""``latents(stream)`` returns each prompt's latent after the last step made, (batch, ...); None at step 0."""


class JointLoop:
    """The state of one closed loop.

    Args:
        plan: the plan of the loop; its weights are replaced by each latent's, and so is what is expected of them.
        weights: the weights that each prompt uses.
        recordings: the full run of each of this process's prompts.
        setting: the setting of the full runs.
        numbers: the numbers of these prompts among all.
        leave_one_out: whether to fit, for each prompt, weights on the other prompts as well.
        expected: for each latent and step, the weights that fits are drawn towards; empty for none.
        give_up: called after every step with the score of the latent that suffers most; the loop ends if it returns
            True.

    Attributes:
        plan: the plan of the first latent.
    """

    def __init__(
        self,
        plan: LoopPlan,
        weights: Weights,
        recordings: Sequence[Recording],
        setting: Setting,
        numbers: Sequence[int],
        *,
        leave_one_out: bool,
        expected: Sequence[Mapping[int, Solution]] = (),
        give_up: GiveUp = lambda step, score: False,
    ) -> None:
        self._give_up = give_up
        self._loops = [
            ClosedLoop(
                plan.of_stream(
                    k,
                    weights if isinstance(weights, FittedOn) else weights.of_stream(k).left_out,
                    expected[k] if expected else {},
                ),
                [recording.of_stream(k) for recording in recordings],
                setting.of_stream(k),
                numbers,
                leave_one_out=leave_one_out,
            )
            for k in range(setting.num_streams)
        ]
        self.plan = self._loops[0].plan
        self.note_grid, self.block_factors = self._loops[0].note_grid, self._loops[0].block_factors

    def advance(self, prompts: Sequence[PromptAtStep], latents: Latents) -> bool:
        """Handle a step of one latent that all prompts have reached; return False if the loop is given up.

        Args:
            prompts: this process's prompts, at the same step.
            latents: the latents at the start of the step.
        """
        stream, index = prompts[0].step.stream, prompts[0].index
        loop = self._loops[stream]
        loop.take_in(prompts, latents(stream))
        if index and loop is self._loops[-1] and self._give_up(index - 1, self._score()):
            return False
        loop.go_on(prompts)
        return True

    def end(self, latents: Latents) -> None:
        """Measure the final latents, after all calls have returned."""
        for k, loop in enumerate(self._loops):
            loop.end(latents(k))

    @property
    def repeated(self) -> list[int]:
        """See `ertacache.calibration.closed_loop.ClosedLoop`."""
        return self._loops[0].repeated

    def fit(self, quality: Quality | None) -> Fit:
        """Make the result of the loop.

        Args:
            quality: the quality of its pictures, or None if they were not judged.
        """
        return joint([loop.fit() for loop in self._loops], [loop.deviations.by_prompt for loop in self._loops], quality)

    def _score(self) -> float:
        """The score of the latents after the step before, prompt by prompt of the one that suffers most."""
        newest = [loop.deviations.by_prompt[-1] for loop in self._loops]
        return fmean(max(errors) for errors in zip(*newest, strict=True))
