"""Modular pipelines: what their calls take is in their blocks, and guidance is the guider's."""

from __future__ import annotations

import itertools

import diffusers
import pytest
import torch
from diffusers.hooks import LayerSkipConfig

import ertacache
from contract.case import STEPS, Family
from contract.families import CASES
from ertacache.calibration.prompts import calls_for
from ertacache.errors import CalibrationError, PipelineError, PolicyMismatchError
from ertacache.runtime.call_setting import CallSetting, guidance_of
from ertacache.runtime.call_signature import CallSignature
from ertacache.runtime.repeatable_call import twin_of


@pytest.fixture
def wan() -> Family:
    return Family(CASES["WanModular"])


def calls_of(family, seeds=(1, 2)):
    return [family.arguments(seed) for seed in seeds]


def test_arguments_are_those_of_the_blocks(wan):
    signature = CallSignature.of(wan.pipe)
    assert {"prompt_embeds", "height", "generator", "num_inference_steps", "output"} <= signature.defaults.keys()
    assert not signature.takes_any
    with pytest.raises(PipelineError, match=r"takes no 'guidance_scale'"):
        ertacache.calibrate(
            wan.pipe, calls_of(wan), num_inference_steps=STEPS, speedup=2, guidance_scale=4.0, progress=False
        )


def test_each_prompt_has_a_generator_of_its_own(wan):
    """Without one a text's loops would begin with other noise than its full run."""
    call = wan.case.call()
    made = calls_for(wan.pipe, [call, call], {"num_inference_steps": STEPS}, seed=3)
    assert [one.arguments()["generator"].initial_seed() for one in made] == [3, 4]


def test_asking_what_blocks_take_changes_nothing():
    family = Family(CASES["QwenImageModular"])
    conditional = family.pipe._blocks.sub_blocks["denoise"].sub_blocks["inpaint"].sub_blocks["input"]
    before = [param.required for param in conditional.sub_blocks["additional_inputs"]._image_latent_inputs]
    CallSignature.of(family.pipe)
    after = [param.required for param in conditional.sub_blocks["additional_inputs"]._image_latent_inputs]
    assert before == after


def test_the_guiders_scale_is_the_calls_guidance(wan):
    assert guidance_of(wan.pipe, (), {})["guidance_scale"] == 4.0
    two = Family(CASES["Wan22Modular"])
    assert guidance_of(two.pipe, (), {}) == {"guidance_scale": 4.0, "guidance_scale_2": 3.0}


def test_another_scale_of_the_guider_is_not_followed_in_silence(wan):
    policy = ertacache.calibrate(wan.pipe, calls_of(wan), num_inference_steps=STEPS, speedup=2, progress=False)
    wan.pipe.update_components(guider=diffusers.ClassifierFreeGuidance(guidance_scale=2.0))
    with pytest.raises(PolicyMismatchError, match="guid"), ertacache.accelerated(wan.pipe, policy):
        wan.run()


@pytest.mark.parametrize("options", [{"speedup": 2}, {"speedup": 2, "learn": True}])
def test_instant_and_learnt_policies_serve_it(wan, options, tmp_path):
    options = {**options, **({"learn": tmp_path} if "learn" in options else {})}
    full = wan.run(5)
    for _ in range(2):
        with ertacache.accelerated(wan.pipe, **options) as run:
            out = wan.run(5)
    assert len(run.report.cached_steps) == STEPS // 2
    assert 0 < float((out - full).norm() / full.norm()) < 0.3


def test_a_twin_shows_no_progress_bars_and_shares_no_blocks(wan, capsys):
    twin = twin_of(wan.pipe)
    assert twin._blocks is not wan.pipe._blocks
    twin(**wan.arguments(), num_inference_steps=2)
    assert "it/s" not in capsys.readouterr().err


def test_calibration_decodes_only_what_is_judged(wan, monkeypatch):
    decoded = []
    own = type(wan.pipe.vae).decode
    monkeypatch.setattr(type(wan.pipe.vae), "decode", lambda self, *a, **k: decoded.append(1) or own(self, *a, **k))
    ertacache.calibrate(wan.pipe, calls_of(wan), num_inference_steps=STEPS, speedup=2, progress=False)
    assert decoded == []
    assert "decode" in wan.pipe.blocks.sub_blocks
    quick = ertacache.Method(schedule="uniform", predictor="aligned")
    calls = calls_of(wan, range(12))
    ertacache.calibrate(
        wan.pipe, calls, num_inference_steps=STEPS, min_psnr=5, method=quick, full_runs=2, progress=False
    )
    assert len(decoded) >= 12


def test_a_call_knows_the_sizes_of_the_blocks(wan):
    assert CallSetting.of(wan.pipe, (), {"height": 32}).sizes["height"] == 32


def test_auto_guidance_which_skips_layers_of_the_shared_denoiser_is_calibrated(wan):
    """It cannot be in the contract: its own interrupted calls leave a hook behind."""
    skip = LayerSkipConfig(indices=[1])
    wan.pipe.update_components(guider=diffusers.AutoGuidance(guidance_scale=3.0, auto_guidance_config=skip))
    policy = ertacache.calibrate(wan.pipe, calls_of(wan), num_inference_steps=STEPS, speedup=2, progress=False)
    full = wan.run(1)
    with ertacache.accelerated(wan.pipe, policy) as run:
        out = wan.run(1)
    assert run.cached_steps == policy.cached_steps
    assert float((out - full).norm() / full.norm()) < 2 * policy.calibration.error


class Forgetful(diffusers.FluxPipeline):
    """Draws its noise wherever it likes."""

    seeds = itertools.count()

    def prepare_latents(self, *args, **kwargs):
        latents, ids = super().prepare_latents(*args, **kwargs)
        seed = next(type(self).seeds)
        return torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed)), ids


def test_calls_that_begin_with_other_noise_are_refused():
    family = Family(CASES["FLUX"])
    pipe = Forgetful(**family.pipe.components)
    with pytest.raises(CalibrationError, match="begin with different noise"):
        ertacache.calibrate(pipe, calls_of(family), num_inference_steps=STEPS, speedup=2, progress=False)
