"""Treat the scheduler's step as a function: how to call it, and what it returns for another model output.

Calibration uses it to find the coefficient ``b_i`` of ``step_i(x, v) = c_i + b_i v``, and to check that there is one.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from ertacache.errors import CalibrationError, PipelineError, RunError
from ertacache.runtime.unwrap import methods, own_class, set_class

ROLES = ("model_output", "timestep", "sample")
"""The three arguments of every step, by their names in diffusers, in the order in which pipelines pass them."""


@dataclass(frozen=True)
class StepCall:
    """How to call the ``step`` of a scheduler, whatever the names of its parameters.

    Args:
        names: the positional parameters, in order; model output, timestep and sample by their names in `ROLES`.
        own: the scheduler's own names for those of the three that it names differently.
        by_position: how many arguments pipelines pass by position: all up to the last of the three.
        guessed: whether one of the three was recognised by its position, not by its name.
    """

    names: tuple[str, ...]
    own: Mapping[str, str]
    by_position: int
    guessed: bool

    @classmethod
    def of(cls, scheduler: Any) -> StepCall:
        """Read the parameters of a scheduler's ``step``; if that takes ``*args``, those of the next one in line.

        The three arguments are recognised by their names in `ROLES`, else by position, in that order.

        Args:
            scheduler: the scheduler.

        Raises:
            PipelineError: if its ``step`` takes fewer than three arguments, or has no signature.
        """
        label, steps = f"{own_class(scheduler).__name__}.step", methods(scheduler, "step")
        if not steps:
            raise _unlike_a_step(f"{own_class(scheduler).__name__}, without a step()")
        try:
            places, others, guessed = _parameters(steps)
        except (TypeError, ValueError) as error:  # written in C, or not a function
            raise _unlike_a_step(f"{label}: {error}") from error
        own: dict[str, str] = {}
        place = 0
        for role in (role for role in ROLES if role not in others):
            name = role if role in places else next((name for name in places[place:] if name not in ROLES), None)
            if name is None:
                raise _unlike_a_step(f"{label}({', '.join(places + others)})")
            place = places.index(name) + 1
            if name != role:
                own[role] = name
        roles = {name: role for role, name in own.items()}
        names = tuple(roles.get(name, name) for name in places)
        by_position = max((place + 1 for place, name in enumerate(names) if name in ROLES), default=0)
        return cls(names, own, by_position, guessed or bool(own))

    def arguments(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Name the arguments of one call; further positional ones, if any, are under ``"*"``.

        Args:
            args: the positional arguments of ``step``.
            kwargs: the keyword arguments of ``step``.

        Returns:
            The arguments by name; the three by their names in `ROLES`.
        """
        roles = {name: role for role, name in self.own.items()}
        named = dict(zip(self.names, args, strict=False))
        named |= {roles.get(name, name): value for name, value in kwargs.items()}
        return named | ({"*": tuple(args[len(self.names) :])} if len(args) > len(self.names) else {})

    def with_output(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], output: Any
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Replace the model output among the arguments of a call, and leave all else as the pipeline passed it."""
        if "model_output" in self.names[: len(args)]:
            place = self.names.index("model_output")
            return (*args[:place], output, *args[place + 1 :]), dict(kwargs)
        own = self.own.get("model_output", "model_output")
        return tuple(args), {**kwargs, own if own in kwargs else "model_output": output}

    def call(self, step: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
        """Call ``step`` as pipelines do.

        Args:
            step: the method, bound to its scheduler.
            arguments: by name, as `arguments` returns them.

        Returns:
            What ``step`` returns.
        """
        left = dict(arguments)
        beyond = left.pop("*", ())
        positional = []
        for name in self.names[: len(self.names) if beyond else self.by_position]:
            if name not in left:
                break
            positional.append(left.pop(name))
        return step(*positional, *beyond, **{self.own.get(name, name): value for name, value in left.items()})

    def check(self, scheduler: Any, arguments: Mapping[str, Any]) -> None:
        """Raise `RunError` if model output or sample is not a tensor, or a guessed timestep is not a number."""
        output, timestep, sample = (arguments.get(role) for role in ROLES)
        if isinstance(output, Tensor) and isinstance(sample, Tensor):
            scalar = timestep.ndim < 2 if isinstance(timestep, Tensor) else isinstance(timestep, Real)
            if scalar or not self.guessed:
                return
        raise self.misread(scheduler, arguments)

    def misread(self, scheduler: Any, arguments: Mapping[str, Any]) -> RunError:
        """Make the error for a call whose arguments are not a model output, a timestep and a sample."""
        given = ", ".join(f"{self.own.get(role, role)}: {_kind(arguments.get(role))}" for role in ROLES)
        return RunError(
            "the scheduler's step() is called with something else than a model output, a timestep and a sample",
            given=f"{own_class(scheduler).__name__}.step({given})",
            cure="Name its parameters model_output, timestep and sample, in this order.",
        )


def _hands_on(model_output: Any, timestep: Any, sample: Any) -> None:
    """Stands in for the method that a ``step(*args, **kwargs)`` calls, if no base class has one."""


def _parameters(steps: Sequence[Callable[..., Any]]) -> tuple[list[str], list[str], bool]:
    """Read the parameters of a ``step`` and of those that it passes its arguments on to.

    Args:
        steps: the methods, the called one first.

    Returns:
        The positional parameters, the keyword-only ones, and whether no method names the three of `ROLES`.
    """
    places: list[str] = []
    others: list[str] = []
    by_position, guessed = True, False
    for step in [*steps, _hands_on]:
        guessed = step is _hands_on and not {*ROLES} <= {*places, *others}
        parameters = inspect.signature(step).parameters.values()
        kinds = {parameter.kind for parameter in parameters}
        names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        if by_position:
            places += names[len(places) :]
        else:
            others += names
        others += [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
        by_position = by_position and inspect.Parameter.VAR_POSITIONAL in kinds
        by_name = inspect.Parameter.VAR_KEYWORD in kinds and not places and {*ROLES}.isdisjoint(others)
        if not by_position and not by_name:
            break
    return places, others, guessed


def _kind(value: Any) -> str:
    return f"tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _unlike_a_step(given: str) -> PipelineError:
    return PipelineError(
        "this scheduler is not supported: its step() does not take a model output, a timestep and a sample",
        given=given,
        cure="Make it take these three, in this order or by the names model_output, timestep and sample.",
    )


def landed(result: Any) -> Tensor:
    """Get the next latent from what a ``step`` returned.

    Args:
        result: a tensor, a tuple that begins with it, or an output object with ``prev_sample``.

    Returns:
        The latent, (batch, ...).

    Raises:
        RunError: if the result is none of these.
    """
    latent = result if isinstance(result, Tensor) else getattr(result, "prev_sample", None)
    if latent is None:
        with suppress(LookupError, TypeError):
            latent = result[0]
    if not isinstance(latent, Tensor):
        raise RunError(
            "the scheduler's step() returned no latent",
            given=type(result).__name__,
            cure="Return it as diffusers does: as the first item of a tuple, or as prev_sample.",
        )
    return latent


def copied_generators(value: Any) -> Any:
    """Copy every `torch.Generator` in a value, with its current state."""
    return tree_map_only(torch.Generator, _copied_generator, value)


def _copied_generator(generator: torch.Generator) -> torch.Generator:
    twin = torch.Generator(generator.device)
    twin.set_state(generator.get_state())
    return twin


def plain_step(scheduler: Any, arguments: Mapping[str, Any], model_output: Tensor) -> Tensor:
    """Compute ``step_i(x, v)`` on a copy of the scheduler, in float32 or better; scheduler and generators stay as is.

    Args:
        scheduler: the scheduler, before its step i.
        arguments: the arguments of that step by name, as `StepCall.arguments` returns them. The sample x is (batch,
            ...), floating. A sampler that adds noise adds the noise that the real step will add.
        model_output: ``v``, (batch, ...), floating; replaces the one among the arguments.

    Returns:
        The next latent, in the shape of the sample and the wider of its dtype and float32.

    Raises:
        RunError: if the step returns no latent.
    """
    fresh = copy.deepcopy(scheduler)
    set_class(fresh, own_class(scheduler))
    wide = torch.promote_types(arguments["sample"].dtype, torch.float32)
    changed = copied_generators(dict(arguments)) | {"model_output": model_output}
    changed = tree_map_only(Tensor, lambda t: t.to(wide) if t.is_floating_point() and t.ndim else t, changed)
    device = arguments["sample"].device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        return landed(StepCall.of(fresh).call(fresh.step, changed))


def output_coefficient(scheduler: Any, arguments: Mapping[str, Any]) -> float:
    """Measure the scalar ``b_i`` of ``step_i(x, v) = c_i + b_i v``: the difference between steps with v = 1 and v = 0.

    The two steps are made on tiny float64 tensors; with the real latents in bfloat16, their difference would be
    rounding noise. What a multistep solver remembers, and the noise it adds, is equal in both steps and cancels.

    Args:
        scheduler: the scheduler, before its step i; left unchanged.
        arguments: the arguments of that step by name, as `StepCall.arguments` returns them.

    Raises:
        CalibrationError: if the step fails on a latent of one number.
    """
    step = _tiny_step(scheduler, arguments)
    return step(1.0) - step(0.0)


def is_affine(scheduler: Any, arguments: Mapping[str, Any]) -> bool:
    """Whether the step is an affine function of the model output; large outputs, which some clip, are tried as well.

    Args:
        scheduler: the scheduler, before its step i; left unchanged.
        arguments: the arguments of that step by name, as `StepCall.arguments` returns them.

    Raises:
        CalibrationError: if the step fails on a latent of one number.
    """
    step = _tiny_step(scheduler, arguments)
    none = step(0.0)
    for size in _SIZES:
        once, twice = step(size), step(2 * size)
        if abs(twice - 2 * once + none) > 1e-4 * max(abs(once), abs(twice)):
            return False
    return True


_SIZES = (1.0, 30.0, 1000.0)  # of model outputs; one of them is large enough to be clipped


class _Tiny(TorchFunctionMode):
    """Within this mode, a deep copy has a tiny zero tensor in place of every tensor of one shape.

    Other tensors are copied to the CPU, since a scheduler may keep its grid on the accelerator.
    """

    def __init__(self, shape: torch.Size) -> None:
        self.shape, self.zero = shape, torch.zeros(1, 1, dtype=torch.float64)

    def of(self, tensor: Tensor) -> Tensor:
        """Make what the copy has in place of a tensor."""
        return self.zero if tensor.shape == self.shape else tensor.cpu()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.of(args[0]) if func is Tensor.__deepcopy__ else func(*args, **(kwargs or {}))


def _tiny_step(scheduler: Any, arguments: Mapping[str, Any]) -> Callable[[float], float]:
    """Make the step a function of the model output, for a latent of one number; all else as in ``arguments``."""
    tiny = _Tiny(arguments["sample"].shape)
    with tiny:
        fresh = copy.deepcopy(scheduler)
    small = tree_map_only(Tensor, tiny.of, dict(arguments))

    def step(output: float) -> float:
        seeded = tree_map_only(torch.Generator, lambda generator: torch.Generator().manual_seed(0), small)
        if "generator" in seeded:
            seeded["generator"] = torch.Generator().manual_seed(0)
        try:
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(0)  # the CPU's alone; torch.manual_seed() resets accelerators
                return float(plain_step(fresh, seeded, tiny.zero + output))
        except Exception as error:  # a user's own step may raise anything
            raise CalibrationError(
                "this scheduler's step cannot be tried on a latent of one number, as calibration does",
                given=f"{own_class(scheduler).__name__}, {type(error).__name__}: {error}",
                cure="Make its step() take latents of any shape, and all arguments by position or by name.",
            ) from error

    return step
