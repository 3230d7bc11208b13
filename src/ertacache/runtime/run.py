"""A run: one call of a pipeline, from entry to exit, seen through the gate and the step boundary.

The run knows where in the sampling it stands, which denoiser calls make up a step, and what they last returned.
What to skip, and what a skipped step's model output is, a `Driver` says: a policy's, or calibration's.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from ertacache.errors import ERTACacheError, PipelineError, RunError
from ertacache.method.history import History
from ertacache.runtime import gate
from ertacache.runtime.callbacks import with_watched_callbacks
from ertacache.runtime.guard import DraftReport, GuardReport
from ertacache.runtime.hidden import Stack
from ertacache.runtime.samplers import sampler_of
from ertacache.runtime.seams import PatchedSeam, Through, become, guise_of, model_of, own_class, patched_on
from ertacache.runtime.stepping import StepCall, landed

DENOISERS = ("transformer", "transformer_2", "unet", "denoiser")


@dataclass(frozen=True)
class Step:
    """One step at its boundary: the arguments of ``scheduler.step`` and how they came about.

    ``outputs`` are what the denoiser returned, call by call, at the last computed step (None at level ``hidden``), and
    ``residuals`` those of the blocks, at level ``hidden``.
    """

    index: int
    arguments: Mapping[str, Any]
    computed: bool
    pattern: tuple[Any, ...]
    scheduler: Any
    outputs: tuple[Any, ...] = ()
    residuals: tuple[Tensor, ...] = ()

    @property
    def sample(self) -> Tensor:
        """``x_i``."""
        return cast(Tensor, self.arguments["sample"])

    @property
    def model_output(self) -> Tensor:
        """``v_i``, as the pipeline gives it."""
        return cast(Tensor, self.arguments["model_output"])

    @property
    def denoiser_calls(self) -> int:
        """How many denoiser calls make up the step."""
        return len(self.pattern)


class Driver:
    """Who decides in a run; this one computes every step and changes nothing.

    Attributes:
        residuals_kept: at level ``hidden``, of how many computed steps the residuals of the blocks are kept; cached
            steps then run the denoiser without its blocks. 0 at the other levels.
    """

    residuals_kept: int = 0

    def open_segment(self, scheduler: Any) -> Sequence[float] | None:
        """``set_timesteps`` has returned: check the grid, forget the history; the noise levels if it was retimed."""
        return None

    def is_cached(self, step: int) -> bool:
        """Whether the denoiser is to be skipped at this step."""
        return False

    def block_factors(self, step: int) -> Sequence[float]:
        """At level ``hidden``, the factors of the kept residuals of the blocks, newest first."""
        return (1.0,)

    def model_output(self, step: Step) -> Tensor:
        """What ``scheduler.step`` is given; the step's own model output, untouched, where nothing is to change."""
        return step.model_output

    def conditions_changed(self, step: int, what: str) -> None:
        """A callback has changed something besides the latent, before this step."""

    def stepped(self, index: int, sample: Tensor) -> None:
        """The step is made: the next latent, as the scheduler returned it."""


@dataclass
class Report:
    """What a run did.

    Args:
        computed_steps: the steps at which the denoiser ran, in order; a call with two segments lists both.
        cached_steps: the steps at which it did not.
        denoiser_calls: how often it ran in all.
        notes: where the run left the policy, and why.
        guard: what the guard saw, if there was one.
        draft: what its draft tells, if one was made.
    """

    computed_steps: list[int] = field(default_factory=list)
    cached_steps: list[int] = field(default_factory=list)
    denoiser_calls: int = 0
    notes: list[str] = field(default_factory=list)
    guard: GuardReport | None = None
    draft: DraftReport | None = None

    def note(self, text: str) -> None:
        """Add a note, once."""
        if text not in self.notes:
            self.notes.append(text)

    def __str__(self) -> str:
        total = len(self.computed_steps) + len(self.cached_steps)
        lines = [f"{len(self.computed_steps)} of {total} steps computed, {self.denoiser_calls} denoiser calls"]
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join([*lines, *(str(told) for told in (self.guard, self.draft) if told)])


def denoisers_of(pipe: Any) -> dict[str, nn.Module]:
    """The pipeline's denoisers by attribute name: those of the usual names, and all others that take a timestep.

    A ControlNet takes one too, but what it returns is for a denoiser alone.

    Raises:
        PipelineError: if it has none.
    """
    named = {name: getattr(pipe, name, None) for name in DENOISERS}
    attributes = getattr(pipe, "__dict__", {})
    others = {name: value for name, value in attributes.items() if isinstance(value, nn.Module) and _denoises(value)}
    modules = {name: module for name, module in (named | others).items() if isinstance(module, nn.Module)}
    if not modules:
        raise PipelineError(
            "this pipeline has no denoiser that can be cached",
            given=type(pipe).__name__,
            cure=f"A module named {', '.join(DENOISERS)} is needed, or one whose forward() takes a timestep.",
        )
    return modules


def loop_modules(pipe: Any) -> dict[str, nn.Module]:
    """All that runs in the sampling loop, by attribute name: the denoisers, and ControlNets beside them.

    Raises:
        PipelineError: if there is no denoiser.
    """
    attributes = getattr(pipe, "__dict__", {})
    others = {
        name: value
        for name, value in attributes.items()
        if isinstance(value, nn.Module) and not _parameters_of_module(value).isdisjoint(_CONDITIONS)
    }
    return denoisers_of(pipe) | others


def _denoises(module: nn.Module) -> bool:
    parameters = _parameters_of_module(module)
    return not parameters.isdisjoint(_TIMESTEPS) and parameters.isdisjoint(_CONDITIONS)


def _parameters_of_module(module: nn.Module) -> frozenset[str]:
    kind: Any = type(model_of(module))
    return _parameters_of(kind)


@functools.cache
def _parameters_of(kind: Any) -> frozenset[str]:
    return frozenset(inspect.signature(kind.forward).parameters)


_TIMESTEPS = frozenset({"timestep", "timesteps", "timestep_ratio", "t", "r"})
_CONDITIONS = frozenset({"controlnet_cond", "controls_latents", "control_context"})


def _check_attention(modules: Sequence[nn.Module]) -> None:
    """Raise `RunError` where the attention is the pipeline's own: it leaves behind what the pipeline reads."""
    for module in modules:
        for layer in module.modules():
            processor = vars(layer).get("processor") or layer._modules.get("processor")
            if type(processor).__module__.startswith("diffusers.pipelines."):
                raise RunError(
                    "the pipeline reads what its denoiser's attention leaves behind, and a cached step leaves nothing",
                    given=f"attention by {type(processor).__name__}",
                    cure="It cannot be cached; disable acceleration.",
                )


class Stop(BaseException):
    """A driver ends the pipeline call with it; no ``except Exception`` on the way stops it."""


PATIENCE = 100
"""So often what ended a run is raised again where the call goes on; then the call goes on: some try for ever."""


class Run:
    """A context manager around one pipeline call, in one thread. Outside of it both seams are gone.

    An error of the library, raised at a seam, ends the run. A pipeline that catches it and goes on meets it again at
    the seams to come; in the end it is let go on as if there were no run, and the error comes when its call returns.

    Attributes:
        ended: what has ended the run, or is to end it at the next seam.
    """

    def __init__(self, pipe: Any, driver: Driver) -> None:
        self.pipe, self.driver, self.report = pipe, driver, Report()
        self.ended: BaseException | None = None
        self.ignored = 0
        self.modules = list(denoisers_of(pipe).values())
        self.scheduler = pipe.scheduler
        self.step_call = StepCall.of(self.scheduler)
        self.thread = 0
        self.aside = False  # whether a callback is under way
        self.within = False  # whether a call of the scheduler is under way that the run has seen
        self.patched: dict[str, PatchedSeam] = {}
        self.latest: Tensor | None = None  # the latent after the first step, where arguments are told by their places
        self.next_step: int | None = None
        self.levels: Sequence[float] | None = None
        self.conditions = 0  # counts how often a callback has changed them
        self._begin_step()
        self.kept: dict[Any, Any] = {}
        self.stacks = {id(module): Stack(module) for module in self.modules} if driver.residuals_kept else {}
        self.residuals: dict[Any, History] = {}

    def __enter__(self) -> Self:
        with _entering:
            before = getattr(type(self.scheduler), "_ertacache_run", None)
            if before is not None and before.thread:  # or it is a copy made in an earlier run
                raise self._busy()
            become(self.scheduler, guise_of(self.scheduler, self._through, _ertacache_run=self))
            self.thread = threading.get_ident()
        try:
            self._watch_patches()
            for module in self.modules:
                gate.install(module, self)
            for stack in self.stacks.values():
                stack.install()
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
                given=type(self.scheduler).__name__,
                cure="This pipeline samples without its scheduler, or in a pipeline within it: accelerate that one.",
            )

    def _leave(self) -> None:
        for module in self.modules:
            gate.remove(module, self)
        for stack in self.stacks.values():
            stack.remove()
        for name, seam in self.patched.items():
            if vars(self.scheduler).get(name) is seam:  # or it was patched anew
                vars(self.scheduler)[name] = seam.patched
        with _entering:
            become(self.scheduler, own_class(self.scheduler))
            self.thread = 0  # a copy of the scheduler that outlives the run is inert
        self.kept.clear()
        self.residuals.clear()
        self.latest = None

    def _busy(self) -> RunError:
        return RunError(
            "this pipeline's scheduler is in the middle of another call",
            given=own_class(self.scheduler).__name__,
            cure="Give each thread a copy of the pipeline with its own scheduler.",
        )

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """Make the pipeline's own call, its callbacks watched; only within this context."""
        args, kwargs = with_watched_callbacks(self.pipe, args, kwargs, self._conditions_changed, self._in_callback)
        own: Any = own_class(self.pipe)
        return own.__call__(self.pipe, *args, **kwargs)

    @contextmanager
    def _in_callback(self) -> Iterator[None]:
        """A callback may call the denoiser, by a pipeline of its own: that is no call of this run's."""
        self.aside = True
        try:
            yield
        finally:
            self.aside = False

    def _conditions_changed(self, what: str) -> None:
        self.conditions += 1
        self.driver.conditions_changed((self.next_step or 0), what)

    def _begin_step(self) -> None:
        self.calls, self.cached = 0, False

    # The gate.

    def denoise(self, module: nn.Module, call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Call the denoiser at a computed step; hand back what was kept at a cached one.

        The first call of a step decides for all of it: cached if the driver says so and the call is the one that
        the last computed step began with (same module, same shapes).
        """
        if self.aside:
            return call(*args, **kwargs)
        return self._at_seam(lambda: self._denoised(module, call, args, kwargs), call, args, kwargs)

    def _at_seam(self, seen: Callable[[], Any], unseen: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """What comes of a call at a seam: with the run, or as without it where what ended the run is ignored."""
        if self.ended is not None:
            self.ignored += 1
            if self.ignored <= PATIENCE:
                raise self.ended
            return unseen(*args, **kwargs)
        try:
            return seen()
        except (ERTACacheError, Stop) as error:
            self.ended = error
            raise

    def _denoised(self, module: nn.Module, call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        key = (id(module), self.calls, gate.shapes((args, kwargs)), self.conditions)
        self._check_scheduler()
        if self.calls == 0:
            wanted = self.next_step is not None and self.driver.is_cached(self.next_step)
            self.cached = wanted and key in self.kept
            if wanted and not self.cached:
                self.report.note(
                    f"step {self.next_step} was computed: its denoiser call differs from the last one kept"
                )
            if not self.cached:
                self.kept.clear()
            elif not self.report.cached_steps:
                _check_attention(self.modules)
        self.calls += 1
        if self.cached:
            if key not in self.kept:
                raise RunError(
                    f"step {self.next_step} is cached, but its call {self.calls} differs from the last computed step's",
                    given=f"shapes {key[2]}",
                    cure="Calibrate with the guidance settings of this call, so that this step is computed.",
                )
            if self.stacks:
                assert self.next_step is not None  # nothing is cached at the first step
                factors = self.driver.block_factors(self.next_step)
                return self.stacks[id(module)].cached(call, args, kwargs, self.residuals[key].entries, factors)
            return gate.keep(self.kept[key])  # a copy: guidance may work in place, and the next cached step asks again
        if self.stacks:
            output, residual = self.stacks[id(module)].computed(call, args, kwargs)
            self.residuals.setdefault(key, History(self.driver.residuals_kept)).push(0, residual)
            self.kept[key] = None
        else:
            output = call(*args, **kwargs)
            self.kept[key] = gate.keep(output)
        self.report.denoiser_calls += 1
        return gate.keep(output)  # a copy: a CUDA graph's next run would overwrite what guidance and history hold

    # The step boundary.

    @property
    def _through(self) -> dict[str, Through]:
        """The second seam: the class of the scheduler, not the object, has it, so a copy made in a loop has it too."""
        return {"step": self._step_called, "set_timesteps": self._grid_called}

    def _watch_patches(self) -> None:
        """Put a seam at what is patched on the scheduler object too, which would hide that of the class."""
        for name, through in self._through.items():
            patched = patched_on(self.scheduler, name)
            if patched is not None:
                self.patched[name] = vars(self.scheduler)[name] = PatchedSeam(self.scheduler, patched, through)
        if "step" in self.patched:
            self.report.note("the scheduler's step() is patched on the object, and no policy knows what that changes")

    def _sees(self, scheduler: Any) -> bool:
        """Whether a call of the scheduler is the run's: of its thread, and not made by a call that it has seen."""
        if self.thread == threading.get_ident():
            return not self.within
        if self.thread and (scheduler is self.scheduler or scheduler is self.pipe.scheduler):  # that may be a copy
            raise self._busy()
        return False

    def _step_called(self, scheduler: Any, step: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if not self._sees(scheduler):
            return step(*args, **kwargs)
        return self._at_seam(lambda: self.make_step(scheduler, step, args, kwargs), step, args, kwargs)

    def _grid_called(self, scheduler: Any, set_timesteps: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if not self._sees(scheduler):
            return set_timesteps(*args, **kwargs)
        return self._at_seam(lambda: self.lay_grid(scheduler, set_timesteps, args, kwargs), set_timesteps, args, kwargs)

    def lay_grid(self, scheduler: Any, set_timesteps: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Let the scheduler lay a grid, by its own ``set_timesteps``, and begin anew on it."""
        self.within = True  # what the scheduler calls of itself meanwhile is its own affair
        try:
            result = set_timesteps(*args, **kwargs)
        finally:
            self.within = False
        self.open_segment(scheduler)
        return result

    def open_segment(self, scheduler: Any) -> None:
        """``set_timesteps`` was called: whatever was kept belongs to another trajectory."""
        self.kept.clear()
        self.residuals.clear()
        self.next_step = None
        self._begin_step()
        self.latest = None
        self.levels = self.driver.open_segment(scheduler)
        if "step" in self.patched and self.levels is not None and sampler_of(scheduler).warped_step is not None:
            raise PipelineError(
                "the policy adjusts timesteps, for which a copy of this scheduler steps, without what is patched on it",
                given=f"{own_class(scheduler).__name__} with a step() of the object's own",
                cure="Put the patched step() into a subclass, or use a method without timestep adjustment.",
            )

    def make_step(self, scheduler: Any, step: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Let the scheduler, by its own ``step``, step with the model output that the driver wants."""
        arguments, first = self.step_call.arguments(args, kwargs), self.next_step is None
        index, output = self._output_for(scheduler, arguments)
        warped_step = sampler_of(scheduler).warped_step if self.levels is not None else None
        self.within = True
        try:
            if warped_step is not None and self.levels is not None:
                changed = arguments | {"model_output": output}
                result = warped_step(scheduler, own_class(scheduler), changed, index, self.levels)
            else:
                args, kwargs = self.step_call.with_output(args, kwargs, output)
                result = step(*args, **kwargs)
        finally:
            self.within = False
        latent = landed(result)
        self.latest = latent if first and self.step_call.guessed else None
        self.driver.stepped(index, latent)
        return result

    def _output_for(self, scheduler: Any, arguments: Mapping[str, Any]) -> tuple[int, Tensor]:
        if self.calls == 0:
            raise self._unseen()
        self.step_call.check(scheduler, arguments)
        output, sample = arguments["model_output"], arguments["sample"]
        if self.latest is not None and _equal(output, self.latest) and not _equal(sample, self.latest):
            raise self.step_call.misread(scheduler, arguments)
        timestep = arguments["timestep"]
        if not arguments["sample"].is_floating_point():
            raise RunError(
                "this model samples tokens: between two of them there is nothing to predict",
                given=f"a sample of {arguments['sample'].dtype}",
                cure="It cannot be cached; disable acceleration.",
            )
        index = _index_of(scheduler, timestep, self.next_step)
        if self.next_step is not None and index < self.next_step:
            raise RunError(
                f"step {index} is made again after step {self.next_step - 1}",
                given=f"timestep {timestep}",
                cure="The pipeline denoises several latents a step or goes back to noisier ones; disable acceleration.",
            )
        if self.cached and (index != self.next_step or self.calls != len(self.kept)):
            raise RunError(
                f"step {self.next_step} was cached, but the pipeline makes of it step {index} with {self.calls} "
                f"denoiser calls, where {len(self.kept)} were kept",
                given=f"timestep {timestep}",
                cure="Calibrate with the guidance settings of this call, so that this step is computed.",
            )
        self.residuals = {key: self.residuals[key] for key in self.kept if key in self.residuals}
        residuals = tuple(history.entries[0] for history in self.residuals.values())
        step = Step(
            index, arguments, not self.cached, tuple(self.kept), scheduler, tuple(self.kept.values()), residuals
        )
        output = self.driver.model_output(step)
        (self.report.computed_steps if step.computed else self.report.cached_steps).append(index)
        self.next_step = index + 1
        self._begin_step()
        return index, output

    def _unseen(self) -> RunError:
        """Why the scheduler steps though no call of a denoiser was seen."""
        for name, module in denoisers_of(self.pipe).items():
            if all(module is not known for known in self.modules):
                return RunError(
                    f"pipe.{name} was replaced in the middle of the call, and the new one is not watched",
                    given=type(module).__name__,
                    cure="Replace it between two calls.",
                )
        seen = " since the last step" if self.kept else ""
        return RunError(
            f"the scheduler steps, but no call of the denoiser was seen{seen}",
            given=f"{len(self.modules)} denoisers watched",
            cure="The pipeline calls its denoiser's forward() directly, or steps several latents after one call, "
            "and cannot be cached; disable acceleration.",
        )

    def _check_scheduler(self) -> None:
        """Raise `RunError` where the pipeline goes on with another scheduler than its call began with."""
        now = self.pipe.scheduler
        if getattr(type(now), "_ertacache_run", None) is not self:
            raise RunError(
                "pipe.scheduler was replaced in the middle of the call, and the steps of the new one are not seen",
                given=f"{own_class(now).__name__} in place of {own_class(self.scheduler).__name__}",
                cure="Replace it between two calls.",
            )


_entering = threading.Lock()  # of runs into schedulers


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.device == other.device and torch.equal(one, other.to(one.dtype))


def _index_of(scheduler: Any, timestep: Any, expected: int | None) -> int:
    """The step index as the scheduler knows it: its own, else where it begins, else the place of the timestep."""
    for name in ("step_index", "begin_index"):
        index = getattr(scheduler, name, None)
        if index is not None and (name == "step_index" or expected is None):
            return int(index)
    if isinstance(timestep, Tensor) and timestep.ndim:
        timestep = timestep.flatten()[0]  # one for each sample
    steps = torch.as_tensor(scheduler.timesteps)
    if expected is not None and expected < len(steps) and _is_place(timestep, steps, expected):
        return expected
    places = (steps == timestep).nonzero()
    return int(places[0]) if len(places) else expected or 0


def _is_place(timestep: Any, steps: Tensor, index: int) -> bool:
    """Whether it is the timestep of this index; told by where it lies, since to read it would wait for the device."""
    if isinstance(timestep, Tensor) and timestep.data_ptr() == steps[index].data_ptr():
        return True
    return bool(steps[index] == timestep)
