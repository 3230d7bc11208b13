"""The scheduler's step as a function: what it would return for another model output, and how far that moves it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from ertacache.runtime.seams import own_class


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
        scheduler: in the middle of a run, about to step.
        arguments: those of its ``step`` now. A sampler that adds noise adds what it is about to add.
        model_output: ``v``, in place of the one among the arguments.
    """
    fresh = copy.deepcopy(scheduler)
    fresh.__class__ = own_class(scheduler)
    wide = torch.promote_types(arguments["sample"].dtype, torch.float32)
    changed = copied_generators(dict(arguments)) | {"model_output": model_output}
    changed = tree_map_only(Tensor, lambda t: t.to(wide) if t.is_floating_point() and t.ndim else t, changed)
    device = arguments["sample"].device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        out: Tensor = fresh.step(**changed | {"return_dict": False})[0]
    return out


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


def draws_noise(scheduler: Any, arguments: Mapping[str, Any]) -> bool:
    """Whether the step adds noise: whether it ends elsewhere with another seed."""
    return _tiny_step(scheduler, arguments, seed=0)(1.0) != _tiny_step(scheduler, arguments, seed=1)(1.0)


_SIZES = (1.0, 30.0, 1000.0)  # of model outputs; one of them is where clipping sets in


def _tiny_step(scheduler: Any, arguments: Mapping[str, Any], seed: int = 0) -> Callable[[float], float]:
    """The step of one number, as a function of the model output, all else as in ``arguments``."""
    shape = arguments["sample"].shape
    zero = torch.zeros(1, 1, dtype=torch.float64)

    def tiny(value: Any) -> Any:  # all on the CPU: a scheduler may hold its grid on the accelerator
        return tree_map_only(Tensor, lambda v: zero if v.shape == shape else v.cpu(), value)

    fresh = copy.copy(scheduler)
    vars(fresh).update({name: tiny(value) for name, value in vars(scheduler).items()})
    small = {name: tiny(value) for name, value in arguments.items()}

    def step(output: float) -> float:
        if "generator" in small:
            small["generator"] = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # of the CPU alone; torch.manual_seed() would reset accelerators
            return float(plain_step(fresh, small, zero + output))

    return step
