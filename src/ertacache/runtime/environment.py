"""The environment of a pipeline: versions, device and precision, which its results and timings depend on."""

from __future__ import annotations

import platform
from typing import Any

import diffusers
import torch
from torch import nn

from ertacache._version import __version__


def versions() -> dict[str, str]:
    """The versions of torch, diffusers and this library."""
    return {"torch": torch.__version__, "diffusers": diffusers.__version__, "ertacache": __version__}


def device_of(pipe: Any) -> torch.device:
    """The device that a pipeline runs on, also if its weights are elsewhere between its steps."""
    devices = [torch.device(getattr(pipe, "_execution_device", None) or "cpu")]
    for part in vars(pipe).values():
        for child in part.modules() if isinstance(part, nn.Module) else ():
            hook: Any = vars(child).get("_hf_hook")
            if getattr(hook, "execution_device", None) is not None:  # offloaded: the pipeline may not know
                devices.append(torch.device(hook.execution_device))
    return next((device for device in devices if device.type != "meta"), torch.device("cpu"))


def environment_of(pipe: Any) -> dict[str, Any]:
    """Describe what a pipeline's results and timings depend on besides itself, as JSON data by name."""
    casts, device = set(), device_of(pipe)
    for part in vars(pipe).values():
        if isinstance(part, nn.Module):
            for child in part.modules():
                cast = getattr(vars(child).get("_diffusers_hook"), "hooks", {}).get("layerwise_casting")
                casts |= {str(cast.compute_dtype)} if cast is not None else set()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    autocast = torch.is_autocast_enabled(device.type) and str(torch.get_autocast_dtype(device.type))
    return {
        **versions(),
        "device": f"{device.type}, {name}",
        "casts to": sorted(casts),
        "autocast": autocast,
        "default dtype": str(torch.get_default_dtype()),
        "threads": torch.get_num_threads(),
        "float32 products": torch.get_float32_matmul_precision(),
    }
