"""What `doctor` says is what calls and calibrations do, and the pipeline is as it was."""

from __future__ import annotations

import copy
import time

import diffusers
import pytest
import torch
from accelerate import cpu_offload
from accelerate.hooks import AlignDevicesHook, add_hook_to_module, remove_hook_from_module

import ertacache
from contract.case import STEPS, Family
from contract.families import CASES
from contract.page import RECORD, from_json, reason_of
from contract.state import differences, state_of
from ertacache.calibration.recording_store import readable
from ertacache.diagnosis.estimate import estimate_of
from ertacache.diagnosis.trial import Trial
from ertacache.errors import ArgumentError, CalibrationError, PipelineError, PolicyMismatchError, RunError
from ertacache.method.worthwhile import FEW_STEPS
from tests.adapters import load_lora

RECORDED = from_json(RECORD.read_text(encoding="utf-8"))


@pytest.fixture
def call(flux_call):
    """The arguments of a call, without its number of steps."""
    return {name: value for name, value in flux_call(guided=True).items() if name != "num_inference_steps"}


def way(found, name):
    (one,) = [one for one in found.ways if one.name == name]
    return one


def level(found, name):
    (one,) = [one for one in found.levels if one.name == name]
    return one


@pytest.mark.parametrize("tried", [False, True])
def test_a_served_pipeline(flux, call, tried):
    found = ertacache.doctor(flux, time=tried, num_inference_steps=30, **call)
    assert found.served
    assert found.tried == tried
    assert all(one.refusal is None for one in (*found.ways, *found.levels))
    assert str(found).startswith("Served")
    assert found.scheduler.transfers
    assert "UniPCMultistepScheduler" in found.scheduler.others
    assert found.guidance["true_cfg_scale"] == 4.0
    assert found.to_json()["served"] is True
    assert found.findings == ()


def test_the_pipeline_is_left_as_it_was(flux, call, make_flux):
    call["generator"] = torch.Generator().manual_seed(3)
    before, kind, drawn, begun = state_of(flux), type(flux), torch.get_rng_state(), call["generator"].get_state()
    ertacache.doctor(flux, time=True, num_inference_steps=8, **call)
    assert differences(state_of(flux), before) == []
    assert type(flux) is kind
    assert torch.equal(torch.get_rng_state(), drawn)
    assert torch.equal(call["generator"].get_state(), begun)
    out = flux(**call, num_inference_steps=8).images
    call["generator"].manual_seed(3)
    assert torch.equal(make_flux()(**call, num_inference_steps=8).images, out)


def test_an_accelerated_pipeline_stays_so(flux, call, make_policy):
    with ertacache.accelerated(flux, make_policy(8, (2, 3))) as run:
        found = ertacache.doctor(flux, time=True, num_inference_steps=30, **call)
        flux(**call, num_inference_steps=8)
        assert run.cached_steps == (2, 3)
    assert found.served
    (finding,) = found.findings
    assert finding.what == "the pipeline is accelerated now"


@pytest.mark.parametrize("kind", ["FlowMatchHeunDiscreteScheduler", "PNDMScheduler"])
def test_a_scheduler_that_evaluates_twice_is_refused_as_a_call_refuses_it(sd3, sd3_call, kind):
    sd3.scheduler = getattr(diffusers, kind)()
    found = ertacache.doctor(sd3)
    with pytest.raises(PipelineError) as raised, ertacache.accelerated(sd3, speedup=2.0):
        sd3(**sd3_call())
    assert not found.served
    assert str(found).startswith(f"Not served: {raised.value.what} (given: ")
    assert found.refusal.cure == raised.value.cure
    assert way(found, "by hand").refusal == found.refusal


def test_another_cache_is_refused_with_the_way_to_turn_it_off(flux):
    flux.transformer.enable_cache(diffusers.FirstBlockCacheConfig(threshold=0.1))
    found = ertacache.doctor(flux)
    with pytest.raises(PipelineError) as raised:
        ertacache.enable(flux, speedup=2.0)
    assert str(found.refusal) == str(raised.value)
    assert "pipe.transformer.disable_cache()" in str(found)


def test_a_scheduler_that_clips_cannot_be_calibrated_and_the_error_is_calibrations(make_toy):
    toy = make_toy(scheduler=diffusers.DDIMScheduler(clip_sample=True))
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    found = ertacache.doctor(toy)
    with pytest.raises(CalibrationError) as raised:
        ertacache.calibrate(toy, [{"latents": latents}], num_inference_steps=8, speedup=2.0, progress=False)
    assert found.served
    assert str(way(found, "calibrate").refusal) == str(raised.value)
    assert way(found, "instant").refusal is None


def test_a_loop_that_cannot_be_followed_shows_in_a_trial(make_toy):
    toy = make_toy(denoise=lambda pipe, i, sample, t: pipe.transformer.forward(sample, t))
    latents = torch.ones(1, 4, 8, 8)
    assert ertacache.doctor(toy).served
    found = ertacache.doctor(toy, time=True, latents=latents)
    with pytest.raises(RunError) as raised, ertacache.accelerated(toy, speedup=2.0):
        toy(latents)
    assert not found.served
    assert str(found.refusal) == str(raised.value)


@pytest.mark.parametrize(
    "name",
    [
        "Wan 2.2",
        "WanModular",
        "LTX2",
        "StableDiffusionXLImg2Img",
        "Amused",
        "DDIM",
        "FluxControlNet",
        "HeliosPyramid",
        "VisualCloze",
    ],
)
def test_it_agrees_with_the_contract(name):
    family, (_, recorded) = Family(CASES[name]), RECORDED[name]
    call = family.all_arguments()
    call["num_inference_steps"] = STEPS
    found = ertacache.doctor(family.pipe, time=True, **call)
    assert found.served == recorded.works
    if found.refusal is not None:
        assert reason_of(str(found.refusal)) == reason_of(recorded.refusal)
        return
    assert {one.name for one in found.levels if one.refusal is None} == set(recorded.levels)
    assert (way(found, "calibrate").refusal is None) == (not recorded.calibration)


def test_the_second_experts_guidance_is_told_where_it_is_its_own():
    """Pipelines with one denoiser take the argument and refuse its default."""
    one = Family(CASES["Wan, UniPC"])
    assert "guidance_scale_2" not in str(ertacache.doctor(one.pipe, **one.arguments()))
    two = Family(CASES["Wan 2.2"])
    assert "guidance_scale_2=3" in str(ertacache.doctor(two.pipe, **two.arguments() | {"guidance_scale_2": 3.0}))


def test_compiled_as_a_whole_or_by_blocks(flux, call):
    flux.transformer.compile(backend="eager")
    found = ertacache.doctor(flux, time=True, num_inference_steps=8, **call)
    assert found.denoisers[0].state == ("compiled as a whole",)
    assert "compile_repeated_blocks" in level(found, "hidden").refusal.cure
    assert level(ertacache.doctor(flux), "hidden").refusal == level(found, "hidden").refusal
    assert level(found, "velocity").refusal is None
    flux.transformer._compiled_call_impl = None
    flux.transformer.compile_repeated_blocks(backend="eager")
    found = ertacache.doctor(flux, time=True, num_inference_steps=8, **call)
    assert found.denoisers[0].state == ("2 blocks compiled",)
    assert level(found, "hidden").refusal is None
    torch._dynamo.reset()


def test_hooks_that_move_inputs_alone_do_not_offload(flux):
    add_hook_to_module(flux.transformer, AlignDevicesHook(execution_device=torch.device("cpu")))
    assert ertacache.doctor(flux).denoisers[0].state == ()


def test_offloaded(flux, call):
    for module in (flux.transformer, flux.vae):
        cpu_offload(module, execution_device=torch.device("cpu"))
    found = ertacache.doctor(flux, time=True, num_inference_steps=8, **call)
    assert found.denoisers[0].state == ("offloaded (AlignDevicesHook of accelerate)",)
    assert found.served
    remove_hook_from_module(flux.transformer, recurse=True)
    assert ertacache.doctor(flux).denoisers[0].state == ()


def test_weights_in_other_storages(flux, call):
    assert ertacache.doctor(flux).denoisers[0].stored == "float32"
    flux.transformer.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    found = ertacache.doctor(flux, time=True, num_inference_steps=8, **call)
    assert found.denoisers[0].stored.startswith("float8_e4m3fn")
    assert found.denoisers[0].state == ("casts its weights to float32",)
    assert found.served


def test_adapters(flux):
    load_lora(flux)
    found = ertacache.doctor(flux)
    assert found.denoisers[0].adapters == ("style x 2",)
    assert "style x 2" in found.findings[0].what


def test_a_model_of_few_steps_is_told_so(flux, call):
    (finding,) = ertacache.doctor(flux, num_inference_steps=FEW_STEPS).findings
    assert finding.what.startswith(f"the call makes {FEW_STEPS} steps: ")
    assert ertacache.doctor(flux, num_inference_steps=FEW_STEPS + 1).findings == ()
    flux.register_to_config(_name_or_path="someone/FLUX.1-schnell")
    (finding,) = ertacache.doctor(flux).findings
    assert "by its name (schnell)" in finding.what
    found = ertacache.doctor(flux, time=True, num_inference_steps=2, **call)
    assert found.estimate is None
    assert found.findings[-1].what.startswith("the call makes 2 steps, too few to estimate")
    assert found.served


def test_a_policy_that_fits_and_one_that_does_not(flux, call, make_flux):
    policy = ertacache.calibrate(
        flux, [call, call], num_inference_steps=8, num_computed_steps=4, method="taylor", progress=False
    )
    found = ertacache.doctor(flux, policy, **call)
    assert found.served
    assert "4 of 8 steps computed" in str(found)
    other = make_flux(seed=1)
    found = ertacache.doctor(other, policy)
    with pytest.raises(PolicyMismatchError) as raised:
        ertacache.enable(other, policy)
    assert not found.served
    assert str(found.policy.refusal) == str(raised.value)
    assert str(found).startswith("Served, but not by this policy: ")


def test_a_call_that_a_policy_would_refuse(flux, call):
    policy = ertacache.calibrate(flux, [call], num_inference_steps=8, speedup=2.0, full_runs=1, progress=False)
    found = ertacache.doctor(flux, policy, **{**call, "true_cfg_scale": 9.0})
    assert not found.served
    assert "true_cfg_scale" in found.policy.call.what
    assert str(found).startswith("Served, but this call not by this policy: ")
    assert ertacache.doctor(flux, policy, **call).policy.call is None


def refused_by_a_call(pipe, policy, call):
    """What a whole call says."""
    try:
        with ertacache.accelerated(pipe, policy) as run:
            pipe(**call)
    except PolicyMismatchError as error:
        return str(error), None
    return "", run.report.notes


@pytest.mark.parametrize("method", ["aligned", "taylor"])
def test_at_other_numbers_of_steps_it_answers_what_a_call_answers(flux, call, method):
    given = {"num_inference_steps": 8, "num_computed_steps": 4, "full_runs": 1, "progress": False}
    policy = ertacache.calibrate(flux, [call], method=method, **given)
    answers, ran = set(), []
    hook = flux.transformer.register_forward_pre_hook(lambda module, args: ran.append(1))
    for steps in (2, 6, 8, 12, 16):
        expected, notes = refused_by_a_call(flux, policy, {**call, "num_inference_steps": steps})
        ran.clear()
        found = ertacache.doctor(flux, policy, num_inference_steps=steps, **call)
        assert ran == [], "the denoiser need not run"
        assert str(found.policy.call or "") == expected
        assert found.served == (not expected)
        assert ("fits the pipeline, and not this call" in " ".join(str(found).split())) == bool(expected)
        assert notes is None or list(found.policy.notes) == notes
        answers.add(not expected)
    hook.remove()
    assert answers == {True, False}
    assert ertacache.doctor(flux, policy, **call).served, "the policy's own number of steps is the default"


def test_what_only_a_first_step_shows_is_seen_in_a_trial(flux, call):
    """Guidance without a negative prompt makes one denoiser call a step in place of two."""
    policy = ertacache.calibrate(flux, [call], num_inference_steps=8, speedup=2.0, full_runs=1, progress=False)
    single = {name: value for name, value in call.items() if not name.startswith("negative")}
    expected, _ = refused_by_a_call(flux, policy, {**single, "num_inference_steps": 8})
    assert "denoiser calls per step" in expected
    assert ertacache.doctor(flux, policy, **single).policy.call is None
    assert str(ertacache.doctor(flux, policy, time=True, **single).policy.call) == expected


def test_a_call_that_cannot_be_begun_is_not_said_to_fit(flux, make_policy):
    found = ertacache.doctor(flux, make_policy(8, (2, 3)))
    assert found.policy.call is None
    assert "Error" in found.policy.unseen
    assert "whether it fits the call's noise levels, since the call could not be begun" in " ".join(str(found).split())


def test_the_estimate_follows_from_what_was_timed(make_toy):
    def slow(sample, timestep):
        time.sleep(0.03)
        return sample * 0.5

    found = ertacache.doctor(make_toy(slow), time=True, latents=torch.zeros(2, 4, 8, 8), num_inference_steps=20)
    estimate = found.estimate
    assert estimate.step >= 0.03
    assert estimate.cached_step < 0.02
    assert estimate.full_run == pytest.approx(20 * estimate.step + estimate.outside)
    assert estimate.at_2x == pytest.approx(estimate.outside + 10 * estimate.step + 10 * estimate.cached_step)
    assert estimate.denoiser_share > 0.5
    assert estimate.latents == ((4, 8, 8),)
    assert estimate.warmed_up


def test_the_price_is_the_one_that_calibration_announces(flux, call, capfd):
    estimate = ertacache.doctor(flux, time=True, num_inference_steps=8, **call).estimate
    ertacache.calibrate(flux, [call] * 8, num_inference_steps=8, speedup=2.0)
    said = " ".join("".join(capfd.readouterr()).split())
    assert f"at most {estimate.calibration_runs:.3g} full runs in all" in said
    assert f"{readable(estimate.memory)} of memory besides the pipeline" in said
    assert f"{readable(estimate.recordings)} for recordings" in said


def test_a_slow_call_is_timed_once(make_toy, monkeypatch):
    monkeypatch.setattr("ertacache.diagnosis.trial.CHEAP", 0.0)
    found = ertacache.doctor(make_toy(), time=True, latents=torch.zeros(1, 4, 8, 8), num_inference_steps=20)
    assert not found.estimate.warmed_up
    assert "its decoder not warmed up" in str(found)


def trial(*intervals, made, asked=4, first=0, seconds=1.0, share=1.0):
    pair = torch.zeros(1, 4), torch.zeros(1, 4)
    return Trial(asked, first, made, seconds, intervals, 1, (pair,), share)


def test_image_to_image_makes_its_share_of_the_steps():
    steps = [(True, 0.2, 0.1), (False, 0.0, 0.0)]
    assert estimate_of(trial(*steps, made=3, first=1), 40).steps == 30
    assert estimate_of(trial(*steps, made=5, asked=14, first=9, share=0.3), 40).steps == 12
    assert estimate_of(trial(*steps, made=3), 40).steps == 39
    assert estimate_of(trial(*steps, made=8), 40).steps == 80
    assert estimate_of(trial(*steps, made=30, asked=None), 40).steps == 30
    assert estimate_of(trial(made=1), 40) is None
    whole = estimate_of(trial(*steps, made=3, first=1), 40)
    assert whole.outside == pytest.approx(1.0 - 0.2 - 0.2)
    assert whole.pays_from == pytest.approx(10 * 30 * 0.2 / (15 * 0.2))


def test_image_to_image_of_a_small_strength():
    family = Family(CASES["StableDiffusionXLImg2Img"])
    call = {name: value for name, value in family.all_arguments().items() if name != "num_inference_steps"}
    found = ertacache.doctor(family.pipe, time=True, num_inference_steps=30, **{**call, "strength": 0.3})
    assert found.estimate.steps == 9
    assert 3 <= found.estimate.trial_steps <= 5
    found = ertacache.doctor(family.pipe, time=True, num_inference_steps=30, **{**call, "strength": 0.1})
    assert found.estimate is None
    assert any(finding.what.startswith("the call makes 3 steps, too few") for finding in found.findings)
    with pytest.raises(CalibrationError, match="no step at all"):
        ertacache.doctor(family.pipe, time=True, num_inference_steps=30, **{**call, "strength": 0.02})


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"time": "yes"}, ArgumentError),
        ({"num_inference_steps": 0}, ArgumentError),
        ({"no_such": 1}, PipelineError),
        ({"time": True, "num_inference_steps": 8, "sigmas": [1.0, 0.5]}, CalibrationError),
        ({"policy": "policy.safetensors"}, PolicyMismatchError),
    ],
)
def test_wrong_arguments(flux, wrong, error):
    with pytest.raises(error):
        ertacache.doctor(flux, **wrong)


def test_no_pipeline(flux):
    with pytest.raises(PipelineError, match="this is not a pipeline"):
        ertacache.doctor(flux.transformer)


def test_a_copy_of_the_pipeline_is_not_needed(flux, call):
    """Two threads may ask about copies that share their modules."""
    other = copy.copy(flux)
    other.scheduler = copy.deepcopy(flux.scheduler)
    assert ertacache.doctor(flux, **call).to_json() == ertacache.doctor(other, **call).to_json()


@pytest.mark.parametrize("name", ["WanModular", "StableDiffusionXL, DPMSolverMultistep", "LTX2"])
def test_nothing_is_left_on_others_either(name):
    family = Family(CASES[name])
    before = state_of(family.pipe)
    ertacache.doctor(family.pipe, time=True, **family.all_arguments())
    assert differences(state_of(family.pipe), before) == []
