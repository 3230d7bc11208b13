"""Read the identity of a pipeline and the circumstances of a call, which become a policy's `Origin`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ertacache.policy import Denoiser, Origin, StreamOrigin
from ertacache.runtime import parameter_samples
from ertacache.runtime.call_setting import guidance_of, sizes_of
from ertacache.runtime.denoisers import loop_modules
from ertacache.runtime.environment import versions
from ertacache.runtime.pipeline_settings import configuration_of, refuse_other_caches, settings_of
from ertacache.runtime.unwrap import model_of, own_class


def identify(module: nn.Module, *, values: bool = False) -> Denoiser:
    """Read a model's class, configuration, sampled weights and active adapters.

    Args:
        module: the model, compiled or not.
        values: also dequantise samples of quantised weights, so that they can be compared with plain ones.
    """
    model = model_of(module)
    active = _active_scales(model)
    weights = parameter_samples.weights_of(model)
    return Denoiser(
        type(model).__name__,
        configuration_of(model),
        parameter_samples.with_values(weights, model) if values else weights,
        _adapters(active),
        parameter_samples.adapters_of(model, active),
    )


@dataclass(frozen=True)
class Circumstances:
    """All that the result of a call depends on, except prompts, seeds and the number of steps.

    Args:
        denoisers: the identity of each module that runs in the sampling loop, by attribute name.
        settings: see `ertacache.runtime.pipeline_settings`.
        guidance: see `ertacache.runtime.call_setting.guidance_of`.
        sizes: see `ertacache.runtime.call_setting.sizes_of`.
    """

    denoisers: Mapping[str, Denoiser]
    settings: Mapping[str, Any]
    guidance: Mapping[str, float]
    sizes: Mapping[str, int]

    @property
    def doubts(self) -> list[str]:
        """Notes for the policy on weights that could not be read."""
        return [
            f"the weights of {name} could not all be read, so another checkpoint may go unnoticed: {doubt}"
            for name, denoiser in self.denoisers.items()
            if (doubt := parameter_samples.unread(denoiser.weights))
        ]


def circumstances_of(pipe: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Circumstances:
    """Read the circumstances of a call before it is made.

    Args:
        pipe: the pipeline.
        args: the positional arguments of the call.
        kwargs: the keyword arguments of the call.

    Raises:
        PipelineError: if another cache is on, or there is no denoiser.
    """
    modules = loop_modules(pipe)
    refuse_other_caches(pipe, modules)
    return Circumstances(
        {name: identify(module, values=True) for name, module in modules.items()},
        settings_of(pipe, modules),
        guidance_of(pipe, args, kwargs),
        sizes_of(pipe, args, kwargs),
    )


def origin_of(
    pipe: Any,
    circumstances: Circumstances,
    *,
    noise_levels: Sequence[float],
    calls_per_step: int,
    latent_shape: Sequence[int],
    changes: Sequence[int] = (),
    streams: Sequence[StreamOrigin] = (),
    asked_steps: int | None = None,
) -> Origin:
    """Make the origin of a policy that is calibrated on this pipeline; the other arguments are fields of `Origin`."""
    return Origin(
        pipeline_class=own_class(pipe).__name__,
        denoisers=dict(circumstances.denoisers),
        scheduler_class=own_class(pipe.scheduler).__name__,
        noise_levels=tuple(noise_levels),
        guidance=dict(circumstances.guidance),
        calls_per_step=calls_per_step,
        latent_shape=tuple(latent_shape),
        settings=dict(circumstances.settings),
        sizes=dict(circumstances.sizes),
        versions=versions(),
        changes=tuple(changes),
        streams=tuple(streams),
        asked_steps=asked_steps,
    )


def _active_scales(model: nn.Module) -> dict[str, set[float]]:
    """The active adapters and their scales. (``peft_config`` would list all that are loaded.)"""
    scales: dict[str, set[float]] = {}
    for layer in model.modules():
        if not hasattr(type(layer), "active_adapters"):  # asking the layer itself takes ten times as long
            continue
        names, scaling = getattr(layer, "active_adapters", None), getattr(layer, "scaling", None)
        if isinstance(scaling, Mapping) and not isinstance(names, (str, type(None))) and not callable(names):
            for name in () if getattr(layer, "disable_adapters", False) else names:
                if name in scaling:
                    scales.setdefault(name, set()).add(float(scaling[name]))
    return {name: values for name, values in scales.items() if values != {0.0}}


def _adapters(scales: Mapping[str, set[float]]) -> tuple[str, ...]:
    return tuple(f"{name} x {', '.join(f'{s:g}' for s in sorted(scales[name]))}" for name in sorted(scales))
