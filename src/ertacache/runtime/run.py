"""A run: one call of a pipeline, in which each denoiser call and each scheduler step passes through this library.

Denoiser calls pass the gate (`ertacache.runtime.gate`), scheduler calls the scheduler seam. The run keeps track of the
current step, of the denoiser calls that make up a step, and of their last results. An
`ertacache.runtime.driver.Driver` decides which steps to skip, and what replaces their model output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from torch import Tensor, nn

from ertacache.errors import ERTACacheError, PipelineError, RunError
from ertacache.method.history import History
from ertacache.runtime import gate
from ertacache.runtime.callbacks import with_watched_callbacks
from ertacache.runtime.denoisers import check_attention, controls_of, denoisers_of
from ertacache.runtime.driver import Driver, Step, Stop
from ertacache.runtime.kept_outputs import DenoiserCalls
from ertacache.runtime.report import Report
from ertacache.runtime.scheduler_seam import SchedulerSeam
from ertacache.runtime.scheduler_step import landed
from ertacache.runtime.schedulers import sampler_of
from ertacache.runtime.step_index import index_of
from ertacache.runtime.streams import Stream, Streams, several_clocks
from ertacache.runtime.unwrap import own_class

PATIENCE = 100
"""How often the error that ended a run is raised again if the pipeline catches it; some would retry for ever."""


class Run:
    """A context manager around one pipeline call, in one thread; it installs gates and seam, and removes them on exit.

    An error of this library that is raised at a gate or the seam ends the run. If the pipeline catches it, it is
    raised again at the next `PATIENCE` calls there. After that the pipeline runs as if there were no run, and the error
    is raised on exit.

    Args:
        pipe: a diffusers pipeline.
        driver: decides which steps to skip, and what replaces their model output.
        report: filled with what the run does; by default a new one.

    Attributes:
        ended: the error that has ended the run, or that is to end it at the next gate or seam; None while it runs.

    Raises:
        PipelineError: if the pipeline has no denoiser, or its scheduler is not supported.
        RunError: on exit, if the denoiser ran but the scheduler never stepped; within, if the pipeline does what no
            cache can follow.
    """

    def __init__(self, pipe: Any, driver: Driver, report: Report | None = None) -> None:
        self.pipe, self.driver, self.report = pipe, driver, report or Report()
        self.ended: BaseException | None = None
        self._ignored = 0
        denoisers = list(denoisers_of(pipe).values())
        # What a ControlNet gives is for a denoiser only; at level hidden that runs at cached steps, and needs it.
        self._modules = [*denoisers, *(() if driver.residuals_kept else controls_of(pipe).values())]
        self._streams = Streams(pipe.scheduler)
        self._seam = SchedulerSeam(
            pipe, {"step": self._at_seam(self._make_step), "set_timesteps": self._at_seam(self._lay_grid)}
        )
        self._calls = DenoiserCalls(denoisers, driver.residuals_kept)
        self._aside = False  # whether a callback is running
        self._conditions = 0  # how often a callback has changed more than the latent
        self._next_step: int | None = None
        self._computed = True  # whether the denoiser ran for the step whose boundary is the latest
        self._levels: Sequence[float] | None = None  # the noise levels, if the grid was retimed

    @property
    def residuals(self) -> Mapping[Any, History]:
        """At level ``hidden``: the blocks' residuals at the last computed steps, by denoiser call."""
        return self._calls.residuals

    def __enter__(self) -> Self:
        self._seam.install()
        try:
            self._seam.watch_patches()
            if "step" in self._seam.patched:
                self.report.note(
                    "the scheduler's step() is patched on the object; whether it was in calibration is not known"
                )
            for module in self._modules:
                gate.install(module, self)
            self._calls.install()
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()
        ended, self.ended = self.ended, None  # its traceback keeps the call's objects alive
        if kind is None and ended is not None:
            raise ended
        steps = len(self.report.computed_steps) + len(self.report.cached_steps)
        if kind is None and self.report.denoiser_calls and not steps:
            raise RunError(
                "this pipeline does not sample step by step with its scheduler: the denoiser ran, but the scheduler's "
                "step() was never called",
                given=type(self._seam.scheduler).__name__,
                cure="Accelerate the inner pipeline instead (such as pipe.decoder_pipe); if there is none, this "
                "pipeline cannot be cached.",
            )

    def _leave(self) -> None:
        for module in self._modules:
            gate.remove(module, self)
        self._seam.remove()
        self._calls.remove()
        self._streams.forget()

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """Make the pipeline's own call, with its callbacks watched; only inside this context."""
        args, kwargs = with_watched_callbacks(self.pipe, args, kwargs, self._conditions_changed, self._in_callback)
        own: Any = own_class(self.pipe)
        return own.__call__(self.pipe, *args, **kwargs)

    @contextmanager
    def _in_callback(self) -> Iterator[None]:
        """Let denoiser calls that a callback makes, for instance by another pipeline, pass without this run."""
        self._aside = True
        try:
            yield
        finally:
            self._aside = False

    def _conditions_changed(self, what: str) -> None:
        self._conditions += 1
        self.driver.conditions_changed((self._next_step or 0), what)

    def _at_seam(self, seen: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap ``seen(thing, method, args, kwargs)`` so that an error of this library ends the run.

        Once the run has ended, calls raise its error; beyond `PATIENCE`, they go to the method alone.
        """

        def through(thing: Any, method: Callable[..., Any], args: Any, kwargs: Any) -> Any:
            if self.ended is not None:
                self._ignored += 1
                if self._ignored <= PATIENCE:
                    raise self.ended
                return method(*args, **kwargs)
            try:
                return seen(thing, method, args, kwargs)
            except (ERTACacheError, Stop) as error:
                self.ended = error
                raise

        return through

    # The gate.

    def denoise(self, module: nn.Module, call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Call the denoiser, or a ControlNet, at a computed step; return the kept result at a cached step.

        The first call of a step decides for the whole step: it is cached if the driver says so and the last computed
        step had the same call (same module, same shapes).

        A later call that differs from the last computed step's is made, though its result is not used.
        """
        if self._aside:
            return call(*args, **kwargs)
        return self._at_seam(self._denoised)(module, call, args, kwargs)

    def _denoised(self, module: nn.Module, call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        key = (id(module), self._calls.made, gate.shapes((args, kwargs)), self._conditions)
        self._seam.check_not_replaced()
        if self._calls.made == 0:
            self._decide(key)
        self._calls.made += 1
        if not self._calls.cached:
            output = self._calls.computed(key, module, call, args, kwargs)
            self.report.denoiser_calls += self._calls.is_of_a_denoiser(key)
            return output
        if key not in self._calls:
            self._note_change()
            self.report.denoiser_calls += self._calls.is_of_a_denoiser(key)
            return call(*args, **kwargs)  # nothing is kept that has its shapes
        return self._calls.repeated(key, module, call, args, kwargs, self._block_factors)

    def _decide(self, key: Any) -> None:
        """Decide whether the step that begins with this call is cached."""
        wanted = self._next_step is not None and self.driver.is_cached(self._next_step)
        if wanted and key in self._calls:
            self._calls.cached = True
            if not self.report.cached_steps:
                check_attention(self._modules)
            return
        if wanted:
            self.report.note(
                f"step {self._next_step} was computed although the policy caches it: its denoiser call differs from "
                "the last computed step's (another expert, guidance switched off, other shapes); this costs time, not "
                "quality"
            )
        self._calls.begin_computed()

    def _note_change(self) -> None:
        self.report.note(
            f"at cached step {self._next_step} the pipeline began to make other calls of the denoiser (skip-layer "
            "guidance, or a guidance interval that begins or ends); this step was still predicted without the change; "
            "calibrated policies compute such a step"
        )

    def _block_factors(self) -> Sequence[float]:
        assert self._next_step is not None  # nothing is cached at the first step
        return self.driver.block_factors(self._next_step)

    # The step boundary.

    def _lay_grid(self, scheduler: Any, set_timesteps: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Call the scheduler's own ``set_timesteps``, and begin a new trajectory."""
        with self._seam.within():
            result = set_timesteps(*args, **kwargs)
        if not self._seam.is_beside(scheduler):
            self._open_segment(scheduler)
        return result

    def _open_segment(self, scheduler: Any) -> None:
        """Begin a new trajectory after ``set_timesteps``: all kept results belong to the old one."""
        self._calls.forget()
        self._next_step = None
        self._streams.forget()
        self._levels = self.driver.open_segment(scheduler)
        patched = "step" in self._seam.patched
        if patched and self._levels is not None and sampler_of(scheduler).warped_step is not None:
            raise PipelineError(
                "the policy adjusts timesteps, so a copy of this scheduler would step, without the patch on the object",
                given=f"{own_class(scheduler).__name__} with a step() that is patched on the object",
                cure="Put the patched step() into a subclass, or use a method without timestep adjustment.",
            )

    def _make_step(self, scheduler: Any, step: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Call the scheduler's own ``step`` with the model output that the driver decides on."""
        stream = self._streams.stepped_by(scheduler, self._calls.made > 0)
        if stream is None:
            raise self._unseen(scheduler)
        arguments = stream.step_call.arguments(args, kwargs)
        index = self._checked(stream, arguments)
        output = self._output_for(stream, index, arguments)
        warped_step = sampler_of(scheduler).warped_step if self._levels is not None else None
        with self._seam.within():
            if warped_step is not None and self._levels is not None:
                changed = arguments | {"model_output": output}
                result = warped_step(scheduler, own_class(scheduler), changed, index, self._levels)
            else:
                args, kwargs = stream.step_call.with_output(args, kwargs, output)
                result = step(*args, **kwargs)
        latent = landed(result)
        stream.landed(latent)
        self.driver.stepped(index, latent, stream.number)
        return result

    def _output_for(self, stream: Stream, index: int, arguments: Mapping[str, Any]) -> Tensor:
        """Ask the driver for the model output, and count the step."""
        calls = self._calls
        if stream.number == 0:
            self._computed = not calls.cached
        residuals = calls.newest_residuals()
        step = Step(
            index,
            arguments,
            self._computed,
            calls.pattern,
            stream.scheduler,
            calls.outputs,
            residuals,
            stream.number,
        )
        output = self.driver.model_output(step)
        if stream.number == 0:
            (self.report.computed_steps if step.computed else self.report.cached_steps).append(index)
            self._next_step = index + 1
            calls.begin_step()
        return output

    def _checked(self, stream: Stream, arguments: Mapping[str, Any]) -> int:
        """Check that this step can be handled, and find its index.

        Raises:
            RunError: if it cannot.
        """
        stream.check(arguments)
        if stream.number:
            assert self._next_step is not None  # the first stream has made this step
            index = index_of(stream.scheduler, arguments["timestep"], self._next_step - 1)
            if index != self._next_step - 1:
                raise several_clocks(f"steps {self._next_step - 1} and {index} after one call of the denoiser")
            return index
        index = index_of(stream.scheduler, arguments["timestep"], self._next_step)
        if self._next_step is not None and index < self._next_step:
            raise RunError(
                f"the pipeline repeats step {index} (tiled or panorama views, or resampling), and such sampling "
                "cannot be cached",
                given=f"step {index} after step {self._next_step - 1}",
                cure="Call ertacache.disable(pipe).",
            )
        if self._calls.cached and index != self._next_step:
            raise RunError(
                f"at cached step {self._next_step} the pipeline went to another step",
                given=f"step {index}",
                cure="Calibrate with exactly this call's arguments; if it still happens, this pipeline cannot be "
                "cached: call ertacache.disable(pipe).",
            )
        if self._calls.cached and self._calls.made < len(self._calls):
            self._note_change()
        return index

    def _unseen(self, scheduler: Any) -> RunError:
        """Make the error for a scheduler that steps though no denoiser call was seen."""
        for name, module in denoisers_of(self.pipe).items():
            if all(module is not known for known in self._modules):
                return RunError(
                    f"pipe.{name} was replaced in the middle of the call, and the new one is not watched",
                    given=type(module).__name__,
                    cure="Replace it before or after a call.",
                )
        if self._streams.known:
            return self._streams.stepped_again(scheduler)
        return RunError(
            "scheduler.step() was called, but no call of the denoiser was seen before it",
            given=f"watched: {', '.join(f'pipe.{name}' for name in denoisers_of(self.pipe))}",
            cure="The pipeline calls its denoiser's forward() directly, and cannot be cached: call "
            "ertacache.disable(pipe).",
        )
