"""Delta-DiT: its arithmetic on numbers, its schedule by hand, and what it does to pipelines."""

from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from benchmarks.rivals.base import Subject, ordered_blocks
from benchmarks.rivals.delta_dit import DELTA_DIT, skipped_blocks
from tests.rivals.subjects import generate, generate_with, subject_of

STRONG = {"b": 4, "N": 4, "N_c": 4}


@pytest.fixture(scope="module")
def wan() -> Subject:
    return subject_of("wan")


class Times(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.factor * hidden_states


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Times(factor) for factor in (2, 3, 5, 7))

    def forward(self, value: float) -> float:
        hidden = torch.tensor(value)
        for block in self.blocks:
            hidden = block(hidden)
        return hidden.item()


def test_a_skipped_group_adds_what_it_added_when_it_last_ran():
    toy = Toy()
    subject = Subject("toy", SimpleNamespace(transformer=toy), {"num_inference_steps": 4}, [], 1, Path("unused"))
    with DELTA_DIT.attach(subject, {"b": 2, "N": 2, "N_c": 3}, None):
        assert toy(1.0) == 2 * 3 * 5 * 7
        assert toy(3.0) == 3 * 2 + (210 - 2)  # the last three blocks
        assert toy(1.0) == 210
        assert toy(5.0) == (5 + (30 - 1)) * 7  # the first three
    assert toy(5.0) == 5 * 210


def test_rear_blocks_are_skipped_before_b_and_front_blocks_from_it_on():
    schedule = [list(skipped_blocks(step, 6, b=3, N=2, N_c=2)) for step in range(6)]
    assert schedule == [[], [4, 5], [], [0, 1], [], [0, 1]]


def test_the_blocks_that_run_are_those_of_a_schedule_by_hand(wan):
    step, ran, hooks = -1, defaultdict(set), []

    def count(module: nn.Module, args: tuple) -> None:
        nonlocal step
        step += 0.5  # two calls a step

    hooks.append(wan.denoiser.register_forward_pre_hook(count))
    for number, block in enumerate(ordered_blocks(wan.denoiser)):
        hook = block.ffn.register_forward_pre_hook(lambda *_, number=number: ran[int(step + 0.5)].add(number))
        hooks.append(hook)
    generate_with(DELTA_DIT, wan, STRONG)
    for hook in hooks:
        hook.remove()
    rear, front, every = {0, 1}, {4, 5}, set(range(6))
    assert [ran[i] for i in range(8)] == [every, rear, rear, rear, every, front, front, front]


def test_computing_every_step_changes_nothing(wan):
    assert torch.equal(generate_with(DELTA_DIT, wan, {"b": 4, "N": 1, "N_c": 4}), generate(wan))


@pytest.mark.parametrize("name", ["flux", "wan"])
def test_settings_always_leave_a_block_and_differ(name):
    subject = subject_of(name)
    settings = DELTA_DIT.knobs(subject)
    assert len({tuple(knobs.values()) for knobs in settings}) == len(settings)
    assert all(1 <= knobs["N_c"] < len(ordered_blocks(subject.denoiser)) for knobs in settings)
    assert all(knobs["b"] % knobs["N"] == 0 for knobs in settings)
