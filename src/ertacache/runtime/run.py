"""A run: one call of a pipeline, from entry to exit, seen through the gate and the step boundary.

The run knows where in the sampling it stands, which denoiser calls make up a step, and what they last returned.
What to skip, and what a skipped step's model output is, a `Driver` says: a policy's, or calibration's.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, cast

from torch import Tensor, nn

from ertacache.errors import PipelineError, RunError
from ertacache.runtime import gate
from ertacache.runtime.guard import DraftReport, GuardReport
from ertacache.runtime.hidden import Stack
from ertacache.runtime.history import History
from ertacache.runtime.samplers import sampler_of
from ertacache.runtime.seams import Guise, model_of, own_class

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


def _denoises(module: nn.Module) -> bool:
    kind: Any = type(model_of(module))
    parameters = _parameters_of(kind)
    return not parameters.isdisjoint(_TIMESTEPS) and parameters.isdisjoint(_CONDITIONS)


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


class Run:
    """A context manager around one pipeline call, in one thread. Outside of it both seams are gone."""

    def __init__(self, pipe: Any, driver: Driver) -> None:
        self.pipe, self.driver, self.report = pipe, driver, Report()
        self.modules = list(denoisers_of(pipe).values())
        self.scheduler = pipe.scheduler
        self.thread = 0
        self.next_step: int | None = None
        self.levels: Sequence[float] | None = None
        self._begin_step()
        self.kept: dict[Any, Any] = {}
        self.stacks = {id(module): Stack(module) for module in self.modules} if driver.residuals_kept else {}
        self.residuals: dict[Any, History] = {}

    def __enter__(self) -> Self:
        own: Any = own_class(self.scheduler)
        if own is not type(self.scheduler) and type(self.scheduler)._ertacache_run.thread:
            raise RunError(
                "this pipeline's scheduler is in the middle of another call",
                given=own.__name__,
                cure="Give each thread a copy of the pipeline with its own scheduler.",
            )
        self.thread = threading.get_ident()
        self.scheduler.__class__ = _with_boundary(own, self)  # own: it may be a copy made in an earlier run
        for module in self.modules:
            gate.install(module, self)
        for stack in self.stacks.values():
            stack.install()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for module in self.modules:
            gate.remove(module)
        for stack in self.stacks.values():
            stack.remove()
        self.residuals.clear()
        self.thread = 0  # a copy of the scheduler that outlives the run is inert
        self.scheduler.__class__ = type(self.scheduler)._ertacache_class
        self.kept.clear()
        steps = len(self.report.computed_steps) + len(self.report.cached_steps)
        if kind is None and self.report.denoiser_calls and not steps:
            raise RunError(
                "the denoiser ran, but the scheduler's step() was never called",
                given=type(self.scheduler).__name__,
                cure="This pipeline samples without its scheduler, or in a pipeline within it: accelerate that one.",
            )

    def _begin_step(self) -> None:
        self.calls, self.cached = 0, False

    # The gate.

    def denoise(self, module: nn.Module, call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Call the denoiser at a computed step; hand back what was kept at a cached one.

        The first call of a step decides for all of it: cached if the driver says so and the call is the one that
        the last computed step began with (same module, same shapes).
        """
        key = (id(module), self.calls, gate.shapes((args, kwargs)))
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

    def open_segment(self, scheduler: Any) -> None:
        """``set_timesteps`` was called: whatever was kept belongs to another trajectory."""
        self.kept.clear()
        self.residuals.clear()
        self.next_step = None
        self._begin_step()
        self.levels = self.driver.open_segment(scheduler)

    def make_step(self, scheduler: Any, own: Any, arguments: Mapping[str, Any]) -> Any:
        """Let the scheduler, whose class is ``own``, step with the model output that the driver wants."""
        index, output = self._output_for(scheduler, arguments)
        changed = dict(arguments) | {"model_output": output}
        warped_step = sampler_of(scheduler).warped_step if self.levels is not None else None
        if warped_step is not None and self.levels is not None:
            result = warped_step(scheduler, own, changed, index, self.levels)
        else:
            result = own.step(scheduler, **changed)
        self.driver.stepped(index, result[0])
        return result

    def _output_for(self, scheduler: Any, arguments: Mapping[str, Any]) -> tuple[int, Tensor]:
        if self.calls == 0:
            seen = " since the last step" if self.kept else ""
            raise RunError(
                f"the scheduler steps, but no call of the denoiser was seen{seen}",
                given=f"{len(self.modules)} denoisers watched",
                cure="The pipeline calls its denoiser's forward() directly, or steps several latents after one call, "
                "and cannot be cached; disable acceleration.",
            )
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


def _index_of(scheduler: Any, timestep: Any, expected: int | None) -> int:
    """The step index as the scheduler knows it: its own, else where it begins, else the place of the timestep."""
    for name in ("step_index", "begin_index"):
        index = getattr(scheduler, name, None)
        if index is not None:
            return int(index)
    steps = scheduler.timesteps
    if expected is not None and expected < len(steps) and _is_place(timestep, steps, expected):
        return expected
    places = (steps == timestep).nonzero()
    return int(places[0]) if len(places) else expected or 0


def _is_place(timestep: Any, steps: Tensor, index: int) -> bool:
    """Whether it is the timestep of this index; told by where it lies, since to read it would wait for the device."""
    if isinstance(timestep, Tensor) and timestep.data_ptr() == steps[index].data_ptr():
        return True
    return bool(steps[index] == timestep)


def _with_boundary(own: Any, run: Run) -> type:
    """A subclass of the scheduler's class whose ``step`` and ``set_timesteps`` report to ``run``.

    The class, not the instance, carries the seam, so a copy that a pipeline makes inside its loop has it too.
    """
    signatures = [inspect.signature(vars(base)["step"]).parameters for base in own.__mro__ if "step" in vars(base)]
    names = next(list(s)[1:] for s in signatures if "sample" in s)  # an override may take *args and pass them on

    @functools.wraps(own.step)
    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        if run.thread != threading.get_ident():
            return own.step(self, *args, **kwargs)
        return run.make_step(self, own, dict(zip(names, args, strict=False)) | kwargs)

    @functools.wraps(own.set_timesteps)
    def set_timesteps(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = own.set_timesteps(self, *args, **kwargs)
        if run.thread == threading.get_ident():
            run.open_segment(self)
        return result

    body = {"step": step, "set_timesteps": set_timesteps, "_ertacache_class": own, "_ertacache_run": run}
    body |= {"__module__": own.__module__, "__qualname__": own.__qualname__, "__doc__": own.__doc__}
    return Guise(own.__name__, (own,), body)
