"""Run all prompts side by side through the unchanged pipeline, so that a step can be solved for all of them.

Each prompt has a thread and a twin of the pipeline with its own scheduler. Exactly one thread runs at a time;
each stops at every step boundary until all have come there. What happens then is up to the loop over the
`Lockstep`: it sees every prompt's sample and model output, and says with which output each goes on.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from ertacache.errors import CalibrationError
from ertacache.runtime.calls import Call, twin_of
from ertacache.runtime.driver import Driver, Step, Stop
from ertacache.runtime.preserving import preserved, to_the_end
from ertacache.runtime.randomness import RandomState
from ertacache.runtime.run import Run


@dataclass
class Arrival:
    """One prompt at a step boundary. Set ``reply`` to the model output it shall go on with.

    ``index`` is the step's, counted from the first step that the calls make. ``random`` is the global random state that
    its call goes on with.
    """

    prompt: int
    index: int
    step: Step
    reply: Tensor
    random: RandomState


class Lockstep:
    """Iterate over the steps of all prompts: each item is the list of their arrivals at one step.

    A context manager: on exit, calls that have not returned are ended, and what they leave on the pipeline is put back.

    Args:
        pipe: the pipeline; left as it was found.
        calls: one for each prompt.
        is_cached: the steps at which the denoiser is skipped.
        prepare: called with the scheduler when ``set_timesteps`` has returned; the noise levels if it retimes it.
        first_step: the step of the grid that the calls make first; ``is_cached``, ``block_factors`` and the arrivals
            count from there.
        residuals_kept, block_factors: see `ertacache.runtime.run.Driver`.
        on_denoiser_call: called with the number of denoiser calls that the last step took, for progress bars.

    Attributes:
        outputs: for each prompt, the latent after the last step made.
        denoiser_calls: over all prompts.
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
        self._workers = [
            _Worker(
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

    @property
    def outputs(self) -> list[Tensor | None]:
        """For each prompt, the latent after the last step it made."""
        return [worker.output for worker in self._workers]

    @property
    def denoiser_calls(self) -> int:
        """The denoiser calls of all prompts so far."""
        return sum(worker.denoiser_calls for worker in self._workers)

    @property
    def results(self) -> list[Any]:
        """For each prompt, what its call returned; None before it has."""
        return [worker.result for worker in self._workers]

    def lend(self, residuals: Sequence[Sequence[Tensor]]) -> None:
        """At level ``hidden``, put other residuals of the blocks, one row a prompt, in place of the newest kept."""
        for worker, row in zip(self._workers, residuals, strict=True):
            worker.lend(row)

    def __enter__(self) -> Self:
        self._stack.enter_context(preserved(self._pipe))
        self._stack.callback(to_the_end, self._abandon)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _abandon(self) -> None:
        for worker in sorted(self._workers, key=lambda worker: not worker.runs):  # an interrupt leaves one running
            worker.abandon()
        self._workers[0].unload()

    def __iter__(self) -> Iterator[list[Arrival]]:
        replies: list[Tensor | None] = [None] * len(self._workers)
        while True:
            arrivals = []
            for worker, reply in zip(self._workers, replies, strict=True):
                before = worker.denoiser_calls
                step = worker.resume(reply)
                self._on_denoiser_call(worker.denoiser_calls - before)
                if step is not None:
                    index = step.index - self._first_step
                    arrivals.append(Arrival(worker.number, index, step, step.model_output, worker.random))
            if not arrivals:
                return
            if len(arrivals) < len(self._workers) or len({a.index for a in arrivals}) > 1:
                raise CalibrationError(
                    "the prompts do not make the same steps",
                    given=f"prompts {[a.prompt for a in arrivals]} are at steps {[a.index for a in arrivals]}",
                    cure="Give all prompts the same num_inference_steps, strength and callbacks.",
                )
            yield arrivals
            replies = [arrival.reply for arrival in arrivals]


def _thread_settings() -> list[AbstractContextManager[Any]]:
    """What torch keeps for each thread, as it is in this one: full runs are recorded here, closed loops elsewhere."""
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


class _Worker(Driver):
    """One prompt's thread, which runs only between `resume` and the next step boundary. Also its run's driver."""

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
        self.output: Tensor | None = None
        self.result: Any = None
        self._run = Run(twin_of(pipe), self)
        self._twin, self._call = self._run.pipe, call
        self._go, self._arrived = threading.Semaphore(0), threading.Semaphore(0)
        self._step: Step | None = None
        self._reply: Tensor | None = None
        self._error: BaseException | None = None
        self.random = call.random
        self.runs = False
        self._settings, self._context = _thread_settings(), contextvars.copy_context()
        self._thread = threading.Thread(
            target=self._context.run, args=(self._body,), name=f"ertacache-prompt-{number}", daemon=True
        )

    @property
    def denoiser_calls(self) -> int:
        return self._run.report.denoiser_calls

    def resume(self, reply: Tensor | None) -> Step | None:
        """Let the thread run to its next step boundary; None when its call has returned."""
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

    def lend(self, residuals: Sequence[Tensor]) -> None:
        """See `Lockstep.lend`."""
        for history, residual in zip(self._run.residuals.values(), residuals, strict=True):
            history.entries[0] = residual

    def unload(self) -> None:
        """Let a pipeline with model offloading move all its models away, as it does itself when a call ends.

        A call begins with the text encoders, and expects none of the later models beside them; the other prompts
        stand in the middle of theirs.
        """
        if hasattr(self._twin, "maybe_free_model_hooks"):
            self._twin.maybe_free_model_hooks()

    def abandon(self) -> None:
        """End the thread, in the middle of its call if need be: at whichever seam it comes to next."""
        if self._thread.is_alive():
            self._run.ended = self._run.ended or Stop()
            self._go.release()
            self._thread.join()

    def _body(self) -> None:
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

    def stepped(self, index: int, sample: Tensor) -> None:
        self.output = sample
