"""A policy is used only on what it was made for; the message names what differs and what to do."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from peft import LoraConfig

import ertacache
from ertacache.errors import ArgumentError, PolicyMismatchError
from ertacache.method.named_methods import Method
from ertacache.policy import Policy, Rectification
from ertacache.runtime import identity

CACHED = (2, 3, 5)


class OtherScheduler(FlowMatchEulerDiscreteScheduler):
    """Steps as its base does, under another name."""


@pytest.fixture
def fitted(flux, flux_call, make_policy, origin_for):
    """A policy with something measured in it, made for a guided call of ``flux``."""
    return make_policy(8, CACHED, "aligned", origin=origin_for(flux, flux_call(guided=True), calls=2, shape=(16, 16)))


@pytest.fixture
def evenly_spaced(flux, flux_call, make_policy, origin_for):
    """A policy with nothing measured in it, made for the same call."""
    return make_policy(8, CACHED, "taylor", origin=origin_for(flux, flux_call(guided=True), calls=2, shape=(16, 16)))


def refusal(pipe, policy, arguments=None):
    """The message with which the policy is refused, when it is enabled, or in a call with these arguments."""
    if arguments is None:
        with pytest.raises(PolicyMismatchError) as caught:
            ertacache.enable(pipe, policy)
        assert not hasattr(type(pipe), "_ertacache_acceleration")
    else:
        with ertacache.accelerated(pipe, policy), pytest.raises(PolicyMismatchError) as caught:
            pipe(**arguments)
    assert "ertacache calibrate MODEL" in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("policy", ["fitted", "evenly_spaced"])
@pytest.mark.parametrize(
    ("options", "named"),
    [
        (
            {"num_single_layers": 2},
            "this policy was made for another model: in the configuration of transformer, num_single_layers was 1 when "
            "it was calibrated, and is 2 now (given: pipe.transformer). Use the policy with that model, or calibrate "
            "one for this model: ertacache.calibrate(pipe, prompts, num_inference_steps=8, speedup=1.6), or",
        ),
        ({"seed": 1}, "the weights of transformer are not those that"),
    ],
)
def test_another_model_is_refused_at_once(policy, options, named, make_flux, request):
    assert named in refusal(make_flux(**options), request.getfixturevalue(policy))


def test_another_class_of_denoiser_is_refused_at_once(sd3, fitted):
    message = refusal(sd3, fitted)
    assert message.startswith(
        "this policy was made for another model: it was calibrated on FluxPipeline (transformer "
        "FluxTransformer2DModel), and this is StableDiffusion3Pipeline (transformer SD3Transformer2DModel) "
    )
    assert "prompts, num_inference_steps=8, speedup=1.6)" in message  # and none of FLUX's arguments


def test_another_model_is_named_before_its_scheduler(make_flux, fitted):
    other = make_flux(num_single_layers=2)
    other.scheduler = OtherScheduler.from_config(other.scheduler.config)
    assert refusal(other, fitted).startswith("this policy was made for another model: ")


def test_another_set_of_denoisers_is_refused_at_once(make_toy, fitted):
    pipe = make_toy()
    pipe.unet = pipe.transformer
    message = refusal(pipe, fitted)
    assert "on FluxPipeline (transformer FluxTransformer2DModel), and this is" in message
    assert "transformer" in message.split("this is")[1]
    assert "unet" in message.split("this is")[1]


def add_adapter(model, name):
    model.add_adapter(LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False), adapter_name=name)


def test_other_adapters_are_refused_at_once_and_in_later_calls(flux, flux_call, fitted):
    with ertacache.accelerated(flux, fitted):
        flux(**flux_call(guided=True))
        add_adapter(flux.transformer, "style")
        with pytest.raises(PolicyMismatchError, match="adapters of transformer"):
            flux(**flux_call(guided=True))
        flux.transformer.disable_lora()  # loaded, and takes no part
        flux(**flux_call(guided=True))
    ertacache.enable(flux, fitted)
    ertacache.disable(flux)
    flux.transformer.enable_lora()
    assert "adapters of transformer was [] when it was calibrated, and is ['style x 4'] now" in refusal(flux, fitted)


def test_other_adapters_are_followed_by_a_policy_that_was_transferred_to_any(
    flux, flux_call, fitted, make_flux, tmp_path
):
    refused = "To force it, call ertacache.transferred(policy, adapters='any')"
    add_adapter(flux.transformer, "style")
    assert refused in refusal(flux, fitted)
    ertacache.transferred(fitted, adapters="any").save(tmp_path / "any.safetensors")
    policy = Policy.load(tmp_path / "any.safetensors")
    assert policy.cached_steps == fitted.cached_steps
    assert "used with any adapters" in policy.calibration.notes[-1]
    with ertacache.accelerated(flux, policy) as run:
        flux(**flux_call(guided=True))
        assert run.cached_steps == CACHED
        (note,) = [note for note in run.report.notes if "adapters" in note]
        assert "were [] when the policy was calibrated, and are ['style x 4'] now" in note
        assert "docs/how-to/lora.md" in note
        flux.transformer.set_adapters("style", 0.5)
        flux(**flux_call(guided=True))
        assert any("['style x 2'] now" in note for note in run.report.notes)
    other = make_flux(seed=1)
    add_adapter(other.transformer, "style")
    assert "the weights of transformer are not those" in refusal(other, policy)
    with pytest.raises(ArgumentError, match="'any' alone"):
        ertacache.transferred(fitted, adapters=["style"])


def test_adapters_of_other_weights_and_other_guidance_are_followed_too(flux, flux_call, make_policy, origin_for):
    add_adapter(flux.transformer, "a")
    origin = origin_for(flux, flux_call(guided=True), calls=2, shape=(16, 16))
    policy = make_policy(8, CACHED, "aligned", origin=origin)
    moved = ertacache.transferred(ertacache.transferred(policy, adapters="any"), adapters="any", true_cfg_scale=3.0)
    assert moved.origin.denoisers["transformer"].adapters == ("*", "a x 4")
    flux.transformer.delete_adapters("a")
    add_adapter(flux.transformer, "a")
    assert "other weights" in refusal(flux, policy)
    with ertacache.accelerated(flux, moved) as run:
        flux(**flux_call(guided=True, true_cfg_scale=3.0))
    assert run.cached_steps == CACHED


def test_which_adapters_take_part_and_how_much_is_what_counts(flux, flux_call, make_policy, origin_for):
    for name in ("a", "b"):
        add_adapter(flux.transformer, name)
    flux.transformer.set_adapters("a", 0.5)
    policy = make_policy(8, CACHED, "aligned", origin=origin_for(flux, flux_call(guided=True), calls=2, shape=(16, 16)))
    assert policy.origin.denoisers["transformer"].adapters == ("a x 2",)
    ertacache.enable(flux, policy)
    ertacache.disable(flux)
    flux.transformer.set_adapters("a", 1.0)
    assert "is ['a x 4'] now" in refusal(flux, policy)
    flux.transformer.set_adapters(["a", "b"], [0.5, 0.5])
    assert "is ['a x 2', 'b x 2'] now" in refusal(flux, policy)
    flux.transformer.set_adapters("b", 0.5)
    assert "is ['b x 2'] now" in refusal(flux, policy)
    flux.transformer.set_adapters("a", 0.5)
    with torch.no_grad():
        for name, parameter in flux.transformer.named_parameters():
            if "lora_A.a" in name:
                parameter.neg_()
    assert "have the same names as in calibration, but other weights" in refusal(flux, policy)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2])
def test_the_same_weights_in_another_dtype_are_the_same(dtype, make_flux, fitted):
    pipe = make_flux()
    pipe.transformer.to(dtype)
    ertacache.enable(pipe, fitted)
    ertacache.disable(pipe)


def test_weights_that_differ_by_more_than_rounding_are_others(flux, fitted):
    with torch.no_grad():
        for parameter in flux.transformer.parameters():
            parameter.mul_(1.015)
    assert "weights of transformer" in refusal(flux, fitted)


def test_another_scheduler_class_is_refused_at_once_and_in_later_calls(flux, flux_call, fitted):
    own, other = flux.scheduler, OtherScheduler(shift=3.0)
    flux.scheduler = other
    message = refusal(flux, fitted)
    assert "scheduler class was 'FlowMatchEulerDiscreteScheduler'" in message
    assert "'OtherScheduler' now" in message
    flux.scheduler = own
    with ertacache.accelerated(flux, fitted):
        flux.scheduler = other
        with pytest.raises(PolicyMismatchError, match="scheduler class"):
            flux(**flux_call(guided=True))


@pytest.mark.parametrize("policy", ["fitted", "evenly_spaced"])
def test_another_number_of_steps_is_refused_in_the_call(policy, flux, flux_call, request):
    message = refusal(flux, request.getfixturevalue(policy), flux_call(steps=10, guided=True))
    assert "num_inference_steps was 8 when it was calibrated, and is 10 now" in message


def test_other_noise_levels_are_refused_in_the_call(flux, flux_call, fitted):
    own = flux.scheduler
    flux.scheduler = FlowMatchEulerDiscreteScheduler(shift=2.0)
    message = refusal(flux, fitted, flux_call(guided=True))
    assert "noise levels (the scheduler's shift, or sigmas of your own), first at step 1 was 0.95455" in message
    flux.scheduler = own
    sigmas = [1 - i / 8 for i in range(8)]
    sigmas[4] -= 0.01
    assert "first at step 4" in refusal(flux, fitted, flux_call(guided=True, sigmas=sigmas))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"guided": True, "true_cfg_scale": 5.0}, "true_cfg_scale was 4.0 when it was calibrated, and is 5.0 now"),
        ({"guided": True, "guidance_scale": 2.0}, "guidance_scale was 3.5"),
        ({"guided": False}, "true_cfg_scale was 4.0"),
        ({"guided": False, "true_cfg_scale": 4.0}, "denoiser calls per step (guidance on or off) was 2"),
    ],
)
def test_other_guidance_is_refused_in_the_call(arguments, named, flux, flux_call, fitted):
    assert named in refusal(flux, fitted, flux_call(**arguments))


def test_guidance_given_by_position_is_seen_too(flux, flux_call, fitted):
    arguments = flux_call(guided=True)
    del arguments["true_cfg_scale"]
    with ertacache.accelerated(flux, fitted):
        flux(None, None, None, None, 4.0, **{**arguments, "generator": None})
        with pytest.raises(PolicyMismatchError, match="true_cfg_scale"):
            flux(None, None, None, None, 4.5, **arguments)


def test_batched_guidance_switched_off_is_refused_in_the_call(sd3, sd3_call, make_policy, origin_for):
    origin = origin_for(sd3, sd3_call(guided=True), calls=1, shape=(4, 8, 8))
    policy = make_policy(8, CACHED, "aligned", origin=origin)
    assert "guidance_scale was 4.0 when it was calibrated, and is 1.0 now" in refusal(sd3, policy, sd3_call())


def test_a_policy_with_nothing_measured_holds_for_any_shift_and_guidance(flux, flux_call, evenly_spaced):
    calls = [{"guided": True, "true_cfg_scale": 5.0}, {"guided": False}, {"sigmas": [1 - i / 9 for i in range(8)]}]
    with ertacache.accelerated(flux, evenly_spaced) as run:
        for arguments in calls:
            flux(**flux_call(**arguments))
            assert run.cached_steps == CACHED
        flux.scheduler = FlowMatchEulerDiscreteScheduler(shift=1.5)
        flux(**flux_call(guided=True, height=32))
    assert run.cached_steps == CACHED
    assert run.report.notes == []


def rectified(granularity, level, k, b, origin=None) -> Policy:
    return Policy(
        num_inference_steps=8,
        cached_steps=CACHED,
        method=Method(level=level, rectification=granularity),
        origin=origin,
        rectification=Rectification(granularity, 2, k.double(), b.double()),
    )


@pytest.mark.parametrize(("granularity", "shape"), [("step", ()), ("channel", (16,)), ("element", (16, 16))])
def test_an_error_model_per_element_is_tied_to_its_latent_shape(granularity, shape, flux, flux_call, origin_for):
    policy = rectified(
        granularity,
        "output",
        k=torch.zeros(3, *shape),
        b=torch.full((3, *shape), -2.0),  # an error of exactly 0
        origin=origin_for(flux, flux_call(), calls=1, shape=(16, 16)),
    )
    for known in (policy, replace(policy, origin=None)) if granularity == "element" else ():
        message = refusal(flux, known, flux_call(height=32))
        assert "latent shape (error model per element) was [16, 16] when it was calibrated, and is [32, 16]" in message
    unrectified = Policy(num_inference_steps=8, cached_steps=CACHED, method=Method(level="output"))
    for height in (16,) if granularity == "element" else (16, 32):
        outputs = []
        for here in (policy, unrectified):
            with ertacache.accelerated(flux, here):
                outputs.append(flux(**flux_call(height=height)).images)
        torch.testing.assert_close(*outputs)


def test_an_error_model_is_subtracted_at_its_own_step_and_channel(make_toy):
    pipe = make_toy(lambda sample, timestep: torch.zeros_like(sample))
    errors = torch.zeros(3, 2)
    errors[1, 0] = 7.0  # at the second cached step, in the first channel
    policy = rectified("channel", "velocity", k=torch.zeros(3, 2), b=4 * errors - 2)
    with ertacache.accelerated(pipe, policy):
        out = pipe(torch.zeros(1, 4, 2))
    step = pipe.scheduler.sigmas.diff()[CACHED[1]]
    torch.testing.assert_close(out, torch.stack([torch.full((1, 4), -7.0) * step, torch.zeros(1, 4)], dim=-1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_same_weights_in_another_dtype_still_match(dtype, flux, fitted):
    flux.to(dtype)
    with ertacache.accelerated(flux, fitted) as run:
        assert run.policy is fitted


@pytest.mark.parametrize("form", ["module.compile", "torch.compile"])
def test_a_compiled_denoiser_still_matches(form, flux, make_flux, fitted):
    other = make_flux(seed=1)
    for pipe in (flux, other):
        if form == "module.compile":
            pipe.transformer.compile(backend="eager")
        else:
            pipe.transformer = torch.compile(pipe.transformer, backend="eager")
    assert identity.identify(flux.transformer) == fitted.origin.denoisers["transformer"]
    with ertacache.accelerated(flux, fitted) as run:
        assert run.policy is fitted
    assert "weights of transformer" in refusal(other, fitted)


def test_a_refused_call_leaves_the_next_one_as_it_should_be(flux, flux_call, fitted):
    with ertacache.accelerated(flux, fitted) as run:
        before = flux(**flux_call(guided=True)).images
        for wrong in ({"steps": 10}, {"true_cfg_scale": 5.0}, {"sigmas": [1 - i / 9 for i in range(8)]}):
            with pytest.raises(PolicyMismatchError):
                flux(**flux_call(guided=True, **wrong))
            assert torch.equal(flux(**flux_call(guided=True)).images, before)
    assert run.cached_steps == CACHED
    assert type(flux.scheduler) is FlowMatchEulerDiscreteScheduler
    assert "_compiled_call_impl" not in vars(flux.transformer)


def test_a_matrix_of_full_size_is_probed_within_its_end():
    """As large as those of FLUX: float32 cannot tell its last element from the one behind it."""
    module = torch.nn.Module()
    module.register_parameter("weight", torch.nn.Parameter(torch.zeros(12288, 3072, dtype=torch.bfloat16)))
    with torch.no_grad():
        module.weight[-1, -3:] = torch.tensor([1.0, 2.0, 3.0])
    assert identity.identify(module).weights.elements == (0.0, 0.0, 0.0, 1.0)
