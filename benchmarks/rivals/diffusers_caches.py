"""The caches of diffusers 0.42, applied by its own hooks, on all four pipelines.

What differs from a plain ``enable_cache(config)``, so that no rival is worse here than it has to be:

- The blocks of Open-Sora's denoiser stand in two lists that run by turns, under names that diffusers does not look
  for; for as long as a cache is attached they are offered to it in one list.
- Pyramid Attention Broadcast and FasterCache keep one state for an attention module. Where guidance calls the denoiser
  twice in a step, both branches would share it, each getting the other's attention; here each branch has its own.
- SeaCache is told the step and the noise level by the Wan pipeline only; here by all.
- TaylorSeer's default patterns match none of Wan's modules, and the attention only elsewhere; here it predicts the
  outputs of attention and feed-forward, as its paper does.

Checked against the authors' code, run side by side with the hooks as they are attached here. PSNR is that of latents
against the full run's, 30 steps, one or two held-out prompts.

- PAB: NUS-HPC-AI-Lab/VideoSys at 4cce477. The rule of ``videosys/core/pab/pab_mgr.py`` on the timesteps of all four
  pipelines, 8 to 50 steps: all 48000 decisions the same, 27883 of them to broadcast. The forward of their CogVideoX
  block in our small CogVideoX, 5 settings and 2 prompts: latents bit for bit the same. Their Open-Sora block keeps the
  attention after its gate, the hook before it: their lines, put by hand into our block, end between 0.5 dB below and
  0.1 dB above the hook. There they can also broadcast feed-forwards, which diffusers cannot: with theirs, moved to the
  nearest timesteps, 41.0 dB becomes 37.2 and 45.0 becomes 41.3, for 48 of 240 feed-forwards saved. Their range for
  Open-Sora, 450 to 930, is as good as the (100, 800) here: 41.0 against 41.6 dB, and 45.0 against 44.8.
- FasterCache: Vchitect/FasterCache at 02d05ef, ``scripts/opensora/fastercache_sample_opensora.py``. Their split of
  frequencies on 6 sizes, and their ``fastercache_model_forward`` on random outputs of 30 steps, 15 of them with the
  conditional half only: equal to the bit to the hook's, told the same steps and weights. Two things differ. The hook
  extrapolates attention from its last two outputs, reused ones included, they from the last two computed: with their
  rule put into the hook, Open-Sora loses 0.05 to 1.9 dB in 8 of 9 runs and gains 0.5 in one, at the strongest setting.
  And their script fixes steps and weights: ported by hand, with 45 of 60 half batches computed, it gives 27.9 dB, the
  setting here that comes nearest, (2, 5, (-1, 850)) with 43, 40.8 dB (one prompt). Their guidance cache for two calls
  a step was neither found in these scripts nor tried.
- FirstBlockCache: chengzeyi/ParaAttention at 4de137c, ``src/para_attn/first_block_cache/utils.py``. Their
  ``CachedTransformerBlocks`` in FLUX (whose single blocks were wrapped to take text and picture in one), Wan and
  CogVideoX, 3 thresholds, 16 steps: all 240 decisions the same, 45 of them to skip, and all latents bit for bit.
  Where guidance calls twice, with their ``enable_alter_cache``. They have nothing for Open-Sora.
- MagCache: Zehong-Ma/MagCache at df81cb1. The rule of ``MagCache4FLUX/magcache_flux.py`` without its exception below,
  the settings here, made-up ratios, 8 to 50 steps: 19197 of 19200 decisions the same, the other three in one run that
  changes with the threshold's sixth decimal. That of ``MagCache4Wan2.1/magcache_generate.py``: all 4800 the same at 30
  steps; at some other numbers it rounds the steps always computed differently. Their FLUX calibration: ratios within
  5e-6, as they round to five decimals. Their whole ``magcache_forward`` in FLUX without guidance, 4 settings, 2
  prompts: latents bit for bit the same without the exception, that FLUX.1-dev's step 11 of 28 is never skipped; with
  it, between 0.5 dB below and 0.7 above. Their Wan keeps ratios for each guidance branch, here is the mean of both.
- TaylorSeer: Shenyi-Z/TaylorSeer at 288776d, ``TaylorSeer-FLUX/src/flux``. Predictions of their ``taylor_formula`` and
  ``derivative_approximation``, order 1 and 2, their steps given to both: equal, past the first interval, in which their
  second order is not there yet. Steps differ: with interval N they compute 0, 1, 2, 2 + N, 2 + 2N, ..., diffusers 0, 1,
  2, 4, 4 + N, ..., and here the last. Theirs in FLUX, order 1: 47.7 dB with 12 steps against 52.5 with 13 here (N = 3),
  32.0 with 7 against 33.9 with 9 (N = 6).
- SeaCache: only read, jiwoogit/SeaCache at 0a91c2b, ``Wan2.1/seacache_generate.py``. They filter what enters the first
  block, modulated, and reuse the residual as it is; diffusers filters the latent and by default extrapolates it.
"""

from __future__ import annotations

import ast
import io
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stdout
from typing import Any

import numpy as np
import torch
from diffusers import (
    FasterCacheConfig,
    FirstBlockCacheConfig,
    MagCacheConfig,
    SeaCacheConfig,
    TaylorSeerCacheConfig,
)
from diffusers.hooks import HookRegistry
from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry
from diffusers.hooks.faster_cache import (
    FasterCacheBlockHook,
    FasterCacheBlockState,
    _apply_faster_cache_on_denoiser,
)
from diffusers.hooks.pyramid_attention_broadcast import (
    PyramidAttentionBroadcastHook,
    PyramidAttentionBroadcastState,
)
from torch import Tensor, nn

from benchmarks.rivals.base import Calls, Knobs, Rival, Subject, left_as_found, ordered_blocks
from ertacache.opensora import STDiT3Transformer3DModel
from ertacache.opensora.blocks import OpenSoraBlock

Attach = Callable[[Subject, Knobs, Any], Any]


@contextmanager
def _hooks_of_its_own(denoiser: nn.Module) -> Iterator[None]:
    """Let diffusers' hooks begin from none; entering a cache context leaves an empty registry behind, which stays."""
    with left_as_found(denoiser):
        for module in denoiser.modules():
            vars(module).pop("_diffusers_hook", None)
        yield


@contextmanager
def _as_diffusers_sees_it(subject: Subject) -> Iterator[Any]:
    """The denoiser, its blocks found under a name that diffusers knows; afterwards as it was."""
    denoiser = subject.denoiser
    with ExitStack() as stack:
        if isinstance(denoiser, STDiT3Transformer3DModel):
            TransformerBlockRegistry.register(OpenSoraBlock, TransformerBlockMetadata(return_hidden_states_index=0))
            denoiser.transformer_blocks = nn.ModuleList(ordered_blocks(denoiser))
            stack.callback(delattr, denoiser, "transformer_blocks")
        with _hooks_of_its_own(denoiser):
            yield denoiser


def _enabled(config_for: Callable[[Subject, Knobs, Any], Any]) -> Attach:
    """Enable a cache by its configuration."""

    @contextmanager
    def attach(subject: Subject, knobs: Knobs, prepared: Any) -> Iterator[None]:
        with _as_diffusers_sees_it(subject) as denoiser, torch.no_grad():
            denoiser.enable_cache(config_for(subject, knobs, prepared))
            yield

    return attach


def thresholds(name: str, low: float, high: float, count: int = 9) -> Callable[[Subject], list[Knobs]]:
    """Settings of one threshold, evenly spaced in its logarithm."""
    return lambda subject: [{name: float(f"{value:.3g}")} for value in np.geomspace(low, high, count)]


FIRST_BLOCK_CACHE = Rival(
    name="FirstBlockCache",
    source="ParaAttention (chengzeyi/ParaAttention); diffusers' FirstBlockCacheConfig",
    knobs=thresholds("threshold", 0.01, 1.0),
    attach=_enabled(lambda subject, knobs, prepared: FirstBlockCacheConfig(threshold=knobs["threshold"])),
    adaptive=True,
)


def _magnitude_ratios(subject: Subject) -> list[float]:
    """As users of diffusers get them: printed at the end of a calibrating run. Mean of prompts and branches."""
    found: list[list[float]] = []
    config = MagCacheConfig(calibrate=True, num_inference_steps=subject.num_steps)
    for number, prompt in enumerate(subject.calibration_prompts[:4]):
        with _as_diffusers_sees_it(subject) as denoiser, redirect_stdout(io.StringIO()) as printed:
            denoiser.enable_cache(config)
            generator = torch.Generator().manual_seed(number)
            subject.pipe(prompt=prompt, generator=generator, output_type="latent", **subject.arguments)
        found += [ast.literal_eval(line) for line in printed.getvalue().splitlines() if line.startswith("[1.0")]
    return [float(ratio) for ratio in np.mean(found, axis=0)]


MAG_CACHE = Rival(
    name="MagCache",
    source="arXiv 2506.09045; diffusers' MagCacheConfig, its ratios calibrated on four prompts",
    knobs=lambda subject: [
        {"threshold": threshold, "max_skip_steps": steps, "retention_ratio": retained}
        for threshold, steps, retained in (
            (0.01, 1, 0.2),
            (0.03, 2, 0.2),
            (0.06, 3, 0.2),
            (0.12, 3, 0.2),
            (0.12, 4, 0.1),
            (0.24, 5, 0.1),
            (0.5, 6, 0.1),
            (1.0, 8, 0.1),
        )
    ],
    prepare=_magnitude_ratios,
    attach=_enabled(
        lambda subject, knobs, prepared: MagCacheConfig(
            mag_ratios=prepared, num_inference_steps=subject.num_steps, **knobs
        )
    ),
)

_PREDICTED: Mapping[str, tuple[list[str], list[str]]] = {
    "flux": (
        [r"transformer_blocks\.\d+\.(attn|ff|ff_context)", r"single_transformer_blocks\.\d+\.proj_out"],
        [r"single_transformer_blocks\.\d+\.(attn|proj_mlp)"],
    ),
    "wan": ([r"blocks\.\d+\.(attn1|attn2|ffn)"], []),
    "cogvideox": ([r"transformer_blocks\.\d+\.(attn1|ff)"], []),
    "opensora": ([r"(spatial|temporal)_blocks\.\d+\.(attn|cross_attn|ff)"], []),
}
"""Modules whose outputs TaylorSeer predicts, and those whose outputs only these need: a single block of FLUX ends in
one projection of attention and feed-forward together."""


def _taylor_seer(subject: Subject, knobs: Knobs, prepared: Any) -> TaylorSeerCacheConfig:
    options = dict(knobs)
    if not options.get("use_lite_mode"):
        cached, skipped = _PREDICTED[subject.family]
        options |= {"cache_identifiers": cached, "skip_predict_identifiers": skipped or None}
    # The last step is computed: the hooks would predict it wherever the interval falls.
    return TaylorSeerCacheConfig(
        **options, taylor_factors_dtype=torch.float32, disable_cache_after_step=subject.num_steps - 1
    )


def _intervals(**options: Any) -> Callable[[Subject], list[Knobs]]:
    return lambda subject: [
        {"cache_interval": interval, "max_order": order, "disable_cache_before_step": 3, **options}
        for interval in (2, 3, 4, 5, 6, 8)
        for order in (1, 2)
    ]


TAYLOR_SEER = Rival(
    name="TaylorSeer",
    source="arXiv 2503.06923; diffusers' TaylorSeerCacheConfig",
    knobs=_intervals(),
    attach=_enabled(_taylor_seer),
)
TAYLOR_SEER_LITE = Rival(
    name="TaylorSeer lite",
    source="the same, predicting the output of the denoiser's last projection",
    knobs=_intervals(use_lite_mode=True),
    attach=_enabled(_taylor_seer),
)


def _vision(subject: Subject) -> Callable[[nn.Module, Any, Mapping[str, Any]], list[Tensor]]:
    """The latents of a denoiser call as SeaCache filters them: (channels, frames, height, width) each."""

    def clips(module: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> list[Tensor]:
        latents: Tensor = kwargs["hidden_states"]
        if subject.family == "flux":  # tokens of 2 x 2 patches, of a square picture
            batch, tokens, depth = latents.shape
            side = round(tokens**0.5)
            patches = latents.view(batch, side, side, depth // 4, 2, 2)
            latents = patches.permute(0, 3, 1, 4, 2, 5).reshape(batch, depth // 4, 1, 2 * side, 2 * side)
        elif subject.name == "cogvideox":  # frames before channels
            latents = latents.transpose(1, 2)
        return list(latents.unbind(0))

    return clips


def noise_level(scheduler: Any, step: int) -> float:
    """The share of noise before a step, 0 .. 1."""
    if hasattr(scheduler, "sigmas"):
        return float(scheduler.sigmas[step])
    timestep = scheduler.timesteps[step]
    if hasattr(scheduler, "alphas_cumprod"):
        return float((1 - scheduler.alphas_cumprod[int(timestep)]) ** 0.5)
    return float(timestep / scheduler.config.num_train_timesteps)


@contextmanager
def _sea_cache(subject: Subject, knobs: Knobs, prepared: Any) -> Iterator[None]:
    scheduler, calls = subject.pipe.scheduler, Calls(subject.calls_per_step)

    with _as_diffusers_sees_it(subject) as denoiser, calls.counted(denoiser), torch.no_grad():
        tell = denoiser.cache_context

        def told(name: str, **given: Any) -> Any:
            step = (calls.made + 1) // calls.per_step  # the context is entered before the call is counted
            place = {"step_index": step, "num_inference_steps": subject.num_steps}
            return tell(name, **{**place, "sigma": noise_level(scheduler, step), **given})

        denoiser.cache_context = told
        denoiser.enable_cache(SeaCacheConfig(raw_vision_callback=_vision(subject), **knobs))
        yield


SEA_CACHE = Rival(
    name="SeaCache",
    source="arXiv 2602.18993; diffusers' SeaCacheConfig",
    knobs=lambda subject: [
        {"threshold": threshold, "max_consecutive_cached": most}
        for threshold, most in (
            (0.01, 1),
            (0.02, 2),
            (0.05, 2),
            (0.1, 2),
            (0.15, 3),
            (0.25, 3),
            (0.4, 4),
            (0.6, 6),
            (1.0, 8),
        )
    ],
    attach=_sea_cache,
    adaptive=True,
)

_ATTENTION: Mapping[str, dict[str, str]] = {
    "flux": {"spatial": r"(single_)?transformer_blocks\.\d+\.attn"},
    "wan": {"spatial": r"blocks\.\d+\.attn1", "cross": r"blocks\.\d+\.attn2"},
    "cogvideox": {"spatial": r"transformer_blocks\.\d+\.attn1"},
    "opensora": {
        "spatial": r"spatial_blocks\.\d+\.attn",
        "temporal": r"temporal_blocks\.\d+\.attn",
        "cross": r"(spatial|temporal)_blocks\.\d+\.cross_attn",
    },
}
"""What each attention attends to."""


@contextmanager
def _branches_apart(calls: Calls, denoiser: nn.Module, hooks: list[Any], fresh: Callable[[], Any]) -> Iterator[None]:
    """Give each hook a state for each guidance branch."""
    states = [[fresh() for _ in hooks] for _ in range(calls.per_step)]

    def swap(module: nn.Module, args: Any) -> None:
        for hook, state in zip(hooks, states[calls.branch], strict=True):
            hook.state = state

    handle = denoiser.register_forward_pre_hook(swap)
    try:
        yield
    finally:
        handle.remove()


def _attentions(subject: Subject) -> Iterator[tuple[str, nn.Module]]:
    for name, module in subject.denoiser.named_modules():
        for kind, pattern in _ATTENTION[subject.family].items():
            if re.fullmatch(pattern, name):
                yield kind, module


@contextmanager
def _pyramid(subject: Subject, knobs: Knobs, prepared: Any) -> Iterator[None]:
    calls, hooks = Calls(subject.calls_per_step), []
    with _hooks_of_its_own(subject.denoiser), calls.counted(subject.denoiser):
        for kind, module in _attentions(subject):
            hook = PyramidAttentionBroadcastHook(
                knobs["timestep_skip_range"], knobs[kind], lambda: float(subject.pipe.scheduler.timesteps[calls.step])
            )
            HookRegistry.check_if_exists_or_initialize(module).register_hook(hook, "pyramid_attention_broadcast")
            hooks.append(hook)
        with _branches_apart(calls, subject.denoiser, hooks, PyramidAttentionBroadcastState):
            yield


PYRAMID = Rival(
    name="PAB",
    source="arXiv 2408.12588; diffusers' PyramidAttentionBroadcastHook, the skip ranges by kind of attention",
    knobs=lambda subject: [
        {"timestep_skip_range": span, "spatial": spatial, "temporal": temporal, "cross": cross}
        for span, spatial, temporal, cross in (
            ((100, 800), 2, 4, 6),
            ((100, 850), 3, 5, 7),
            ((100, 950), 5, 7, 9),
            ((0, 1000), 8, 12, 16),
        )
    ],
    attach=_pyramid,
)


@contextmanager
def _faster_cache(subject: Subject, knobs: Knobs, prepared: Any) -> Iterator[None]:
    calls = Calls(subject.calls_per_step)
    twice = subject.calls_per_step == 2

    def timestep() -> float:
        return float(subject.pipe.scheduler.timesteps[calls.step])

    def weight(module: nn.Module) -> float:  # the paper's, from 0 to 1 as sampling goes on
        return calls.step / (subject.num_steps - 1)

    def boost(span: tuple[float, float]) -> Callable[[nn.Module], float]:
        return lambda module: 1.1 if span[0] < timestep() < span[1] else 1.0

    config = FasterCacheConfig(
        unconditional_batch_skip_range=knobs["unconditional_batch_skip_range"],
        unconditional_batch_timestep_skip_range=knobs["timestep_skip_range"],
        tensor_format="BFCHW" if subject.name == "cogvideox" else "BCFHW",
        is_guidance_distilled=twice,  # no batch of both branches to take apart
        current_timestep_callback=timestep,
        low_frequency_weight_callback=boost((99, 901)),
        high_frequency_weight_callback=boost((-1, 301)),
    )
    hooks = []
    with _hooks_of_its_own(subject.denoiser), calls.counted(subject.denoiser):
        _apply_faster_cache_on_denoiser(subject.denoiser, config)
        for kind, module in _attentions(subject):
            if kind == "cross":
                continue
            hook = FasterCacheBlockHook(
                knobs["attention_skip_range"], knobs["timestep_skip_range"], twice, weight, timestep
            )
            HookRegistry.check_if_exists_or_initialize(module).register_hook(hook, "faster_cache_block")
            hooks.append(hook)
        with _branches_apart(calls, subject.denoiser, hooks, FasterCacheBlockState):
            yield


FASTER_CACHE = Rival(
    name="FasterCache",
    source="arXiv 2410.19355; diffusers' hooks; its guidance cache where one call makes both branches",
    knobs=lambda subject: [
        {"attention_skip_range": attention, "unconditional_batch_skip_range": guidance, "timestep_skip_range": span}
        for attention, guidance, span in (
            (2, 2, (-1, 681)),
            (2, 5, (-1, 681)),
            (2, 5, (-1, 850)),
            (3, 5, (-1, 950)),
            (6, 8, (-1, 999)),  # the hook fails where its range takes in the very first step
        )
    ],
    attach=_faster_cache,
)
