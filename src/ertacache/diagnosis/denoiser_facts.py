"""What is known of a pipeline's denoisers: compiled, quantised, offloaded, with which adapters."""

from __future__ import annotations

from typing import Any

from torch import nn

from ertacache.diagnosis.facts import DenoiserFacts
from ertacache.runtime import parameter_samples
from ertacache.runtime.denoisers import controls_of, loop_modules
from ertacache.runtime.identity import identify
from ertacache.runtime.unwrap import model_of


def denoiser_facts(pipe: Any) -> tuple[DenoiserFacts, ...]:
    """Look at the modules that run in the sampling loop.

    Args:
        pipe: the pipeline; it has a denoiser.
    """
    controls = controls_of(pipe)
    return tuple(_facts(name, module, name in controls) for name, module in loop_modules(pipe).items())


def _facts(name: str, module: nn.Module, is_control: bool) -> DenoiserFacts:
    known = identify(module)
    return DenoiserFacts(
        name,
        known.model_class,
        parameter_samples.kinds(known.weights),
        tuple([*_compiled(module), *_hooked(model_of(module))]),
        known.adapters,
        is_control,
        parameter_samples.unread(known.weights),
    )


def is_compiled_whole(module: nn.Module) -> bool:
    """Whether a module is compiled as a whole, by ``torch.compile`` or its own ``compile()``."""
    return model_of(module) is not module or module._compiled_call_impl is not None


def _compiled(module: nn.Module) -> list[str]:
    if is_compiled_whole(module):
        return ["compiled as a whole"]
    blocks = sum(is_compiled_whole(child) for child in module.modules() if child is not module)
    return [f"{blocks} blocks compiled"] if blocks else []


def _hooked(model: nn.Module) -> list[str]:
    """What the hooks of accelerate and diffusers do with a model's weights."""
    found: dict[str, None] = {}
    for child in model.modules():
        hook = vars(child).get("_hf_hook")
        for each in getattr(hook, "hooks", (hook,)):
            found |= {f"offloaded ({type(each).__name__} of accelerate)": None} if _offloads(each) else {}
        for name, hook in getattr(vars(child).get("_diffusers_hook"), "hooks", {}).items():
            if name == "group_offloading":
                found["offloaded (group offloading)"] = None
            if name == "layerwise_casting":
                found[f"casts its weights to {str(hook.compute_dtype).removeprefix('torch.')}"] = None
    return list(found)


def _offloads(hook: Any) -> bool:
    """Whether a hook of accelerate moves weights away; one that only moves inputs to a device does not."""
    return bool(getattr(hook, "offload", False)) or type(hook).__name__ == "CpuOffload"
