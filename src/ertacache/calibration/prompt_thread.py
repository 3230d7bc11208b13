"""One prompt's pipeline call in a thread of its own, which stops at every step boundary."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ertacache.runtime.driver import Driver, Step, Stop
from ertacache.runtime.randomness import RandomState
from ertacache.runtime.repeatable_call import Call, twin_of
from ertacache.runtime.run import Run


class PromptThread(Driver):
    """One prompt's thread, which runs only between `resume` and the next step boundary. Also its run's driver.

    Args:
        number: the number of the prompt.
        pipe: the pipeline; the thread runs a twin of it.
        call: the call of the prompt.
        is_cached, prepare, residuals_kept, block_factors: see `ertacache.calibration.lockstep.Lockstep`; steps count
            from the first one of the grid.

    Attributes:
        outputs: the latent after the last step made, by stream.
        result: what the call returned; None before it has returned.
        random: the global random state with which the call continues.
        runs: whether the thread is running now.
    """

    def __init__(
        self,
        number: int,
        pipe: Any,
        call: Call,
        is_cached: Callable[[int], bool],
        prepare: Callable[[Any], Sequence[float] | None],
        residuals_kept: int,
        block_factors: Callable[[int], Sequence[float]],
    ) -> None:
        self.number, self.residuals_kept = number, residuals_kept
        self._is_cached, self._prepare, self._block_factors = is_cached, prepare, block_factors
        self.outputs: dict[int, Tensor] = {}
        self.result: Any = None
        self._run = Run(twin_of(pipe, decodes=call.decodes), self)
        self._twin, self._call = self._run.pipe, call
        self._go, self._arrived = threading.Semaphore(0), threading.Semaphore(0)
        self._step: Step | None = None
        self._reply: Tensor | None = None
        self._error: BaseException | None = None
        self.random = call.random
        self.runs = False
        self._settings, self._context = _thread_settings(), contextvars.copy_context()
        self._thread = threading.Thread(
            target=self._context.run, args=(self._make_call,), name=f"ertacache-prompt-{number}", daemon=True
        )

    @property
    def denoiser_calls(self) -> int:
        """The number of denoiser calls of this prompt so far."""
        return self._run.report.denoiser_calls

    def resume(self, reply: Tensor | None) -> Step | None:
        """Let the thread run to its next step boundary.

        Args:
            reply: the model output with which the call continues; None the first time.

        Returns:
            The step at that boundary; None if the call has returned.
        """
        self._step, self._reply = None, reply
        with self.random.lent():
            self.runs = True
            if self._thread.ident is None:
                self.unload()
                self._thread.start()
            else:
                self._go.release()
            self._arrived.acquire()
            self.runs = False
            self.random = RandomState.current()
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        return self._step

    def replace_newest_residuals(self, residuals: Sequence[Tensor]) -> None:
        """See `ertacache.calibration.lockstep.Lockstep.replace_newest_residuals`."""
        for history, residual in zip(self._run.residuals.values(), residuals, strict=True):
            history.entries[0] = residual

    def unload(self) -> None:
        """Move all models of a pipeline with model offloading off the device, as the pipeline does when a call ends.

        A call begins with the text encoders and expects no later model on the device. But other prompts are in the
        middle of their calls, and have the denoiser on it.
        """
        if hasattr(self._twin, "maybe_free_model_hooks"):
            self._twin.maybe_free_model_hooks()

    def abandon(self) -> None:
        """End the thread; if it is in the middle of its call, at the next seam it comes to."""
        if self._thread.is_alive():
            self._run.ended = self._run.ended or Stop()
            self._go.release()
            self._thread.join()

    def _make_call(self) -> None:
        try:
            with ExitStack() as stack:
                for setting in self._settings:
                    stack.enter_context(setting)
                with self._run:
                    self.result = self._run.call(**self._call.arguments())
        except Stop:
            pass
        except BaseException as error:
            self._error = error
        finally:
            self._step = None
            self._arrived.release()

    # The driver of this prompt's run.

    def open_segment(self, scheduler: Any) -> Sequence[float] | None:
        return self._prepare(scheduler)

    def is_cached(self, step: int) -> bool:
        return self._is_cached(step)

    def block_factors(self, step: int) -> Sequence[float]:
        return self._block_factors(step)

    def model_output(self, step: Step) -> Tensor:
        # A copy: the other prompts' denoiser calls come next, and may write into the same buffer.
        self._step = replace(step, arguments={**step.arguments, "model_output": step.model_output.detach().clone()})
        self._arrived.release()
        self._go.acquire()
        if self._run.ended is not None:
            raise self._run.ended
        assert self._reply is not None  # set by `resume`
        return self._reply

    def stepped(self, index: int, sample: Tensor, stream: int) -> None:
        self.outputs[stream] = sample


def _thread_settings() -> list[AbstractContextManager[Any]]:
    """Copy the settings that torch keeps for each thread: gradients, autocast, default device, CUDA stream.

    Full runs are recorded in the caller's thread and closed loops run in other threads; both must compute alike.
    """
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    kinds = ["cpu", *([accelerator.type] if accelerator else [])]
    settings: list[AbstractContextManager[Any]] = [
        torch.autocast(
            kind,
            dtype=torch.get_autocast_dtype(kind),
            enabled=torch.is_autocast_enabled(kind),
            cache_enabled=torch.is_autocast_cache_enabled(),
        )
        for kind in kinds
    ]
    if torch.is_inference_mode_enabled():
        settings.append(torch.inference_mode())
    settings.append(torch.enable_grad() if torch.is_grad_enabled() else torch.no_grad())
    if torch.get_default_device() != torch.device("cpu"):
        settings.append(torch.get_default_device())
    if torch.cuda.is_available():
        settings += [torch.cuda.device(torch.cuda.current_device()), torch.cuda.stream(torch.cuda.current_stream())]
    return settings
