"""What users switch on beside the cache: adapters, casting, attention backends, tiling; before and after it."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.attention_dispatch import attention_backend

import ertacache
from ertacache.errors import PolicyMismatchError
from ertacache.method.named_methods import Method
from tests.adapters import burn_in, load_lora

CACHED = (2, 3, 5)


def fuse(pipe):
    pipe.fuse_lora(components=["transformer"])


def unfuse(pipe):
    pipe.unfuse_lora(components=["transformer"])


def unload(pipe):
    pipe.unload_lora_weights()


HISTORIES = {
    "loaded": [load_lora],
    "loaded, unloaded": [load_lora, unload],
    "loaded, fused": [load_lora, fuse],
    "loaded, fused, unfused": [load_lora, fuse, unfuse],
    "loaded, fused, unloaded": [load_lora, fuse, unload],
    "loaded twice, disabled": [load_lora, lambda pipe: load_lora(pipe, "other", 1), lambda pipe: pipe.disable_lora()],
}


def outputs_of(make_flux, flux_call, policy, events):
    """What each stage of a history gives where the cache comes last: a call after every event, on a fresh pipeline."""
    outputs = []
    for stage in range(len(events) + 1):
        pipe = make_flux()
        for event in events[:stage]:
            event(pipe)
        with ertacache.accelerated(pipe, policy):
            outputs.append(pipe(**flux_call(guided=True)).images)
    return outputs


@pytest.mark.parametrize("level", ["velocity", "hidden"])
@pytest.mark.parametrize("history", HISTORIES)
def test_adapters_come_and_go_before_and_after_enable(history, level, make_flux, flux_call, make_policy):
    policy, events = make_policy(8, CACHED, Method(level=level)), HISTORIES[history]
    wanted = outputs_of(make_flux, flux_call, policy, events)
    assert not torch.equal(wanted[0], wanted[1])  # the adapter matters
    pipe = make_flux()
    run = ertacache.enable(pipe, policy)
    for stage, output in enumerate(wanted):
        if stage:
            events[stage - 1](pipe)
        assert torch.equal(pipe(**flux_call(guided=True)).images, output)
        assert run.cached_steps == CACHED
    ertacache.disable(pipe)
    plain = make_flux()
    for event in events:
        event(plain)
    assert torch.equal(pipe(**flux_call()).images, plain(**flux_call()).images)


def test_a_policy_knows_whether_its_adapter_is_there(make_flux, flux_call):
    """Calibrated with the adapter: refused without it, and taken again with it."""
    pipe = make_flux()
    load_lora(pipe)
    call = {key: value for key, value in flux_call(guided=True).items() if key != "num_inference_steps"}
    policy = ertacache.calibrate(
        pipe, [call], num_inference_steps=8, num_computed_steps=5, method="aligned", progress=False
    )
    run = ertacache.enable(pipe, policy)
    pipe.disable_lora()
    with pytest.raises(PolicyMismatchError, match="adapters of transformer"):
        pipe(**flux_call(guided=True))
    pipe.enable_lora()
    pipe(**flux_call(guided=True))
    assert run.cached_steps == policy.cached_steps
    unload(pipe)
    with pytest.raises(PolicyMismatchError, match="adapters of transformer"):
        pipe(**flux_call(guided=True))


def test_a_policy_knows_its_weights_when_an_adapter_was_burnt_in(make_flux, flux_call):
    pipe = make_flux()
    call = {key: value for key, value in flux_call(guided=True).items() if key != "num_inference_steps"}
    policy = ertacache.calibrate(
        pipe, [call], num_inference_steps=8, num_computed_steps=5, method="aligned", progress=False
    )
    ertacache.enable(pipe, policy)
    load_lora(pipe)
    burn_in(pipe)
    with pytest.raises(PolicyMismatchError, match="weights of transformer"):
        pipe(**flux_call(guided=True))


def same_where(setting, make_flux, flux_call, policy):
    """Whether it makes no difference if the setting comes before the cache or after it; and that both stay exact."""
    first, second = make_flux(), make_flux()
    setting(first)
    plain = first(**flux_call(guided=True)).images
    run = ertacache.enable(first, policy)
    ertacache.enable(second, policy)
    second(**flux_call(guided=True))
    setting(second)
    outputs = [pipe(**flux_call(guided=True)).images for pipe in (first, second, first)]
    assert run.cached_steps == CACHED
    for output in outputs[1:]:
        assert torch.equal(output, outputs[0])
    for pipe in (first, second):
        ertacache.disable(pipe)
        assert torch.equal(pipe(**flux_call(guided=True)).images, plain)


@pytest.mark.parametrize("level", ["velocity", "hidden"])
@pytest.mark.parametrize("storage", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_layerwise_casting(storage, level, make_flux, flux_call, make_policy):
    def cast(pipe):
        pipe.transformer.enable_layerwise_casting(storage_dtype=storage, compute_dtype=torch.float32)

    same_where(cast, make_flux, flux_call, make_policy(8, CACHED, Method(level=level)))


@pytest.mark.parametrize("backend", ["native", "_native_math"])
def test_attention_backends(backend, make_flux, flux_call, make_policy):
    same_where(
        lambda pipe: pipe.transformer.set_attention_backend(backend), make_flux, flux_call, make_policy(8, CACHED)
    )
    pipe = make_flux()
    with ertacache.accelerated(pipe, make_policy(8, CACHED)) as run, attention_backend(backend):
        inside = pipe(**flux_call(guided=True)).images
    assert run.cached_steps == CACHED
    assert inside.isfinite().all()


def load_ip_adapter(pipe):
    """As ``load_ip_adapter`` does it, from the layout of published adapters."""
    width, text, image, tokens = 16, 8, 6, 4
    weights = {"to_k_ip": (width, text), "to_v_ip": (width, text)}
    generator = torch.Generator().manual_seed(0)
    attention = {}
    for name, shape in weights.items():
        attention[f"0.{name}.weight"] = torch.randn(shape, generator=generator)
        attention[f"0.{name}.bias"] = torch.randn(shape[:1], generator=generator)
    projection = {
        "proj.weight": torch.randn(tokens * text, image, generator=generator),
        "proj.bias": torch.zeros(tokens * text),
        "norm.weight": torch.ones(text),
        "norm.bias": torch.zeros(text),
    }
    pipe.transformer._load_ip_adapter_weights([{"image_proj": projection, "ip_adapter": attention}])


@pytest.mark.parametrize("level", ["velocity", "hidden"])
def test_ip_adapters(level, make_flux, flux_call, make_policy):
    def call(pipe, image=None):
        embeds = {}
        if image is not None:
            embeds["ip_adapter_image_embeds"] = [torch.full((1, 1, 6), image)]
            embeds["negative_ip_adapter_image_embeds"] = [torch.zeros(1, 1, 6)]
        return pipe(**flux_call(), **embeds).images

    policy = make_policy(8, CACHED, Method(level=level))
    pipe, late = make_flux(), make_flux()
    without = call(pipe)
    load_ip_adapter(pipe)
    plain = call(pipe, 1.0)
    assert not torch.equal(plain, without)
    with ertacache.accelerated(pipe, make_policy(8, (), Method(level=level))):
        assert torch.equal(call(pipe, 1.0), plain)
    with ertacache.accelerated(pipe, policy) as run:
        wanted = [call(pipe, 1.0), call(pipe, 2.0)]
        assert run.cached_steps == CACHED
    with ertacache.accelerated(late, policy) as run:
        call(late)
        load_ip_adapter(late)
        assert torch.equal(call(late, 2.0), wanted[1])
        assert torch.equal(call(late, 1.0), wanted[0])
        late.unload_ip_adapter()
        call(late)
        assert run.cached_steps == CACHED
    assert torch.equal(call(late), without)


def test_a_policy_knows_whether_an_ip_adapter_is_there(make_flux, flux_call):
    pipe = make_flux()
    call = {key: value for key, value in flux_call().items() if key != "num_inference_steps"}
    policy = ertacache.calibrate(
        pipe, [call], num_inference_steps=8, num_computed_steps=5, method="aligned", progress=False
    )
    ertacache.enable(pipe, policy)
    load_ip_adapter(pipe)
    with pytest.raises(PolicyMismatchError, match="weights of transformer"):
        pipe(**flux_call())


@pytest.mark.parametrize("switch", ["enable_tiling", "enable_slicing"])
def test_tiled_and_sliced_decoding(switch, make_flux, flux_call, make_policy):
    def decode(pipe):
        return pipe(**flux_call(guided=True) | {"output_type": "pt"}).images

    pipe, other = make_flux(), make_flux()
    getattr(pipe.vae, switch)()
    with ertacache.accelerated(pipe, make_policy(8, CACHED)):
        before = decode(pipe)
    with ertacache.accelerated(other, make_policy(8, CACHED)):
        decode(other)
        getattr(other.vae, switch)()
        assert torch.equal(decode(other), before)


def test_fused_projections(make_flux, flux_call, make_policy):
    pipe = make_flux()
    pipe.transformer.fuse_qkv_projections()
    plain = pipe(**flux_call(guided=True)).images
    with ertacache.accelerated(pipe, make_policy(8, ())):
        assert torch.equal(pipe(**flux_call(guided=True)).images, plain)
    with ertacache.accelerated(pipe, make_policy(8, CACHED)) as run:
        pipe(**flux_call(guided=True))
        pipe.transformer.unfuse_qkv_projections()
        pipe(**flux_call(guided=True))
        assert run.cached_steps == CACHED
