"""What the paper's families keep beside the contract: policies that do what they say."""

from __future__ import annotations

from dataclasses import replace

import diffusers
import pytest
import torch
from accelerate import cpu_offload

import ertacache
from ertacache.errors import PipelineError, PolicyMismatchError
from ertacache.method.named_methods import Method
from ertacache.runtime import policy_driver

T = 8


def calibrated(pipe, prompts, *, computed=5, method="aligned"):
    return ertacache.calibrate(
        pipe, prompts, num_inference_steps=T, num_computed_steps=computed, method=method, progress=False
    )


@pytest.mark.parametrize(
    "method",
    [
        Method(schedule="uniform", predictor="aligned"),
        Method(schedule="uniform", predictor="aligned", level="hidden"),
        Method(schedule="offline", timestep_adjustment=True, rectification="channel"),
        Method(schedule="offline", timestep_adjustment=True, rectification="channel", level="hidden"),
    ],
    ids=["aligned", "aligned hidden", "paper", "paper hidden"],
)
def test_a_calibrated_policy_does_what_calibration_measured(family, method):
    prompts = [family.arguments(seed) for seed in (1, 2)]
    policy = calibrated(family.pipe, prompts, method=method)
    moved = [note for note in policy.calibration.notes if "on the adjusted grid" in note]
    assert len(policy.computed_steps) == 5 + len(moved)  # the switch of experts may move with the grid
    errors = sizes = 0.0
    for seed in (1, 2):
        full = family.run(seed)
        with ertacache.accelerated(family.pipe, policy) as run:
            out = family.run(seed)
        assert run.cached_steps == policy.cached_steps
        assert run.report.notes == []
        errors, sizes = errors + float((out - full).square().sum()), sizes + float(full.square().sum())
    assert (errors / sizes) ** 0.5 == pytest.approx(policy.calibration.error, rel=2e-3)
    assert not torch.equal(family.run(1), full)


@pytest.mark.parametrize(
    ("name", "channels"),
    [("FLUX", 16), ("Wan, UniPC", 4), ("CogVideoX, DDIM", 4), ("CogVideoX, DPM", 4), ("Open-Sora 1.2", 4)],
)
def test_the_error_model_per_channel_has_a_factor_for_each_channel(make_family, name, channels):
    """Frames stand before the channels in CogVideoX's latents."""
    family = make_family(name)
    policy = calibrated(family.pipe, [family.arguments(1)], method=Method(schedule="offline", rectification="channel"))
    shape = family.run().shape
    assert shape[policy.rectification.axis] == channels
    assert policy.rectification.k.shape == (len(policy.cached_steps), channels)


def test_only_fitted_weights_use_the_outputs_of_both_experts(make_family, monkeypatch):
    family = make_family("Wan 2.2")
    policy = calibrated(family.pipe, [family.arguments(1)], method=Method(schedule="uniform", predictor="aligned"))
    family.run()
    boundary = 0.8 * family.pipe.scheduler.config.num_train_timesteps
    second = next(i for i, t in enumerate(family.pipe.scheduler.timesteps) if t < boundary)
    assert 0 < second < T - 1
    assert second in policy.computed_steps
    crossing = [p for step, p in policy.predictions.items() if step >= second and min(p.history) < second]
    assert crossing
    used = []
    own = policy_driver.taylor
    monkeypatch.setattr(
        policy_driver, "taylor", lambda levels, i, steps: used.append((i, steps)) or own(levels, i, steps)
    )
    by_hand = ertacache.Policy(T, policy.cached_steps, Method.named("taylor"))
    for other in (by_hand, replace(policy, predictions={})):  # one without its weights extrapolates too
        with ertacache.accelerated(family.pipe, other):
            family.run()
    assert len(used) == 2 * len(policy.cached_steps)
    assert all((i < second) == (step < second) for step, steps in used for i in steps)


@pytest.mark.parametrize(
    ("name", "made_for", "used_with"),
    [
        ("Wan 2.2", {"guidance_scale_2": 3.0}, {"guidance_scale_2": None}),
        ("Wan 2.2", {"guidance_scale_2": None}, {"guidance_scale_2": 3.0}),
        ("CogVideoX, DDIM", {}, {"use_dynamic_cfg": True}),
        ("CogVideoX, DPM", {"use_dynamic_cfg": True}, {"use_dynamic_cfg": False}),
    ],
)
def test_guidance_that_the_policy_was_not_made_for_is_refused(make_family, name, made_for, used_with):
    family = make_family(name)
    call = {**family.arguments(1), "output_type": "latent"}
    policy = calibrated(family.pipe, [{**call, **made_for}])
    with ertacache.accelerated(family.pipe, policy):
        family.pipe(**call | made_for, num_inference_steps=T)
        with pytest.raises(PolicyMismatchError, match=r"guidance_scale_2|use_dynamic_cfg"):
            family.pipe(**call | used_with, num_inference_steps=T)


def test_open_soras_null_caption_is_found_where_sequential_offloading_keeps_it(make_family):
    family = make_family("Open-Sora 1.2")
    call = family.arguments()
    embeds = {name: call[name] for name in call if not name.startswith("negative_prompt")}

    def run():
        generator = torch.Generator().manual_seed(0)
        return family.pipe(**embeds | {"generator": generator}, num_inference_steps=2, output_type="latent").frames

    plain = run()
    # As ``enable_sequential_cpu_offload`` does it for models with weights of their own, here from the CPU to the CPU.
    for module in (family.pipe.transformer, family.pipe.vae):
        cpu_offload(module, execution_device=torch.device("cpu"), offload_buffers=True)
    assert family.pipe.transformer.null_caption.is_meta
    assert torch.equal(run(), plain)


def test_the_second_experts_guidance_may_be_spelled_out(make_family):
    family = make_family("Wan 2.2")
    call = {**family.arguments(1), "output_type": "latent", "guidance_scale": 3.5, "guidance_scale_2": None}
    policy = calibrated(family.pipe, [call])
    with ertacache.accelerated(family.pipe, policy):
        family.pipe(**call | {"guidance_scale_2": 3.5}, num_inference_steps=T)


def test_guidance_that_ends_on_the_way_is_searched_and_followed(make_family):
    """A trial that starts as the best schedule did still computes the step at which one of the two calls is gone."""
    family = make_family("Wan, UniPC")

    def end(pipe, i, t, kwargs):
        if i == 2:
            pipe._guidance_scale = 1.0
        return {}

    def call(seed):
        return {**family.arguments(seed), "callback_on_step_end": end}

    policy = calibrated(family.pipe, [call(1), call(2)])
    assert 3 in policy.computed_steps
    assert policy.calibration.full_runs <= 5
    contrasted = {i for i, p in policy.predictions.items() if p.contrast_factors}
    assert contrasted <= {1, 2}
    with ertacache.accelerated(family.pipe, policy) as run:
        family.pipe(**call(1), num_inference_steps=T, output_type="latent")
    assert run.computed_steps == policy.computed_steps
    assert run.report.notes == []


def test_prompts_of_different_guidance_are_no_one_calibration(make_family):
    family = make_family("CogVideoX, DDIM")
    prompts = [{**family.arguments(seed), "guidance_scale": scale} for seed, scale in ((1, 4.0), (2, 1.0))]
    with pytest.raises(PipelineError, match=r"do not share one setting .*guidance_scale"):
        calibrated(family.pipe, prompts)


def test_a_policy_of_one_expert_split_is_not_served_across_another(make_family, make_policy, counted):
    """By hand: cached right after the switch, where there is nothing of the second expert to cache from."""
    family = make_family("Wan 2.2")
    family.run()
    boundary = 0.8 * family.pipe.scheduler.config.num_train_timesteps
    second = next(i for i, t in enumerate(family.pipe.scheduler.timesteps) if t < boundary)
    with ertacache.accelerated(family.pipe, make_policy(T, (second,), "taylor")) as run:
        family.run()
    assert run.cached_steps == ()
    assert "its denoiser call differs" in str(run.report)


@pytest.mark.parametrize("name", ["FLUX", "Wan, UniPC", "CogVideoX, DPM"])
def test_a_saved_policy_is_the_same_and_another_model_refuses_it(name, make_family, tmp_path):
    family = make_family(name)
    policy = calibrated(family.pipe, [family.arguments(1)])
    policy.save(tmp_path / "policy.safetensors")
    loaded = ertacache.Policy.load(tmp_path / "policy.safetensors")
    outputs = []
    for one in (policy, loaded):
        with ertacache.accelerated(family.pipe, one):
            outputs.append(family.run(3))
    assert torch.equal(*outputs)
    with torch.no_grad():
        for parameter in family.pipe.transformer.parameters():
            parameter.mul_(1.3)
    with pytest.raises(ertacache.errors.PolicyMismatchError, match="weights of transformer"):
        ertacache.enable(family.pipe, loaded)


@pytest.fixture(params=["FluxImg2ImgPipeline", "FluxInpaintPipeline"])
def from_image(request, make_family):
    """A pipeline that begins in the middle of the grid, and the arguments of a call."""
    text = make_family("FLUX, true guidance")
    pipe = getattr(diffusers, request.param)(**text.pipe.components)
    pipe.set_progress_bar_config(disable=True)
    picture = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    more = {"image": picture, "strength": 0.7, "guidance_scale": 3.5}
    if "Inpaint" in request.param:
        more["mask_image"] = torch.ones(1, 1, 16, 16)
    return text, pipe, lambda seed: {**text.arguments(seed), **more}


START = int(T - T * 0.7)


def generated(pipe, arguments):
    return pipe(**arguments, num_inference_steps=T, output_type="latent").images


@pytest.mark.parametrize("level", ["velocity", "hidden"])
@pytest.mark.parametrize("schedule", ["uniform", "offline", "search"])
def test_image_to_image_is_calibrated_from_where_it_begins(from_image, level, schedule):
    _, pipe, arguments = from_image
    policy = calibrated(
        pipe,
        [arguments(seed) for seed in (1, 2)],
        computed=3,
        method=Method(schedule=schedule, predictor="aligned", level=level),
    )
    assert (policy.first_step, policy.num_made_steps, len(policy.computed_steps)) == (START, T - START, 3)
    assert policy.computed_steps[0] == START
    errors = sizes = 0.0
    for seed in (1, 2):
        full = generated(pipe, arguments(seed))
        with ertacache.accelerated(pipe, policy) as run:
            out = generated(pipe, arguments(seed))
        assert (run.computed_steps, run.cached_steps) == (policy.computed_steps, policy.cached_steps)
        assert run.report.notes == []
        errors, sizes = errors + float((out - full).square().sum()), sizes + float(full.square().sum())
    assert (errors / sizes) ** 0.5 == pytest.approx(policy.calibration.error, rel=2e-3)


def test_image_to_image_refuses_to_be_retimed(from_image):
    _, pipe, arguments = from_image
    with pytest.raises(ertacache.errors.MethodError, match="begins with step 2 of 8"):
        calibrated(pipe, [arguments(1)], computed=3, method="paper")


def test_image_to_image_follows_a_policy_of_the_whole_grid(from_image):
    """It begins in the middle of the grid: its first step is computed, and fitted weights give way to Taylor's."""
    text, pipe, arguments = from_image
    policy = calibrated(
        text.pipe,
        [text.arguments(seed) for seed in (1, 2)],
        computed=4,
        method=Method(schedule="uniform", predictor="aligned"),
    )
    plain = generated(pipe, arguments(1))
    with ertacache.accelerated(pipe, policy) as run:
        out = generated(pipe, arguments(1))
    assert sorted(run.computed_steps + run.cached_steps) == list(range(START, T))
    assert START in run.computed_steps
    assert run.cached_steps
    assert set(run.cached_steps) <= set(policy.cached_steps)
    assert not torch.equal(out, plain)
    assert torch.equal(generated(pipe, arguments(1)), plain)
