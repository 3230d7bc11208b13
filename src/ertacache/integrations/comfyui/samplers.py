"""ComfyUI's samplers as loops that can be replayed, and which of them are refused."""

from __future__ import annotations

from typing import Any

import comfy.model_sampling
import comfy.samplers
import torch
from torch import Tensor

from ertacache.errors import PipelineError
from ertacache.integrations.comfyui.noise import SOURCES, KeptNoise
from ertacache.integrations.replayed_sampler import Evaluate, Loop

SEVERAL_EVALUATIONS = frozenset(
    (
        *("heun", "heunpp2", "exp_heun_2_x0", "exp_heun_2_x0_sde", "dpm_2", "dpm_2_ancestral", "dpm_fast"),
        *("dpm_adaptive", "dpmpp_2s_ancestral", "dpmpp_sde", "dpmpp_sde_gpu", "seeds_2", "seeds_3", "sa_solver_pece"),
    )
)
"""Samplers that evaluate the model more than once in some steps, between the noise levels of the schedule."""
INSTEAD = "euler, dpmpp_2m, dpmpp_2m_sde, res_multistep, uni_pc, deis, er_sde or lcm"


def name_of(sampler: Any) -> str:
    """The sampler's name, as ComfyUI's menus have it.

    Raises:
        PipelineError: if its steps cannot be skipped.
    """
    function = getattr(sampler, "sampler_function", None)
    if not isinstance(sampler, comfy.samplers.KSAMPLER) or function is None:
        raise _refused(type(sampler).__name__, "it is a loop of its own, and not one of ComfyUI's sampler functions")
    name: str = getattr(function, "__name__", "unknown").removeprefix("sample_").removesuffix("_function")
    if name in SEVERAL_EVALUATIONS:
        raise _refused(name, "it evaluates the model several times a step")
    if "cfg_pp" in name:
        raise _refused(name, "it needs the unguided output of every step (CFG++), and a skipped step has none")
    if name == "ar_video":
        raise _refused(name, "it samples frame by frame, with a loop within the loop")
    return {"unipc": "uni_pc", "unipc_bh2": "uni_pc_bh2"}.get(name, name)


def _refused(name: str, reason: str) -> PipelineError:
    return PipelineError(
        f"this sampler cannot be accelerated: {reason}",
        given=name,
        cure=f"Take {INSTEAD}, or remove the ERTACache node.",
    )


def off_the_grid(name: str, level: float, expected: float) -> PipelineError:
    """Make the error for a sampler that evaluates the model at another noise level than the schedule's next one."""
    return _refused(
        name, f"it evaluates the model at noise level {level:.4g}, where the schedule's next is {expected:.4g}"
    )


def loop_of(sampler: Any, model: Any) -> Loop:
    """The sampler as a function of the model's outputs.

    Args:
        sampler: a ``comfy.samplers.KSAMPLER``.
        model: the ``ModelPatcher``; samplers ask it for what kind of noise levels it has.
    """
    function, options = sampler.sampler_function, dict(sampler.extra_options)
    on_cpu = SOURCES.get(name_of(sampler))
    noise = None if on_cpu is None or "noise_sampler" in options else KeptNoise(on_cpu)
    single = "unipc" in getattr(function, "__name__", "")  # it makes constants in float32

    def loop(evaluate: Evaluate, latent: Tensor, levels: Tensor, seed: int) -> Tensor:
        def asked(here: Tensor, level: Tensor) -> Tensor:
            return evaluate(here.to(latent.dtype), level).to(here.dtype)

        stand_in, first = _ModelStandIn(asked, model, levels), latent.float() if single else latent
        arguments = {"model_options": {}, "seed": seed, "denoise_mask": None}
        drawn = {} if noise is None else {"noise_sampler": noise.of(latent, levels, seed)}
        with torch.inference_mode(False), torch.no_grad():
            last: Tensor = function(
                stand_in, first, levels.clone(), extra_args=arguments, disable=True, **options, **drawn
            )
        return last.to(latent.dtype)

    return loop


class _ModelStandIn:
    """What a sampler function takes for the model: gives the denoised latent that an output stands for."""

    def __init__(self, evaluate: Evaluate, model: Any, sigmas: Tensor) -> None:
        self.evaluate, self.sigmas, self.latent_image = evaluate, sigmas, None
        self.inner_model = _GuiderStandIn(model)

    def __call__(self, x: Tensor, sigma: Tensor, **options: Any) -> Tensor:
        return denoised_by(x, self.evaluate(x, sigma), sigma)


class _GuiderStandIn:
    def __init__(self, model: Any) -> None:
        self.inner_model, self.model_patcher, self.cfg = model.model, model, 1.0


def _like(sigma: Tensor, latent: Tensor) -> Tensor:
    """A noise level, or one for each sample, in a shape that multiplies latents."""
    return sigma.reshape(-1, *(1 for _ in latent.shape[1:])).to(latent)


def slope(latent: Tensor, denoised: Tensor, sigma: Tensor) -> Tensor:
    """The slope of the latent over the noise level: ``(x - denoised) / sigma``, whatever the model predicts."""
    return (latent - denoised) / _like(sigma, latent)


def denoised_by(latent: Tensor, output: Tensor, sigma: Tensor) -> Tensor:
    """The denoised latent that a slope stands for: ``x - sigma v``."""
    return latent - _like(sigma, latent) * output


def prediction_of(model: Any) -> dict[str, str]:
    """How noise levels mix data and noise, as schedulers of diffusers have it in their configuration."""
    flow = isinstance(model.get_model_object("model_sampling"), comfy.model_sampling.CONST)
    return {} if flow else {"prediction_type": "epsilon"}
