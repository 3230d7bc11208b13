"""A run: one call of a pipeline, from entry to exit, seen through the gate and the step boundary.

The run knows where in the sampling it stands, which denoiser calls make up a step, and what they last returned.
What to skip, and what a skipped step's model output is, a `ertacache.runtime.driver.Driver` says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from ertacache.errors import ERTACacheError, PipelineError, RunError
from ertacache.method.history import History
from ertacache.runtime import gate
from ertacache.runtime.callbacks import with_watched_callbacks
from ertacache.runtime.denoiser_calls import DenoiserCalls
from ertacache.runtime.denoisers import check_attention, denoisers_of
from ertacache.runtime.driver import Driver, Step, Stop
from ertacache.runtime.report import Report
from ertacache.runtime.scheduler_probe import StepCall, landed
from ertacache.runtime.scheduler_seam import SchedulerSeam
from ertacache.runtime.schedulers import sampler_of
from ertacache.runtime.step_index import index_of
from ertacache.runtime.unwrap import own_class

PATIENCE = 100
"""So often what ended a run is raised again where the call goes on; then the call goes on: some try for ever."""


class Run:
    """A context manager around one pipeline call, in one thread. Outside of it both seams are gone.

    An error of the library, raised at a seam, ends the run. A pipeline that catches it and goes on meets it again at
    the seams to come; in the end it is let go on as if there were no run, and the error comes when its call returns.

    Args:
        pipe: a diffusers pipeline.
        driver: who decides.
        report: is filled with what the run does.

    Attributes:
        ended: what has ended the run, or is to end it at the next seam.
    """

    def __init__(self, pipe: Any, driver: Driver, report: Report | None = None) -> None:
        self.pipe, self.driver, self.report = pipe, driver, report or Report()
        self.ended: BaseException | None = None
        self._ignored = 0
        self._modules = list(denoisers_of(pipe).values())
        self._step_call = StepCall.of(pipe.scheduler)
        self._seam = SchedulerSeam(
            pipe, {"step": self._at_seam(self._make_step), "set_timesteps": self._at_seam(self._lay_grid)}
        )
        self._calls = DenoiserCalls(self._modules, driver.residuals_kept)
        self._aside = False  # whether a callback is under way
        self._conditions = 0  # counts how often a callback has changed them
        self._next_step: int | None = None
        self._levels: Sequence[float] | None = None  # of the grid, where it was retimed
        self._latest: Tensor | None = None  # the latent after the first step, where arguments are told by their places

    @property
    def residuals(self) -> Mapping[Any, History]:
        """At level ``hidden``, those of the blocks at the last computed steps, by denoiser call."""
        return self._calls.residuals

    def __enter__(self) -> Self:
        self._seam.install()
        try:
            self._seam.watch_patches()
            if "step" in self._seam.patched:
                self.report.note(
                    "the scheduler's step() is patched on the object, and no policy knows what that changes"
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
        ended, self.ended = self.ended, None  # its traceback holds what the call held
        if kind is None and ended is not None:
            raise ended
        steps = len(self.report.computed_steps) + len(self.report.cached_steps)
        if kind is None and self.report.denoiser_calls and not steps:
            raise RunError(
                "the denoiser ran, but the scheduler's step() was never called",
                given=type(self._seam.scheduler).__name__,
                cure="This pipeline samples without its scheduler, or in a pipeline within it: accelerate that one.",
            )

    def _leave(self) -> None:
        for module in self._modules:
            gate.remove(module, self)
        self._seam.remove()
        self._calls.remove()
        self._latest = None

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """Make the pipeline's own call, its callbacks watched; only within this context."""
        args, kwargs = with_watched_callbacks(self.pipe, args, kwargs, self._conditions_changed, self._in_callback)
        own: Any = own_class(self.pipe)
        return own.__call__(self.pipe, *args, **kwargs)

    @contextmanager
    def _in_callback(self) -> Iterator[None]:
        """A callback may call the denoiser, by a pipeline of its own: that is no call of this run's."""
        self._aside = True
        try:
            yield
        finally:
            self._aside = False

    def _conditions_changed(self, what: str) -> None:
        self._conditions += 1
        self.driver.conditions_changed((self._next_step or 0), what)

    def _at_seam(self, seen: Callable[..., Any]) -> Callable[..., Any]:
        """``seen(thing, method, args, kwargs)``, or the method alone where what ended the run is ignored."""

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
        """Call the denoiser at a computed step; hand back what was kept at a cached one.

        The first call of a step decides for all of it: cached if the driver says so and the call is the one that
        the last computed step began with (same module, same shapes).
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
            self.report.denoiser_calls += 1
            return output
        if key not in self._calls:
            raise RunError(
                f"step {self._next_step} is cached, but its call {self._calls.made} differs from the last computed "
                "step's",
                given=f"shapes {key[2]}",
                cure="Calibrate with the guidance settings of this call, so that this step is computed.",
            )
        return self._calls.repeated(key, module, call, args, kwargs, self._block_factors)

    def _decide(self, key: Any) -> None:
        """Whether the step that begins with this call is cached."""
        wanted = self._next_step is not None and self.driver.is_cached(self._next_step)
        if wanted and key in self._calls:
            self._calls.cached = True
            if not self.report.cached_steps:
                check_attention(self._modules)
            return
        if wanted:
            self.report.note(f"step {self._next_step} was computed: its denoiser call differs from the last one kept")
        self._calls.begin_computed()

    def _block_factors(self) -> Sequence[float]:
        assert self._next_step is not None  # nothing is cached at the first step
        return self.driver.block_factors(self._next_step)

    # The step boundary.

    def _lay_grid(self, scheduler: Any, set_timesteps: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Let the scheduler lay a grid, by its own ``set_timesteps``, and begin anew on it."""
        with self._seam.within():
            result = set_timesteps(*args, **kwargs)
        self._open_segment(scheduler)
        return result

    def _open_segment(self, scheduler: Any) -> None:
        """``set_timesteps`` was called: whatever was kept belongs to another trajectory."""
        self._calls.forget()
        self._next_step = None
        self._latest = None
        self._levels = self.driver.open_segment(scheduler)
        patched = "step" in self._seam.patched
        if patched and self._levels is not None and sampler_of(scheduler).warped_step is not None:
            raise PipelineError(
                "the policy adjusts timesteps, for which a copy of this scheduler steps, without what is patched on it",
                given=f"{own_class(scheduler).__name__} with a step() of the object's own",
                cure="Put the patched step() into a subclass, or use a method without timestep adjustment.",
            )

    def _make_step(self, scheduler: Any, step: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Let the scheduler, by its own ``step``, step with the model output that the driver wants."""
        arguments, first = self._step_call.arguments(args, kwargs), self._next_step is None
        index = self._checked(scheduler, arguments)
        output = self._output_for(index, scheduler, arguments)
        warped_step = sampler_of(scheduler).warped_step if self._levels is not None else None
        with self._seam.within():
            if warped_step is not None and self._levels is not None:
                changed = arguments | {"model_output": output}
                result = warped_step(scheduler, own_class(scheduler), changed, index, self._levels)
            else:
                args, kwargs = self._step_call.with_output(args, kwargs, output)
                result = step(*args, **kwargs)
        latent = landed(result)
        self._latest = latent if first and self._step_call.guessed else None
        self.driver.stepped(index, latent)
        return result

    def _output_for(self, index: int, scheduler: Any, arguments: Mapping[str, Any]) -> Tensor:
        """The model output that the driver wants; the step is counted."""
        calls = self._calls
        residuals = calls.newest_residuals()
        step = Step(index, arguments, not calls.cached, calls.pattern, scheduler, calls.outputs, residuals)
        output = self.driver.model_output(step)
        (self.report.computed_steps if step.computed else self.report.cached_steps).append(index)
        self._next_step = index + 1
        calls.begin_step()
        return output

    def _checked(self, scheduler: Any, arguments: Mapping[str, Any]) -> int:
        """The step's index, where this is a step that can be served."""
        if self._calls.made == 0:
            raise self._unseen()
        self._step_call.check(scheduler, arguments)
        output, sample, timestep = (arguments[name] for name in ("model_output", "sample", "timestep"))
        if self._latest is not None and _equal(output, self._latest) and not _equal(sample, self._latest):
            raise self._step_call.misread(scheduler, arguments)
        if not sample.is_floating_point():
            raise RunError(
                "this model samples tokens: between two of them there is nothing to predict",
                given=f"a sample of {sample.dtype}",
                cure="It cannot be cached; disable acceleration.",
            )
        index = index_of(scheduler, timestep, self._next_step)
        if self._next_step is not None and index < self._next_step:
            raise RunError(
                f"step {index} is made again after step {self._next_step - 1}",
                given=f"timestep {timestep}",
                cure="The pipeline denoises several latents a step or goes back to noisier ones; disable acceleration.",
            )
        if self._calls.cached and (index != self._next_step or self._calls.made != len(self._calls)):
            raise RunError(
                f"step {self._next_step} was cached, but the pipeline makes of it step {index} with {self._calls.made} "
                f"denoiser calls, where {len(self._calls)} were kept",
                given=f"timestep {timestep}",
                cure="Calibrate with the guidance settings of this call, so that this step is computed.",
            )
        return index

    def _unseen(self) -> RunError:
        """Why the scheduler steps though no call of a denoiser was seen."""
        for name, module in denoisers_of(self.pipe).items():
            if all(module is not known for known in self._modules):
                return RunError(
                    f"pipe.{name} was replaced in the middle of the call, and the new one is not watched",
                    given=type(module).__name__,
                    cure="Replace it between two calls.",
                )
        seen = " since the last step" if len(self._calls) else ""
        return RunError(
            f"the scheduler steps, but no call of the denoiser was seen{seen}",
            given=f"{len(self._modules)} denoisers watched",
            cure="The pipeline calls its denoiser's forward() directly, or steps several latents after one call, "
            "and cannot be cached; disable acceleration.",
        )


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.device == other.device and torch.equal(one, other.to(one.dtype))
