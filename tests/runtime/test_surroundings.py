"""What stands around a call is part of what a policy was made for: strengths, settings, other caches, callbacks."""

from __future__ import annotations

import json
import struct

import diffusers
import numpy as np
import pytest
import torch
from diffusers import FirstBlockCacheConfig, PyramidAttentionBroadcastConfig

import ertacache
from contract.case import Family
from contract.families import CASES
from ertacache.errors import PipelineError, PolicyMismatchError
from ertacache.method.named_methods import Method
from ertacache.policy import Policy
from ertacache.runtime.call_setting import guidance_of
from ertacache.runtime.pipeline_settings import configuration_difference, settings_of

T = 8


@pytest.fixture
def calibrated():
    """A family by name, and a policy calibrated on it."""

    def make(name, **more):
        family = Family(CASES[name])
        calls = [{**family.arguments(seed), **more} for seed in (1, 2)]
        method = Method(schedule="uniform", predictor="aligned")
        policy = ertacache.calibrate(
            family.pipe, calls, num_inference_steps=T, num_computed_steps=5, method=method, progress=False
        )
        return family, policy

    return make


def test_every_argument_that_says_how_strongly_to_guide_is_known():
    def found(name, **more):
        family = Family(CASES[name])
        return guidance_of(family.pipe, (), {**family.case.call(), **more})

    assert {"min_guidance_scale", "max_guidance_scale"} <= found("StableVideoDiffusion").keys()
    assert {"pag_scale", "pag_adaptive_scale", "guidance_scale"} <= found("StableDiffusionPAG").keys()
    several = found("StableDiffusionXLControlNetPAG", controlnet_conditioning_scale=[0.5, 0.25])
    assert several["controlnet_conditioning_scale.1"] == 0.25
    scaled = found("FLUX", joint_attention_kwargs={"scale": 0.5})
    assert scaled["joint_attention_kwargs.scale"] == 0.5
    assert found("FLUX", joint_attention_kwargs={"scale": 1.0}) == found("FLUX")  # an adapter's, as if not given


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int64, torch.tensor, float, int])
def test_a_number_is_a_number_in_whatever_container(kind, calibrated):
    family, policy = calibrated("FLUX, true guidance", true_cfg_scale=4.0)
    with ertacache.accelerated(family.pipe, policy) as run:
        family.pipe(**family.arguments(1) | {"true_cfg_scale": kind(4)}, num_inference_steps=T)
    assert run.report.notes == []


@pytest.mark.parametrize("config", [FirstBlockCacheConfig(threshold=0.2), "PAB"], ids=["FirstBlockCache", "PAB"])
def test_another_cache_is_refused_by_its_name_by_calibration_and_by_enable(config, calibrated):
    family, policy = calibrated("FLUX, true guidance")
    if config == "PAB":
        config = PyramidAttentionBroadcastConfig(
            spatial_attention_block_skip_range=2, current_timestep_callback=lambda: 500
        )
    family.pipe.transformer.enable_cache(config)
    name = type(config).__name__.removesuffix("Config")
    by_hand = Policy(num_inference_steps=T, cached_steps=(2, 3), method=Method())
    for one in (policy, by_hand):
        with pytest.raises(PipelineError, match=f"another cache is on: {name}.*disable_cache"):
            ertacache.enable(family.pipe, one)
    with pytest.raises(PipelineError, match=name):
        ertacache.calibrate(
            family.pipe, [family.arguments(1)], num_inference_steps=T, num_computed_steps=5, progress=False
        )
    family.pipe.transformer.disable_cache()
    with ertacache.accelerated(family.pipe, policy) as run:
        family.run(1)
        family.pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.2))  # after enable
        with pytest.raises(PipelineError, match="FirstBlockCache"):
            family.run(1)
    assert run.cached_steps == policy.cached_steps


def test_cache_dit_is_refused_by_its_name(make_flux, make_policy):
    cache_dit = pytest.importorskip("cache_dit")
    pipe = make_flux()
    cache_dit.enable_cache(pipe)
    with pytest.raises(PipelineError, match="another cache is on: cache-dit"):
        ertacache.enable(pipe, make_policy(T, (2, 3)))
    cache_dit.disable_cache(pipe)
    ertacache.enable(pipe, make_policy(T, (2, 3)))


def test_the_models_settings_are_known():
    pipe = Family(CASES["StableDiffusion, DDIM"]).pipe
    modules = {"unet": pipe.unet}
    plain = settings_of(pipe, modules)
    assert plain["unet: attention processors"] == ["AttnProcessor"]
    pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.4, b2=1.6)
    assert settings_of(pipe, modules)["unet: FreeU"][0] == [0.9, 0.2, 1.4, 1.6]
    pipe.disable_freeu()
    assert settings_of(pipe, modules) == plain
    pipe.unet.forward = lambda *args, **kwargs: None
    assert "<lambda>" in settings_of(pipe, modules)["unet: forward()"]
    del pipe.unet.forward
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, clip_sample=False, rescale_betas=True)
    assert settings_of(pipe, modules)["scheduler.clip_sample"] is False


def test_a_configuration_that_a_newer_diffusers_has_added_to_is_the_same():
    model = Family(CASES["FLUX"]).pipe.transformer
    expected = dict(model.config)
    kind = type(model)
    known = {key: value for key, value in expected.items() if key != "guidance_embeds"}  # as if it were new
    assert configuration_difference(known, {**expected, "guidance_embeds": False}, kind) is None
    assert configuration_difference(known, {**expected, "guidance_embeds": True}, kind) == (
        "guidance_embeds",
        False,
        True,
    )
    assert configuration_difference({**expected, "dropped_since": 3}, expected, kind) is None
    assert configuration_difference(expected, {**expected, "num_layers": 9}, kind)[0] == "num_layers"


def test_a_policy_from_before_a_key_was_added_is_followed(calibrated, tmp_path):
    """The whole way through a file, whose configuration lacks a key that the model has at its default."""
    family, policy = calibrated("FLUX, true guidance")
    policy.save(tmp_path / "p.safetensors")
    loaded = Policy.load(tmp_path / "p.safetensors")
    assert loaded.origin.denoisers["transformer"].config.pop("guidance_embeds") is False
    with ertacache.accelerated(family.pipe, loaded) as run:
        family.run(1)
    assert run.report.notes == []
    loaded.origin.denoisers["transformer"].config["num_layers"] = 7
    with pytest.raises(PolicyMismatchError, match="configuration of transformer, num_layers was 7"):
        ertacache.enable(family.pipe, loaded)


def swapping(name, at=2):
    def callback(pipe, step, timestep, values):
        return {name: values[name].flip(-1)} if step == at else {}

    return {"callback_on_step_end": callback, "callback_on_step_end_tensor_inputs": ["latents", name]}


def test_a_callback_that_swaps_the_prompt_is_said_and_the_next_step_is_computed(calibrated):
    family, policy = calibrated("FLUX, true guidance")
    at = policy.cached_steps[0] - 1
    with ertacache.accelerated(family.pipe, policy) as run:
        family.pipe(**family.arguments(1), num_inference_steps=T, **swapping("prompt_embeds", at))
        assert at + 1 in run.computed_steps
        assert f"a callback changed prompt_embeds before step {at + 1}" in run.report.notes[0]
        family.run(1)
        assert run.cached_steps == policy.cached_steps
    assert run.report.notes == []


def test_what_callbacks_did_in_calibration_is_expected(calibrated):
    family, policy = calibrated("FLUX, true guidance", **swapping("prompt_embeds"))
    assert policy.origin.changes == (3,)
    assert 3 in policy.computed_steps
    with ertacache.accelerated(family.pipe, policy) as run:
        family.pipe(**family.arguments(1), num_inference_steps=T, **swapping("prompt_embeds"))
    assert run.report.notes == []
    assert run.cached_steps == policy.cached_steps


@pytest.mark.parametrize(
    "act",
    [
        lambda pipe, values: values["latents"].mul_(1.01),
        lambda pipe, values: {"latents": values["latents"] * 1.01},
        lambda pipe, values: {"prompt_embeds": values["prompt_embeds"].clone()},
        lambda pipe, values: {},
        lambda pipe, values: values,
        lambda pipe, values: setattr(pipe, "_interrupt", False),
    ],
    ids=["latents in place", "other latents", "a clone", "nothing", "all of it", "interrupt"],
)
def test_callbacks_that_change_no_condition_change_nothing(act, calibrated):
    family, policy = calibrated("FLUX, true guidance")

    def callback(pipe, step, timestep, values):
        found = act(pipe, values)
        return found if isinstance(found, dict) else {}

    inputs = {"callback_on_step_end_tensor_inputs": ["latents", "prompt_embeds"]}
    with ertacache.accelerated(family.pipe, policy) as run:
        family.pipe(**family.arguments(1), num_inference_steps=T, callback_on_step_end=callback, **inputs)
    assert run.report.notes == []
    assert run.cached_steps == policy.cached_steps


def test_diffusers_own_callbacks_keep_their_inputs(calibrated):
    from diffusers.callbacks import MultiPipelineCallbacks, SDCFGCutoffCallback

    family, _ = calibrated("StableDiffusion, DDIM")
    for official in (SDCFGCutoffCallback(0.5), MultiPipelineCallbacks([SDCFGCutoffCallback(0.5)])):
        plain = family.pipe(
            **family.arguments(1), num_inference_steps=T, callback_on_step_end=official, output_type="latent"
        )[0]
        by_hand = Policy(num_inference_steps=T, cached_steps=(), method=Method())
        with ertacache.accelerated(family.pipe, by_hand):
            out = family.pipe(
                **family.arguments(1), num_inference_steps=T, callback_on_step_end=official, output_type="latent"
            )[0]
        assert torch.equal(out, plain)


def test_a_file_keeps_the_samples_to_the_bit(calibrated, tmp_path):
    _, policy = calibrated("FLUX")
    policy.save(tmp_path / "p.safetensors")
    loaded = Policy.load(tmp_path / "p.safetensors")
    assert loaded.origin == policy.origin
    raw = (tmp_path / "p.safetensors").read_bytes()
    header = json.loads(raw[8 : 8 + struct.unpack("<Q", raw[:8])[0]])
    assert header["weights.transformer.elements"]["dtype"] == "F32"
    assert loaded.origin.versions["diffusers"] == diffusers.__version__
