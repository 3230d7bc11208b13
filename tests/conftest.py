"""Tiny pipelines of real diffusers classes with random weights, and what tests of the runtime do to them.

They are built and run in fractions of a second on a CPU. Their text encoders are absent: calls bring embeddings.
"""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from torch import Tensor, nn

from ertacache.method.named_methods import Method
from ertacache.policy import Origin, Policy
from ertacache.runtime import identity

LONG = (
    "test_support.py",
    "test_workers.py",
    "test_contract.py",
    "test_benchmarks.py",
    "test_fuzz.py",
    "test_examples.py",
)
"""Files that take longest. On several processes they come first: what begins last would be waited for."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


def pytest_collection_finish() -> None:
    """Spare what was imported, a million objects, from every later collection of garbage: a sixth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)


SIZE = 16
"""Pixels; the latents are (batch, 16 tokens, 16 channels) for FLUX and (batch, 4, 8, 8) for SD3."""


def _lively(module: nn.Module, seed: int) -> nn.Module:
    """Weights with which the output depends on everything: fresh layers may be zero, or hardly see the timestep."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            scale = 1.4 / parameter.shape[-1] ** 0.5 if parameter.ndim >= 2 else 0.1
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return module.eval()


def _autoencoder() -> nn.Module:
    return _lively(
        AutoencoderKL(
            block_out_channels=(4, 4),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4,
            norm_num_groups=2,
            shift_factor=0.0,
            mid_block_add_attention=False,
        ),
        seed=1,
    )


def _scheduler(options: Mapping[str, Any]) -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(**{"shift": 3.0, **options})


def _build_flux(*, seed: int = 0, num_single_layers: int = 1, **scheduler_options: Any) -> FluxPipeline:
    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=num_single_layers,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=8,
        pooled_projection_dim=8,
        axes_dims_rope=(2, 2, 4),
    )
    pipe = FluxPipeline(
        scheduler=_scheduler(scheduler_options),
        vae=_autoencoder(),
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        transformer=_lively(transformer, seed),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _build_sd3(*, seed: int = 0, **scheduler_options: Any) -> StableDiffusion3Pipeline:
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        caption_projection_dim=16,
        joint_attention_dim=8,
        pooled_projection_dim=8,
        pos_embed_max_size=8,
    )
    pipe = StableDiffusion3Pipeline(
        scheduler=_scheduler(scheduler_options),
        vae=_autoencoder(),
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        text_encoder_3=None,
        tokenizer_3=None,
        transformer=_lively(transformer, seed),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def make_flux() -> Callable[..., FluxPipeline]:
    """Builds a tiny FLUX pipeline; keyword arguments: seed, num_single_layers, the scheduler's options."""
    return _build_flux


@pytest.fixture
def flux() -> FluxPipeline:
    """A tiny FLUX pipeline: true guidance takes two denoiser calls a step."""
    return _build_flux()


@pytest.fixture
def sd3() -> StableDiffusion3Pipeline:
    """A tiny SD3 pipeline: guidance takes one batched denoiser call a step."""
    return _build_sd3()


@pytest.fixture
def flux_call() -> Callable[..., dict[str, Any]]:
    """Arguments of one FLUX call: ``flux_call(steps=8, guided=False, prompts=1, seed=0, **more)``."""
    return functools.partial(_call_arguments, {"guided": {"true_cfg_scale": 4.0}, "unguided": {}}, 4)


@pytest.fixture
def sd3_call() -> Callable[..., dict[str, Any]]:
    """Arguments of one SD3 call, likewise."""
    scales = {"guided": {"guidance_scale": 4.0}, "unguided": {"guidance_scale": 1.0}}
    return functools.partial(_call_arguments, scales, 4)


def _call_arguments(
    scales: Mapping[str, Mapping[str, float]],
    tokens: int,
    *,
    steps: int = 8,
    guided: bool = False,
    prompts: int = 1,
    seed: int = 0,
    **more: Any,
) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1000 + seed)

    def embeds() -> dict[str, Tensor]:
        return {
            "prompt_embeds": torch.randn(prompts, tokens, 8, generator=generator),
            "pooled_prompt_embeds": torch.randn(prompts, 8, generator=generator),
        }

    arguments: dict[str, Any] = embeds() | dict(scales["guided" if guided else "unguided"])
    if guided:
        arguments |= {f"negative_{name}": value for name, value in embeds().items()}
    arguments |= {"num_inference_steps": steps, "height": SIZE, "width": SIZE, "output_type": "latent"}
    return arguments | {"generator": torch.Generator().manual_seed(seed)} | more


@pytest.fixture
def make_policy() -> Callable[..., Policy]:
    """A policy written by hand: ``make_policy(8, (2, 3), method="taylor", origin=..., ...)``."""

    def make(steps: int, cached: tuple[int, ...], method: str | Method = "reuse", **more: Any) -> Policy:
        return Policy(
            num_inference_steps=steps,
            cached_steps=cached,
            method=method if isinstance(method, Method) else Method.named(method),
            **more,
        )

    return make


@pytest.fixture
def origin_for() -> Callable[..., Origin]:
    """What a policy has noted of a pipeline and of a call with these arguments."""

    def note(pipe: Any, arguments: Mapping[str, Any], *, calls: int, shape: tuple[int, ...]) -> Origin:
        pipe(**{**arguments, "generator": torch.Generator().manual_seed(0)})
        return identity.origin_of(
            pipe,
            identity.circumstances_of(pipe, (), arguments),
            noise_levels=[float(sigma) for sigma in pipe.scheduler.sigmas],
            calls_per_step=calls,
            latent_shape=shape,
        )

    return note


class Counter:
    """Counts the calls that reach a module's ``forward``, from inside of every hook and cache."""

    def __init__(self, module: nn.Module) -> None:
        self.calls = 0
        own = module.forward

        @functools.wraps(own)
        def forward(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            return own(*args, **kwargs)

        module.forward = forward  # type: ignore[method-assign]

    def take(self) -> int:
        """The number of calls since the last time this was asked."""
        taken, self.calls = self.calls, 0
        return taken


@pytest.fixture
def counted() -> type[Counter]:
    """``counted(module)`` counts the calls of its forward; ``.take()`` tells and starts anew."""
    return Counter


class ToyDenoiser(nn.Module):
    """Whatever ``answer(sample, timestep)`` says; it counts its calls."""

    def __init__(self, answer: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.answer, self.calls = answer, 0
        self.weight = nn.Parameter(torch.ones(2, 2))

    def forward(self, sample: Tensor, timestep: Tensor) -> Any:
        self.calls += 1
        return self.answer(sample, timestep)


class ToyPipeline:
    """The loop that all pipelines have in common; ``denoise(pipe, i, sample, timestep)`` makes the model output."""

    def __init__(self, transformer: nn.Module, scheduler: Any, denoise: Callable[..., Tensor]) -> None:
        self.transformer, self.scheduler, self.denoise = transformer, scheduler, denoise

    @torch.no_grad()
    def __call__(self, latents: Tensor, num_inference_steps: int = 8, guidance_scale: float = 4.0) -> Tensor:
        self.scheduler.set_timesteps(num_inference_steps)
        for i, t in enumerate(self.scheduler.timesteps):
            model_output = self.denoise(self, i, latents, t)
            latents = self.scheduler.step(model_output, t, latents, return_dict=False)[0]
        return latents


@pytest.fixture
def make_toy() -> Callable[..., ToyPipeline]:
    """A hand-made pipeline: ``make_toy(answer, denoise=..., scheduler=...)``."""

    def make(
        answer: Callable[[Tensor, Tensor], Any] = lambda sample, timestep: sample * 0.5 + timestep / 1000,
        denoise: Callable[..., Tensor] = lambda pipe, i, sample, t: pipe.transformer(sample, t),
        scheduler: Any = None,
    ) -> ToyPipeline:
        return ToyPipeline(ToyDenoiser(answer), scheduler or FlowMatchEulerDiscreteScheduler(), denoise)

    return make
