"""ProfilingDiT: profiling on attention made by hand, its schedule by hand, and what it does to pipelines."""

from collections import defaultdict

import pytest
import torch
from torch import nn

from benchmarks.rivals import profiling_dit
from benchmarks.rivals.base import Subject, ordered_blocks
from benchmarks.rivals.profiling_dit import PROFILING_DIT, background_runs, computed_steps, foreground
from tests.rivals.subjects import generate, generate_with, subject_of

STRONG = {"step_start": 2, "T_max": 3, "T_min": 3, "background": 3}


@pytest.fixture(scope="module")
def wan() -> Subject:
    return subject_of("wan")


def scores_of(subject: Subject) -> tuple[float, ...]:
    """As if it had been profiled."""
    return (0.1, 0.9, 0.2, 0.3, 0.8, 0.7, 0.6, 0.5)[: len(ordered_blocks(subject.denoiser))]


def test_intervals_shrink_from_the_longest_to_the_shortest():
    # At step 18: 12 - 10 * 12 / 44 = 9.3, and so on. The authors wrote 6 18 26 32 38 42 46 48.
    assert computed_steps(50, step_start=6, T_max=12, T_min=2) == (6, 18, 27, 34, 39, 43, 46, 48)
    assert computed_steps(50, step_start=6, T_max=6, T_min=6) == (6, 12, 18, 24, 30, 36, 42, 48)
    assert computed_steps(4, step_start=1, T_max=1, T_min=1) == (1, 2, 3)


def test_the_lowest_scores_are_background_and_neighbours_join():
    assert background_runs([0.1, 0.9, 0.2, 0.3, 0.8], 3) == [range(0, 1), range(2, 4)]
    assert background_runs([0.1, 0.9, 0.2, 0.3, 0.8], 1) == [range(0, 1)]


def test_an_object_on_a_ground_is_the_foreground():
    features = torch.randn(2, 8, 8, 6, generator=torch.Generator().manual_seed(0)) * 0.1
    inside = torch.zeros(2, 8, 8, dtype=torch.bool)
    inside[0, 2:5, 3:6] = inside[1, 4:7, 3:6] = True
    features[inside] += torch.tensor([1.0, -1, 0, 2, 0, 1])
    assert torch.equal(foreground(features), inside)


def test_tokens_with_more_attention_than_the_average_are_looked_at():
    # Two tokens of text and three visual ones, of which all look at the second.
    query = torch.ones(1, 2, 5, 4)
    key = torch.zeros(1, 2, 5, 4)
    key[:, :, 3] = 3.0
    key[:, :, 0] = 9.0  # text that is looked at more still does not count
    assert profiling_dit._looked_at(query, key, torch.zeros(1, 3, 4), False).tolist() == [0, 1, 0]


@pytest.mark.parametrize("temporal", [False, True])
def test_attention_within_frames_or_places_finds_the_same_token(temporal):
    frames, places = 3, 4
    key = torch.zeros(frames, places, 8)
    key[1, 2] = 5.0
    if temporal:
        key = key.transpose(0, 1)
    key = key[:, None]
    seen = profiling_dit._looked_at(torch.ones_like(key), key, torch.zeros(1, frames, places, 8), temporal)
    assert seen.nonzero().flatten().tolist() == [1 * places + 2]


@pytest.mark.parametrize("name", ["flux", "wan", "cogvideox", "opensora"])
def test_profiling_gives_each_block_a_score_and_leaves_nothing_behind(name, monkeypatch):
    monkeypatch.setattr(profiling_dit, "_PROMPTS", 1)
    subject = subject_of(name)
    generate(subject)  # itself leaves a registry of hooks behind
    before = [dict(vars(module)) for module in subject.denoiser.modules()]
    hooks = [len(module._forward_pre_hooks) for module in subject.denoiser.modules()]
    scores = PROFILING_DIT.prepare(subject)
    assert len(set(scores)) == len(ordered_blocks(subject.denoiser))
    assert all(0 <= score <= 1 for score in scores)
    assert [dict(vars(module)) for module in subject.denoiser.modules()] == before
    assert [len(module._forward_pre_hooks) for module in subject.denoiser.modules()] == hooks


def test_profiling_twice_gives_the_same(wan, monkeypatch):
    monkeypatch.setattr(profiling_dit, "_PROMPTS", 1)
    assert PROFILING_DIT.prepare(wan) == PROFILING_DIT.prepare(wan)


def test_the_blocks_that_run_are_those_of_a_schedule_by_hand(wan):
    made, ran, hooks = -1, defaultdict(set), []

    def count(module: nn.Module, args: tuple) -> None:
        nonlocal made
        made += 1

    hooks.append(wan.denoiser.register_forward_pre_hook(count))
    for number, block in enumerate(ordered_blocks(wan.denoiser)):
        hooks.append(block.ffn.register_forward_pre_hook(lambda *_, number=number: ran[made].add(number)))
    generate_with(PROFILING_DIT, wan, STRONG, scores_of(wan))
    for hook in hooks:
        hook.remove()
    every, fore = set(range(6)), {1, 4, 5}
    by_step = [every, every, every, fore, fore, every, fore, fore]
    assert [ran[call] for call in range(16)] == [blocks for blocks in by_step for _ in range(2)]


def test_an_interval_of_one_changes_nothing(wan):
    assert torch.equal(
        generate_with(PROFILING_DIT, wan, {**STRONG, "T_max": 1, "T_min": 1}, scores_of(wan)), generate(wan)
    )


@pytest.mark.parametrize("name", ["flux", "wan"])
def test_settings_always_leave_a_block(name):
    subject = subject_of(name)
    settings = PROFILING_DIT.knobs(subject)
    assert all(1 <= knobs["background"] < len(ordered_blocks(subject.denoiser)) for knobs in settings)
    assert all(knobs["T_min"] <= knobs["T_max"] for knobs in settings)
