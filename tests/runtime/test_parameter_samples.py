"""A few elements of every parameter tell checkpoints apart, and nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import ertacache
from ertacache.errors import PolicyMismatchError
from ertacache.runtime import parameter_samples
from ertacache.runtime.parameter_samples import difference, weights_of
from tests.adapters import load_lora


def differ(one, other):
    return difference(weights_of(one), weights_of(other), other)[0]


def test_every_parameter_is_sampled(make_flux):
    model = make_flux(num_single_layers=3).transformer
    before = weights_of(model)
    for name, parameter in model.named_parameters():
        kept = parameter.detach().clone()
        with torch.no_grad():
            parameter.mul_(1.01).add_(1e-4)
        assert difference(before, weights_of(model))[0], name
        with torch.no_grad():
            parameter.copy_(kept)
    assert difference(before, weights_of(model)) == (False, "")


def test_persistent_buffers_are_weights_too(sd3):
    before = weights_of(sd3.transformer)
    sd3.transformer.pos_embed.pos_embed.mul_(1.01)
    assert difference(before, weights_of(sd3.transformer))[0]


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2], ids=str
)
def test_the_same_weights_rounded_are_the_same_and_the_report_says_that_they_are_stored_otherwise(dtype, make_flux):
    plain, rounded, other = make_flux().transformer, make_flux().transformer, make_flux(seed=1).transformer
    expected = weights_of(plain)
    differs, doubt = difference(expected, weights_of(rounded.to(dtype)))
    assert not differs
    assert doubt.startswith(
        f"they are stored as {str(dtype).removeprefix('torch.')} here, and were as float32 in calibration"
    )
    assert "docs/how-to/quantised.md" in doubt
    assert difference(expected, weights_of(other.to(dtype)))[0]


def test_eight_bits_of_weights_that_are_others_by_a_percent_are_told(make_flux):
    """Each element is within the rounding of the other one; but both were rounded alike."""
    one, other = make_flux().transformer, make_flux().transformer
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.01)
    for model in (one, other):
        model.to(torch.float8_e4m3fn)
    assert differ(one, other)


def test_the_forms_that_compute_the_same_are_the_same(make_flux):
    plain = make_flux().transformer
    fused, compiled, channels_last = (make_flux().transformer for _ in range(3))
    fused.fuse_qkv_projections()
    compiled.transformer_blocks[0] = torch.compile(compiled.transformer_blocks[0], backend="eager")
    channels_last.to(memory_format=torch.channels_last)
    for model in (fused, compiled, channels_last):
        assert difference(weights_of(plain), weights_of(model)) == (False, "")


def test_a_channels_last_matrix_is_sampled_in_logical_order():
    one, other = (nn.Conv2d(3, 5, 3) for _ in range(2))
    other.load_state_dict(one.state_dict())
    other.to(memory_format=torch.channels_last)
    assert not other.weight.is_contiguous()
    assert not differ(one, other)


def test_projections_that_change_after_they_were_fused_are_others(make_flux):
    plain, fused = make_flux().transformer, make_flux().transformer
    fused.fuse_qkv_projections()
    with torch.no_grad():
        fused.transformer_blocks[0].attn.to_qkv.weight[-1].mul_(1.5)
    assert differ(plain, fused)


@pytest.mark.parametrize("target", ["to_q", "to_v", "proj_mlp", "norm1.linear"])
def test_a_fused_adapter_is_told_whatever_it_is_on(target, make_flux):
    from peft import LoraConfig

    plain, adapted = make_flux().transformer, make_flux().transformer
    adapted.add_adapter(LoraConfig(r=2, target_modules=[target], init_lora_weights=False), adapter_name="style")
    assert not differ(plain, adapted)  # the adapter's own matrices are samples of their own
    adapted.fuse_lora()
    adapted.unload_lora()
    assert differ(plain, adapted)


def test_an_adapter_that_was_fused_and_taken_out_again_leaves_the_same_weights(make_flux):
    plain, pipe = make_flux(), make_flux()
    load_lora(pipe)
    pipe.fuse_lora(components=["transformer"])
    assert differ(plain.transformer, pipe.transformer)
    pipe.unfuse_lora(components=["transformer"])
    assert weights_of(plain.transformer) != weights_of(pipe.transformer)  # by rounding
    assert not differ(plain.transformer, pipe.transformer)


def test_weights_that_group_offloading_keeps_on_disk_are_read_there(make_flux, tmp_path):
    plain = make_flux().transformer
    for seed, same in ((0, True), (1, False)):
        pipe = make_flux(seed=seed)
        pipe.transformer.enable_group_offload(
            onload_device=torch.device("cpu"),
            offload_device=torch.device("cpu"),
            offload_type="leaf_level",
            offload_to_disk_path=str(tmp_path / str(seed)),
        )
        for parameter in pipe.transformer.parameters():
            parameter.data.fill_(torch.nan)  # what uninitialised memory may hold
        assert difference(weights_of(plain), weights_of(pipe.transformer)) == (not same, "")


def test_what_cannot_be_read_is_said_in_the_policy_and_in_the_report(make_flux, flux_call, monkeypatch):
    """On a device mesh, say: ranks would have to talk."""

    def sharded(tensor):
        yield "unread", min(4, tensor.numel())

    pipe, call = make_flux(), flux_call(guided=True)
    steps = {"num_inference_steps": call.pop("num_inference_steps")}
    call.pop("generator", None)
    monkeypatch.setattr(parameter_samples, "_PLAIN", ())
    monkeypatch.setattr(parameter_samples, "_stored", sharded)
    policy = ertacache.calibrate(pipe, [call], **steps, num_computed_steps=5, method="taylor", progress=False)
    assert any("the weights of transformer could not all be read" in note for note in policy.calibration.notes)
    with ertacache.accelerated(pipe, policy) as run:
        pipe(**call, **steps)
    assert any("the weights of transformer could not be fully compared" in note for note in run.report.notes)


def test_other_weights_under_casting_are_refused(make_flux, flux_call, make_policy, origin_for):
    cast = {"storage_dtype": torch.float8_e4m3fn, "compute_dtype": torch.float32}
    pipe, other = make_flux(), make_flux(seed=1)
    pipe.transformer.enable_layerwise_casting(**cast)
    other.transformer.enable_layerwise_casting(**cast)
    origin = origin_for(pipe, flux_call(guided=True), calls=2, shape=(16, 16))
    policy = make_policy(8, (2, 3, 5), "aligned", origin=origin)
    ertacache.enable(pipe, policy)
    with pytest.raises(PolicyMismatchError, match="weights of transformer"):
        ertacache.enable(other, policy)
