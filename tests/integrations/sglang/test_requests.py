"""What requests ask for, without SGLang: its diffusers backend is stood in for by a stage that calls a pipeline."""

from types import SimpleNamespace

import pytest
import torch

from ertacache.integrations.sglang import plugin
from ertacache.integrations.sglang.requests import KEPT, Accelerations, Wish

STEPS = 8


class Stage:
    """As the plug-in sees the diffusers backend's; another request may come in the middle of one."""

    def __init__(self, pipe, call):
        self.diffusers_pipe, self.call = pipe, call

    def requested(self, **asked):
        """The pictures of a request, and its report."""
        batch = SimpleNamespace(extra={"diffusers_kwargs": asked})
        made = plugin.diffusers_request(lambda stage, *_: stage.diffusers_pipe(**self.call()), self, batch, None)
        return made.images, batch.extra.get(plugin.REPORT)


@pytest.fixture
def stage(flux, flux_call):
    return Stage(flux, lambda: flux_call(steps=STEPS))


def wishes(count):
    return [Wish.of(f"instant:{2 + k / 1000}") for k in range(count)]


def test_accelerations_are_bounded_and_those_used_last_are_kept():
    made, often = Accelerations(), Wish.of("instant:3")
    first = made.of(often)
    for wish in wishes(3 * KEPT):
        made.of(wish)
        assert made.of(often) is first
    assert len(made) == KEPT


def test_a_request_ends_as_it_began_while_others_ask_for_any_number_of_speedups(stage, flux):
    alone, told = stage.requested(ertacache="instant:2")
    assert "4 of 8 steps computed" in told
    kind = type(flux)

    def others(*_):
        for wish in wishes(2 * KEPT)[1:]:
            plugin._accelerations[stage].of(wish)

    hook = flux.transformer.register_forward_hook(others)
    disturbed, report = stage.requested(ertacache="instant:2")
    hook.remove()
    assert torch.equal(disturbed, alone)
    assert report == told
    assert type(flux) is kind
    assert len(plugin._accelerations[stage]) == KEPT
    assert torch.equal(stage.requested(ertacache="instant:2")[0], alone)
    assert stage.requested(ertacache="off")[1] is None
