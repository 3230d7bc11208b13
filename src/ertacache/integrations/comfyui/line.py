"""ComfyUI's sampling as a sampling line: what its guider evaluates once a step is the denoiser.

Two of ComfyUI's wrappers open it: SAMPLER_SAMPLE around a sampler's whole loop, when the model is loaded and patched,
and PREDICT_NOISE around each evaluation, after guidance. The latent's slope over the noise level is what is cached, for
flow matching, noise and v prediction alike.
"""

from __future__ import annotations

import hashlib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import comfy.patcher_extension
import torch
from torch import Tensor

from ertacache.errors import PipelineError
from ertacache.integrations.comfyui import samplers
from ertacache.integrations.replayed_sampler import replayed_sampler
from ertacache.integrations.sampling_line import SamplingLine, guided_denoiser
from ertacache.policy import Policy

KEY = "ertacache"
OTHER_CACHES = ("easycache", "lazycache")
NEAR = 2e-3
"""By how much of itself a noise level may differ from the schedule's: SDE samplers move the first one by 1e-4."""

Begin = Callable[["ComfyLine"], Any]


class ComfyLine(SamplingLine):
    """One sampling of a model by a sampler.

    Args:
        model: the ``ModelPatcher``.
        sampler: a ``comfy.samplers.KSAMPLER``.
        live: see `ertacache.integrations.replayed_sampler.ReplayedSampler`; calibration's is not.
        counted: called after each evaluation of the model.

    Raises:
        PipelineError: if the sampler's steps cannot be skipped, or another cache is on the model.
    """

    def __init__(self, model: Any, sampler: Any, *, live: bool, counted: Callable[[], None] = lambda: None) -> None:
        refuse_other_caches(model)
        name = samplers.name_of(sampler)
        config = {**samplers.prediction_of(model), **_plain(sampler.extra_options)}
        network = model.model.diffusion_model
        super().__init__(
            guided_denoiser(type(network).__name__, network, identity_of(model)),
            replayed_sampler(f"ComfyUI {name}", samplers.loop_of(sampler, model), config, live=live),
        )
        self._counted = counted

    def __call__(
        self, begin: Begin, *, true_cfg_scale: float = 1.0, guidance_scale: float = 0.0, cfg_2: float = 0.0
    ) -> Any:
        """Sample.

        Args:
            begin: runs ComfyUI's own sampling with this line, and returns what it returns.
            true_cfg_scale: the scale of the guider, compared with calibration's.
            guidance_scale: that which the model takes as an input, as FLUX does; 0 for none.
            cfg_2: the second scale of guiders that have two; 0 for none.
        """
        return begin(self)

    def through(
        self,
        executor: Any,
        guider: Any,
        sigmas: Tensor,
        extra_args: Mapping[str, Any],
        *rest: Any,
        policy: Policy | None = None,
        **options: Any,
    ) -> Any:
        """Run a sampler's whole loop, whose evaluations then find this line.

        Args:
            executor: runs it, with the further arguments of SAMPLER_SAMPLE.
            guider: what evaluates.
            sigmas: the noise levels, (T + 1,).
            extra_args: of the sampler, with the seed and the model's options.
            rest, options: the further arguments.
            policy: what is followed; noise levels that are a part of its own go on where that part begins.
        """
        whole, begin = _place_in(policy, [float(sigma) for sigma in sigmas.tolist()])
        self.scheduler.set_timesteps(whole, begin=begin, seed=extra_args.get("seed") or 0)
        found = extra_args["model_options"].setdefault("transformer_options", {})
        found[KEY] = self
        try:
            return executor(guider, sigmas, extra_args, *rest, **options)
        finally:
            found.pop(KEY, None)

    def denoised(self, guider: Any, evaluate: Callable[[], Tensor], latent: Tensor, sigma: Tensor) -> Tensor:
        """Get the denoised latent of one evaluation: ``evaluate``'s own, or a prediction without it.

        Args:
            guider: what evaluates; its conditionings tell which apply at this noise level.
            evaluate: gives the denoised latent, (batch, ...).
            latent: ``x``, (batch, ...), float32.
            sigma: the noise level of each sample, (batch,).
        """
        index, level = self.scheduler.step_index, float(sigma.flatten()[0])
        if index < len(self.scheduler.timesteps):
            expected = float(self.scheduler.timesteps[index])
            if not math.isclose(level, expected, rel_tol=NEAR, abs_tol=1e-6):
                raise samplers.off_the_grid(type(self.scheduler).__name__.removeprefix("ComfyUI "), level, expected)
        own: list[tuple[Tensor, Tensor]] = []

        def call() -> Tensor:
            denoised = evaluate()
            output = samplers.slope(latent, denoised, sigma)
            own.append((output, denoised))
            self._counted()
            return output

        output = self.evaluated(latent, call, applying(getattr(guider, "conds", {}), level))
        if own and output is own[0][0]:
            return own[0][1]  # to the bit what it would be without us
        return samplers.denoised_by(latent, output, sigma)


def attach(model: Any, sampling: Callable[..., Any]) -> Any:
    """Clone a model so that its sampling goes through ``sampling``; the original stays as it is.

    Args:
        model: the ``ModelPatcher``.
        sampling: a wrapper of SAMPLER_SAMPLE. It puts a line under `KEY` into the options of the model.
    """
    clone = model.clone()
    wrappers = comfy.patcher_extension.WrappersMP
    for kind, wrapper in ((wrappers.SAMPLER_SAMPLE, sampling), (wrappers.PREDICT_NOISE, _predict)):
        clone.remove_wrappers_with_key(kind, KEY)
        clone.add_wrapper_with_key(kind, KEY, wrapper)
    return clone


def _predict(executor: Any, x: Tensor, timestep: Tensor, model_options: Any = None, seed: Any = None) -> Tensor:
    """The wrapper of PREDICT_NOISE."""
    line = (model_options or {}).get("transformer_options", {}).get(KEY)

    def evaluate() -> Tensor:
        denoised: Tensor = executor(x, timestep, model_options, seed)
        return denoised

    return line.denoised(executor.class_obj, evaluate, x, timestep) if isinstance(line, ComfyLine) else evaluate()


def refuse_other_caches(model: Any) -> None:
    """Raise `PipelineError` if ComfyUI's own caches are on a model."""
    on = model.wrappers.values() if hasattr(model, "wrappers") else ()
    found = [name for kind in on for name in kind if name in OTHER_CACHES and kind[name]]
    if found:
        raise PipelineError(
            "another cache is on this model, and two would skip each other's steps",
            given=found[0],
            cure="Remove that node, or bypass it.",
        )


def guidance_of(guider: Any) -> dict[str, float]:
    """The scales of a guider, as arguments of `ComfyLine.__call__`."""
    scales = {"true_cfg_scale": float(getattr(guider, "cfg", getattr(guider, "cfg1", 1.0)))}
    if hasattr(guider, "cfg2"):
        scales["cfg_2"] = float(guider.cfg2)
    conditionings = getattr(guider, "conds", None) or getattr(guider, "original_conds", {})
    embedded = [one["guidance"] for one in conditionings.get("positive", ()) if one.get("guidance") is not None]
    return scales | ({"guidance_scale": float(embedded[0])} if embedded else {})


def applying(conditionings: Mapping[str, Sequence[Mapping[str, Any]]], level: float) -> list[int]:
    """Which of a guider's conditionings apply at a noise level, 1 or 0 each, in order: some have a range."""
    return [
        int(level <= one.get("timestep_start", math.inf) and level > one.get("timestep_end", -math.inf))
        for name in sorted(conditionings)
        for one in conditionings[name] or ()
    ]


def identity_of(model: Any) -> dict[str, Any]:
    """What distinguishes a model beside its weights: its configuration, and the patches (LoRAs) put on it."""
    config = _plain(getattr(model.model.model_config, "unet_config", {}))
    uuid = getattr(model, "patches_uuid", None)
    if uuid is None or uuid not in _known:
        while len(_known) >= _KEPT:
            del _known[next(iter(_known))]
        _known[uuid] = _patches(model)
    return {**config, "patches": _known[uuid]}


_known: dict[Any, str] = {}
"""Digests by ComfyUI's number of a state of patches, since large LoRAs take a second to read."""
_KEPT = 64


def _patches(model: Any) -> str:
    """A digest of the weights' patches with their strengths; "none" without any."""
    parts = []
    for name, patches in sorted(getattr(model, "patches", {}).items()):
        for strength, what, *_ in patches:
            tensors = getattr(what, "weights", what)
            tensors = tensors if isinstance(tensors, (list, tuple)) else [tensors]
            sizes = [float(t.double().norm()) for t in tensors if isinstance(t, Tensor) and t.is_floating_point()]
            parts.append(f"{name} {float(strength):g} {type(what).__name__} {[f'{size:.6g}' for size in sizes]}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16] if parts else "none"


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers, texts and lists among options; of a function, its name and the numbers that it was made with."""
    plain: dict[str, Any] = {}
    for name, value in options.items():
        if isinstance(value, (int, float, str, bool, list, tuple, type(None))):
            plain[str(name)] = value
        elif isinstance(value, torch.dtype):
            plain[str(name)] = str(value)
        elif inspect.isfunction(value):
            plain[str(name)] = {"function": value.__qualname__, **_plain(inspect.getclosurevars(value).nonlocals)}
    return plain


def _place_in(policy: Policy | None, levels: list[float]) -> tuple[list[float], int]:
    """The policy's noise levels, and the step at which these begin, if these are a part of them; else these, and 0."""
    whole = list(policy.origin.noise_levels) if policy is not None and policy.origin is not None else []
    for begin in range(len(whole) - len(levels) + 1):
        part = whole[begin : begin + len(levels)]
        if all(math.isclose(a, b, rel_tol=1e-4, abs_tol=1e-6) for a, b in zip(part, levels, strict=True)):
            return whole, begin
    return levels, 0
