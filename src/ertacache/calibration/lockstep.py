"""Run all prompts side by side through the unchanged pipeline, so that a step can be solved for all of them.

Each prompt has a thread and a twin of the pipeline with its own scheduler. Exactly one thread runs at a time;
each stops at every step boundary until all have come there. Then the loop over the `Lockstep` sees every prompt's
latent and model output, and may replace the output with which a prompt continues.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from torch import Tensor

from ertacache.calibration.prompt_thread import PromptThread
from ertacache.errors import CalibrationError
from ertacache.runtime.driver import Step
from ertacache.runtime.preserving import preserved, to_the_end
from ertacache.runtime.randomness import RandomState
from ertacache.runtime.repeatable_call import Call


@dataclass
class PromptAtStep:
    """One prompt at a step boundary.

    Args:
        prompt: the number of the prompt.
        index: the index of the step, counted from the first step that the calls make.
        step: the arguments of ``scheduler.step``, and how they came about.
        reply: the model output with which the prompt continues, (batch, ...); set it to replace the output.
        random: the global random state with which its call continues.
    """

    prompt: int
    index: int
    step: Step
    reply: Tensor
    random: RandomState


class Lockstep:
    """Iterate over the steps of all prompts: each item is the list of all prompts at one step of one latent.

    A context manager: on exit, calls that have not returned are ended, and the pipeline is restored.

    Args:
        pipe: the pipeline; left as it was found.
        calls: one call for each prompt.
        is_cached: returns whether the denoiser is skipped at a step.
        prepare: called with the scheduler when ``set_timesteps`` has returned; returns the new noise levels if it
            retimes the scheduler, else None.
        first_step: the step of the grid that the calls make first; ``is_cached``, ``block_factors`` and the items
            count from there.
        residuals_kept, block_factors: see `ertacache.runtime.driver.Driver`.
        on_denoiser_call: called with the number of denoiser calls that the last step took, for progress bars.
    """

    def __init__(
        self,
        pipe: Any,
        calls: Sequence[Call],
        is_cached: Callable[[int], bool],
        prepare: Callable[[Any], Sequence[float] | None] = lambda scheduler: None,
        on_denoiser_call: Callable[[int], None] = lambda number: None,
        *,
        first_step: int = 0,
        residuals_kept: int = 0,
        block_factors: Callable[[int], Sequence[float]] = lambda step: (1.0,),
    ) -> None:
        self._first_step = first_step
        self._threads = [
            PromptThread(
                k,
                pipe,
                call,
                lambda step: is_cached(step - first_step),
                prepare,
                residuals_kept,
                lambda step: block_factors(step - first_step),
            )
            for k, call in enumerate(calls)
        ]
        self._on_denoiser_call = on_denoiser_call
        self._stack = ExitStack()
        self._pipe = pipe

    def outputs(self, stream: int = 0) -> list[Tensor | None]:
        """For each prompt, the latent after the last step it made.

        Args:
            stream: which of the latents that the loop steps.
        """
        return [thread.outputs.get(stream) for thread in self._threads]

    @property
    def denoiser_calls(self) -> list[int]:
        """For each prompt, its denoiser calls so far."""
        return [thread.denoiser_calls for thread in self._threads]

    @property
    def results(self) -> list[Any]:
        """For each prompt, what its call returned; None before it has returned."""
        return [thread.result for thread in self._threads]

    def replace_newest_residuals(self, residuals: Sequence[Sequence[Tensor]]) -> None:
        """Replace the blocks' residuals of the newest computed step (level ``hidden``).

        Args:
            residuals: one row for each prompt, with one tensor for each denoiser call of the step.
        """
        for thread, row in zip(self._threads, residuals, strict=True):
            thread.replace_newest_residuals(row)

    def __enter__(self) -> Self:
        self._stack.enter_context(preserved(self._pipe))
        self._stack.callback(to_the_end, self._abandon)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _abandon(self) -> None:
        for thread in sorted(self._threads, key=lambda thread: not thread.runs):  # an interrupt leaves one running
            thread.abandon()
        self._threads[0].unload()

    def __iter__(self) -> Iterator[list[PromptAtStep]]:
        replies: list[Tensor | None] = [None] * len(self._threads)
        while True:
            prompts = []
            for thread, reply in zip(self._threads, replies, strict=True):
                before = thread.denoiser_calls
                step = thread.resume(reply)
                self._on_denoiser_call(thread.denoiser_calls - before)
                if step is not None:
                    index = step.index - self._first_step
                    prompts.append(PromptAtStep(thread.number, index, step, step.model_output, thread.random))
            if not prompts:
                return
            if len(prompts) < len(self._threads) or len({(p.index, p.step.stream) for p in prompts}) > 1:
                raise CalibrationError(
                    "the prompts do not make the same steps",
                    given=f"prompts {[p.prompt for p in prompts]} are at steps {[p.index for p in prompts]}",
                    cure="Give all prompts the same num_inference_steps, strength and callbacks.",
                )
            yield prompts
            replies = [prompt.reply for prompt in prompts]
