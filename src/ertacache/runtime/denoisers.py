"""Find the modules of a pipeline that run in its sampling loop, by the arguments of their ``forward``."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ertacache.errors import PipelineError, RunError
from ertacache.runtime.unwrap import model_of
from ertacache.value_checks import not_a_pipeline

DENOISERS = ("transformer", "transformer_2", "unet", "denoiser")
"""The attribute names of denoisers in diffusers' pipelines."""


def denoisers_of(pipe: Any) -> dict[str, nn.Module]:
    """Find the pipeline's denoisers: the modules of the usual names, and all others that take a timestep.

    ControlNets take a timestep too, but do not count: their output is for a denoiser only.

    Args:
        pipe: the pipeline.

    Returns:
        The modules by attribute name.

    Raises:
        PipelineError: if it has none, or is a model itself.
    """
    if isinstance(pipe, nn.Module) and not hasattr(pipe, "scheduler"):
        raise not_a_pipeline(pipe)
    named = {name: getattr(pipe, name, None) for name in DENOISERS}
    attributes = getattr(pipe, "__dict__", {})
    others = {name: value for name, value in attributes.items() if isinstance(value, nn.Module) and _denoises(value)}
    modules = {name: module for name, module in (named | others).items() if isinstance(module, nn.Module)}
    if not modules:
        raise PipelineError(
            "this pipeline has no denoiser that can be cached",
            given=type(pipe).__name__,
            cure=f"Use a pipeline with a module named {', '.join(DENOISERS)}, or one whose forward() takes a timestep.",
        )
    return modules


def loop_modules(pipe: Any) -> dict[str, nn.Module]:
    """Find all modules that run in the sampling loop, by attribute name: the denoisers and the ControlNets.

    Raises:
        PipelineError: if there is no denoiser.
    """
    return denoisers_of(pipe) | controls_of(pipe)


def controls_of(pipe: Any) -> dict[str, nn.Module]:
    """Find the ControlNets of a pipeline, by attribute name."""
    attributes = getattr(pipe, "__dict__", {})
    return {
        name: value
        for name, value in attributes.items()
        if isinstance(value, nn.Module) and not _parameters_of_module(value).isdisjoint(_CONDITIONS)
    }


def changes_of_expert(pipe: Any, scheduler: Any) -> tuple[int, ...]:
    """Find the steps at which another expert takes over, where the pipeline has a boundary, as Wan 2.2's have.

    Args:
        pipe: the pipeline.
        scheduler: that of the call; its timesteps are set.

    Returns:
        Their indices in the grid; empty for pipelines of one denoiser.
    """
    if not has_experts(pipe):
        return ()
    boundary = pipe.config["boundary_ratio"] * scheduler.config.num_train_timesteps
    timesteps = torch.as_tensor(scheduler.timesteps).tolist()
    return tuple(i for i in range(1, len(timesteps)) if timesteps[i] < boundary <= timesteps[i - 1])


def has_experts(pipe: Any) -> bool:
    """Whether a second expert takes over at a boundary of the noise levels."""
    config = getattr(pipe, "config", None)
    ratio = config.get("boundary_ratio") if isinstance(config, Mapping) else None
    experts = [getattr(pipe, name, None) for name in ("transformer", "transformer_2")]
    return ratio is not None and all(expert is not None for expert in experts)


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


def check_attention(modules: Sequence[nn.Module]) -> None:
    """Raise `RunError` if attention processors are the pipeline's own: it then reads what they store at each step."""
    for module in modules:
        for layer in module.modules():
            processor = vars(layer).get("processor") or layer._modules.get("processor")
            if type(processor).__module__.startswith("diffusers.pipelines."):
                raise RunError(
                    "the pipeline reads what its denoiser's attention leaves behind, and a cached step leaves nothing",
                    given=f"attention by {type(processor).__name__}",
                    cure="It cannot be cached: call ertacache.disable(pipe).",
                )
