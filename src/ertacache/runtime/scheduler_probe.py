"""The scheduler's step as a function: how it is called, what it would return for another model output, and how far
that moves it.
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
"""What every step is made of, by the names that these have in diffusers, in the order in which pipelines give them."""


@dataclass(frozen=True)
class StepCall:
    """How the ``step`` of a scheduler is called, whatever it calls its parameters.

    Args:
        names: the parameters that can be given by position, in order; model output, timestep and sample by the names
            in `ROLES`.
        own: what the scheduler calls those of the three that it names otherwise.
        by_position: how many are given by position, as pipelines do: all up to the last of the three.
        guessed: whether one of the three was told by its place and not by its name.
    """

    names: tuple[str, ...]
    own: Mapping[str, str]
    by_position: int
    guessed: bool

    @classmethod
    def of(cls, scheduler: Any) -> StepCall:
        """Read off the outermost ``step`` that names its parameters; one may take ``*args`` and hand them on.

        The three are told by the names in `ROLES`, else by their places, each after the one before it.

        Raises:
            PipelineError: if it takes fewer than three, or does not say what it takes.
        """
        shown, found = f"{own_class(scheduler).__name__}.step", methods(scheduler, "step")
        if not found:
            raise _unlike_a_step(f"{own_class(scheduler).__name__}, without a step()")
        try:
            places, others, guessed = _parameters(found)
        except (TypeError, ValueError) as error:  # written in C, or no function
            raise _unlike_a_step(f"{shown}: {error}") from error
        own: dict[str, str] = {}
        place = 0
        for role in (role for role in ROLES if role not in others):
            name = role if role in places else next((name for name in places[place:] if name not in ROLES), None)
            if name is None:
                raise _unlike_a_step(f"{shown}({', '.join(places + others)})")
            place = places.index(name) + 1
            if name != role:
                own[role] = name
        roles = {name: role for role, name in own.items()}
        names = tuple(roles.get(name, name) for name in places)
        by_position = max((place + 1 for place, name in enumerate(names) if name in ROLES), default=0)
        return cls(names, own, by_position, guessed or bool(own))

    def arguments(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of one call by name; those beyond all names, if there are any, under ``"*"``."""
        roles = {name: role for role, name in self.own.items()}
        found = dict(zip(self.names, args, strict=False))
        found |= {roles.get(name, name): value for name, value in kwargs.items()}
        return found | ({"*": tuple(args[len(self.names) :])} if len(args) > len(self.names) else {})

    def with_output(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], output: Any
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a call just as they were given, but for the model output."""
        if "model_output" in self.names[: len(args)]:
            place = self.names.index("model_output")
            return (*args[:place], output, *args[place + 1 :]), dict(kwargs)
        own = self.own.get("model_output", "model_output")
        return tuple(args), {**kwargs, own if own in kwargs else "model_output": output}

    def call(self, step: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
        """Call ``step``, bound to its scheduler, as pipelines do, with arguments as of `arguments`."""
        left = dict(arguments)
        beyond = left.pop("*", ())
        given = []
        for name in self.names[: len(self.names) if beyond else self.by_position]:
            if name not in left:
                break
            given.append(left.pop(name))
        return step(*given, *beyond, **{self.own.get(name, name): value for name, value in left.items()})

    def check(self, scheduler: Any, arguments: Mapping[str, Any]) -> None:
        """Raise `RunError` where model output, timestep and sample are not what these can be."""
        output, timestep, sample = (arguments.get(role) for role in ROLES)
        if isinstance(output, Tensor) and isinstance(sample, Tensor):
            scalar = timestep.ndim < 2 if isinstance(timestep, Tensor) else isinstance(timestep, Real)
            if scalar or not self.guessed:
                return
        raise self.misread(scheduler, arguments)

    def misread(self, scheduler: Any, arguments: Mapping[str, Any]) -> RunError:
        """What is raised where the arguments of a call are not what they were taken for."""
        given = ", ".join(f"{self.own.get(role, role)}: {_kind(arguments.get(role))}" for role in ROLES)
        return RunError(
            "the scheduler's step() is called with something else than a model output, a timestep and a sample",
            given=f"{own_class(scheduler).__name__}.step({given})",
            cure="Call its parameters model_output, timestep and sample, in this order.",
        )


def _hands_on(model_output: Any, timestep: Any, sample: Any) -> None:
    """What a ``step(*args, **kwargs)`` without a base is taken to hand on to."""


def _parameters(steps: Sequence[Callable[..., Any]]) -> tuple[list[str], list[str], bool]:
    """The parameters that can be given by position, those by name only, and whether no ``step`` has named them."""
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
        "this scheduler cannot be served: its step() does not take a model output, a timestep and a sample",
        given=given,
        cure="Have it take these three, in this order or by the names model_output, timestep and sample.",
    )


def landed(result: Any) -> Tensor:
    """The next latent, of what a ``step`` returned: a tensor, a tuple that begins with it, or an output with it.

    Raises:
        RunError: if it is none of these.
    """
    latent = result if isinstance(result, Tensor) else getattr(result, "prev_sample", None)
    if latent is None:
        with suppress(LookupError, TypeError):
            latent = result[0]
    if not isinstance(latent, Tensor):
        raise RunError(
            "the scheduler's step() returned no latent",
            given=type(result).__name__,
            cure="Return it as diffusers does: as a tuple's first part, or as prev_sample.",
        )
    return latent


def copied_generators(value: Any) -> Any:
    """``value`` with every generator in it copied, in the state it is in."""
    return tree_map_only(torch.Generator, _copied_generator, value)


def _copied_generator(generator: torch.Generator) -> torch.Generator:
    twin = torch.Generator(generator.device)
    twin.set_state(generator.get_state())
    return twin


def plain_step(scheduler: Any, arguments: Mapping[str, Any], model_output: Tensor) -> Tensor:
    """``step_i(x, v)`` on a copy of the scheduler as it stands, in float32 or better; nothing is disturbed.

    Args:
        scheduler: in the middle of a run, about to step; a copy of it steps by itself.
        arguments: those of its ``step`` now, as of `StepCall.arguments`. A sampler that adds noise adds what it is
            about to add.
        model_output: ``v``, in place of the one among the arguments.
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
    """The scalar ``b_i`` of ``step_i(x, v) = c_i + b_i v``, read off a unit impulse on tiny float64 tensors.

    Live latents would not do: in bfloat16 the difference of two steps is rounding noise. Whatever a multistep
    solver remembers, and whatever noise is added, is the same in both steps and cancels.
    """
    step = _tiny_step(scheduler, arguments)
    return step(1.0) - step(0.0)


def is_affine(scheduler: Any, arguments: Mapping[str, Any]) -> bool:
    """Whether the step is an affine function of the model output; of a large one too, which some would clip."""
    step = _tiny_step(scheduler, arguments)
    none = step(0.0)
    for size in _SIZES:
        once, twice = step(size), step(2 * size)
        if abs(twice - 2 * once + none) > 1e-4 * max(abs(once), abs(twice)):
            return False
    return True


_SIZES = (1.0, 30.0, 1000.0)  # of model outputs; one of them is where clipping sets in


class _Tiny(TorchFunctionMode):
    """Has a deep copy hold tiny tensors in place of all of one shape, wherever in the original they are.

    The others are on the CPU: a scheduler may hold its grid on the accelerator.
    """

    def __init__(self, shape: torch.Size) -> None:
        self.shape, self.zero = shape, torch.zeros(1, 1, dtype=torch.float64)

    def of(self, tensor: Tensor) -> Tensor:
        """What stands in the copy for one tensor."""
        return self.zero if tensor.shape == self.shape else tensor.cpu()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.of(args[0]) if func is Tensor.__deepcopy__ else func(*args, **(kwargs or {}))


def _tiny_step(scheduler: Any, arguments: Mapping[str, Any]) -> Callable[[float], float]:
    """The step of one number, as a function of the model output, all else as in ``arguments``."""
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
        except Exception as error:  # whatever a step of one's own may raise
            raise CalibrationError(
                "this scheduler's step cannot be tried on a latent of one number, as calibration does",
                given=f"{own_class(scheduler).__name__}, {type(error).__name__}: {error}",
                cure="Have its step() take latents of any shape, and all arguments by position or by name.",
            ) from error

    return step
