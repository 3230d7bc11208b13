"""Offloading replaces a denoiser's ``forward`` over and over; the gate neither minds nor is lost."""

from __future__ import annotations

import pytest
import torch
from accelerate import cpu_offload, cpu_offload_with_hook
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
from diffusers.hooks import apply_group_offloading

import ertacache
from ertacache.errors import PolicyMismatchError

CACHED = (2, 3, 5)


def model_offload(pipe):
    """What ``enable_model_cpu_offload`` attaches; its end of each call removes the hook and attaches it again."""
    pipe.enable_model_cpu_offload(device="cpu")
    return pipe.remove_all_hooks


def sequential_offload(pipe):
    """Weights away on the meta device between calls and fetched layer by layer: ``enable_sequential_cpu_offload``."""
    modules = (pipe.transformer, pipe.vae)
    for module in modules:
        cpu_offload(module, execution_device=torch.device("cpu"))
    return lambda: [remove_hook_from_module(module, recurse=True) for module in modules]


def offload_with_hook(pipe):
    cpu_offload_with_hook(pipe.transformer, execution_device="cpu")
    return lambda: remove_hook_from_module(pipe.transformer)


def two_hooks(pipe):
    add_hook_to_module(pipe.transformer, ModelHook())
    add_hook_to_module(pipe.transformer, ModelHook(), append=True)
    return lambda: remove_hook_from_module(pipe.transformer)


def group_offload(offload_type, **options):
    def attach(pipe):
        cpu = torch.device("cpu")
        apply_group_offloading(
            pipe.transformer, onload_device=cpu, offload_device=cpu, offload_type=offload_type, **options
        )

    return attach


WAYS = {
    "whole model": model_offload,
    "weights on meta": sequential_offload,
    "one hook": offload_with_hook,
    "two hooks": two_hooks,
    "leaf groups": group_offload("leaf_level"),
    "block groups": group_offload("block_level", num_blocks_per_group=1),
}


@pytest.fixture
def alone(flux, flux_call, make_policy):
    """The accelerated output without hooks."""
    with ertacache.accelerated(flux, make_policy(8, CACHED)):
        return flux(**flux_call(guided=True)).images


class BlockCounter:
    """Counts how often the denoiser really runs, from deep inside."""

    def __init__(self, pipe):
        self.calls = 0
        pipe.transformer.transformer_blocks[0].attn.register_forward_hook(self.count)

    def count(self, *_):
        self.calls += 1

    def take(self):
        """The number of runs since this was last asked."""
        taken, self.calls = self.calls, 0
        return taken


@pytest.mark.parametrize("order", ["attached, enabled", "enabled, attached", "enabled, called, attached"])
@pytest.mark.parametrize("way", WAYS)
def test_every_later_call_skips_the_same_steps(way, order, alone, flux, flux_call, make_policy):
    counter = BlockCounter(flux)
    if order == "attached, enabled":
        WAYS[way](flux)
    run = ertacache.enable(flux, make_policy(8, CACHED))
    if order == "enabled, called, attached":
        flux(**flux_call(guided=True))
        assert counter.take() == 10
    if order != "attached, enabled":
        WAYS[way](flux)
    for _ in range(4):
        assert torch.equal(flux(**flux_call(guided=True)).images, alone)
        assert counter.take() == 10
        assert run.cached_steps == CACHED
    ertacache.disable(flux)
    flux(**flux_call(guided=True))
    assert counter.take() == 16


@pytest.mark.parametrize("way", ["whole model", "weights on meta", "one hook", "two hooks"])
def test_hooks_can_be_removed_while_enabled(way, alone, flux, flux_call, make_policy):
    counter = BlockCounter(flux)
    detach = WAYS[way](flux)
    with ertacache.accelerated(flux, make_policy(8, CACHED)):
        flux(**flux_call(guided=True))
        detach()
        counter.take()
        for _ in range(3):
            assert torch.equal(flux(**flux_call(guided=True)).images, alone)
            assert counter.take() == 10
    assert "_compiled_call_impl" not in vars(flux.transformer)


def test_hooks_are_neither_entered_nor_left_at_cached_steps(flux, flux_call, make_policy):
    class Spy(ModelHook):
        seen = 0

        def pre_forward(self, module, *args, **kwargs):
            self.seen += 1
            return args, kwargs

        def post_forward(self, module, output):
            self.seen += 100
            return output

    spy = Spy()
    add_hook_to_module(flux.transformer, spy)
    with ertacache.accelerated(flux, make_policy(8, CACHED)):
        flux(**flux_call())
    assert spy.seen == 5 * 101


def test_hooks_attached_and_removed_within_a_call_do_not_open_the_gate(alone, flux, flux_call, make_policy):
    counter = BlockCounter(flux)

    def callback(pipe, i, t, kwargs):
        if i % 2:
            remove_hook_from_module(pipe.transformer)
        else:
            cpu_offload_with_hook(pipe.transformer, execution_device="cpu")
        return {}

    with ertacache.accelerated(flux, make_policy(8, CACHED)):
        assert torch.equal(flux(**flux_call(guided=True, callback_on_step_end=callback)).images, alone)
    assert counter.take() == 10


def test_forward_hooks_of_the_user_survive_and_see_computed_steps_only(flux, flux_call, make_policy):
    seen = []
    early = flux.transformer.register_forward_hook(lambda *_: seen.append("early"))
    with ertacache.accelerated(flux, make_policy(8, CACHED)):
        flux.transformer.register_forward_hook(lambda *_: seen.append("late"))
        flux(**flux_call())
        assert seen == ["early", "late"] * 5
        early.remove()
        seen.clear()
        flux(**flux_call())
        assert seen == ["late"] * 5
    seen.clear()
    flux(**flux_call())
    assert seen == ["late"] * 8


def test_a_policy_still_fits_when_the_weights_are_away(flux, flux_call, make_policy, origin_for):
    policy = make_policy(8, CACHED, "aligned", origin=origin_for(flux, flux_call(), calls=1, shape=(16, 16)))
    sequential_offload(flux)
    assert all(parameter.is_meta for parameter in flux.transformer.parameters())
    with ertacache.accelerated(flux, policy) as run:
        flux(**flux_call())
    assert run.cached_steps == CACHED
    flux.transformer.register_to_config(guidance_embeds=True)
    with pytest.raises(PolicyMismatchError, match="configuration of transformer"):
        ertacache.enable(flux, policy)
