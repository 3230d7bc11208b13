"""The streams of a loop: the latents that it steps, each by a scheduler of its own, such as pictures and their sound.

After the denoiser calls of a step, the pipeline steps each stream once, in the same order at every step. So a step is
computed for all streams or for none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ertacache.errors import RunError
from ertacache.runtime.scheduler_step import StepCall


class Stream:
    """One latent of the loop.

    Args:
        number: its place in the order in which the pipeline steps; 0 is that of ``pipe.scheduler``.
        scheduler: what steps it.
        step_call: how to call that.
    """

    def __init__(self, number: int, scheduler: Any, step_call: StepCall) -> None:
        self.number, self.scheduler, self.step_call = number, scheduler, step_call
        self._first: Tensor | None = None  # the latent after the first step, if arguments are recognised by position
        self._is_new = True

    def landed(self, latent: Tensor) -> None:
        """Take in the latent after a step."""
        self._first = latent if self._is_new and self.step_call.guessed else None
        self._is_new = False

    def check(self, arguments: Mapping[str, Any]) -> None:
        """Raise `RunError` if these are not the arguments of a step that can be extrapolated."""
        self.step_call.check(self.scheduler, arguments)
        output, sample = arguments["model_output"], arguments["sample"]
        if self._first is not None and _equal(output, self._first) and not _equal(sample, self._first):
            raise self.step_call.misread(self.scheduler, arguments)
        if not sample.is_floating_point():
            raise RunError(
                "this model samples tokens, which are whole numbers and cannot be extrapolated",
                given=f"a sample of {sample.dtype}",
                cure="It cannot be cached: call ertacache.disable(pipe).",
            )


class Streams:
    """The streams of one run; which they are is known once its first step is over.

    Args:
        main: ``pipe.scheduler``.

    Raises:
        PipelineError: if its ``step`` cannot be called as diffusers' pipelines do.
    """

    def __init__(self, main: Any) -> None:
        self._main_call = StepCall.of(main)
        self.known: list[Stream] = []
        self._stepped = 0  # how many of them have made the latest step
        self._is_first_step = True

    def forget(self) -> None:
        """Begin another trajectory."""
        self.known, self._stepped, self._is_first_step = [], 0, True

    def stepped_by(self, scheduler: Any, denoised: bool) -> Stream | None:
        """Find the stream that a scheduler is about to step.

        Args:
            scheduler: the scheduler.
            denoised: whether the denoiser was called since the last step of any stream.

        Returns:
            The stream, or None if the denoiser was not called for this.

        Raises:
            RunError: if not the same streams are stepped as at the first step.
        """
        if denoised:
            self._begin(scheduler)
        elif not self.known or any(stream.scheduler is scheduler for stream in self.known[: self._stepped]):
            return None
        if self._stepped == len(self.known):
            if not self._is_first_step:
                raise several_clocks(f"{len(self.known)} latents at the first step, and one more now")
            call = StepCall.of(scheduler) if self.known else self._main_call
            self.known.append(Stream(len(self.known), scheduler, call))
        stream = self.known[self._stepped]
        if stream.scheduler is not scheduler:
            raise several_clocks("other latents than at the first step")
        self._stepped += 1
        return stream

    def _begin(self, scheduler: Any) -> None:
        """Begin a step."""
        self._is_first_step = not self.known
        if self._stepped < len(self.known):
            raise several_clocks(f"{len(self.known)} latents at the first step, and {self._stepped} now")
        self._stepped = 0
        if len(self.known) == 1:  # a copy may go on where its original stopped
            self.known[0].scheduler = scheduler

    def stepped_again(self, scheduler: Any) -> RunError:
        """Make the error for a scheduler that steps twice after the denoiser was called."""
        return RunError(
            "this pipeline makes several steps of its sampler for each call of its denoiser, and no output could be "
            "predicted for those between",
            given=f"{type(scheduler).__name__}, stepped twice",
            cure="It cannot be cached: call ertacache.disable(pipe).",
        )


def by_sample(latent: Tensor) -> Tensor:
    """The elements of each sample, (samples, elements); a packed sequence of (rows, channels) is one sample.

    Args:
        latent: (batch, ...), or (rows, channels) as MiniMax-H3 packs them.
    """
    return latent.flatten(1) if latent.ndim > 2 else latent.reshape(1, -1)


def several_clocks(given: str) -> RunError:
    """Make the error for latents that are not stepped together."""
    return RunError(
        "this pipeline denoises each frame, or each part, at a noise level of its own (as diffusion forcing does); a "
        "step cannot be skipped for all of them at once",
        given=given,
        cure="If it can also denoise all frames together, as with SkyReels' ar_step=0, do that; else call "
        "ertacache.disable(pipe).",
    )


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.device == other.device and torch.equal(one, other.to(one.dtype))
