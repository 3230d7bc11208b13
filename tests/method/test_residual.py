"""Eqs. (5) and (6): what a computed step leaves in the cache and what a cached step makes of it."""

from __future__ import annotations

import pytest
import torch

from ertacache.method.residual import LEVELS, from_cache, to_cache

X0, V0 = torch.tensor([[1.0, 2.0]]), torch.tensor([[10.0, 30.0]])
X1 = torch.tensor([[5.0, 7.0]])


def test_at_level_output_the_change_of_the_sample_is_added_to_the_reused_output() -> None:
    assert to_cache(X0, V0, "output").tolist() == [[9.0, 28.0]]
    assert from_cache(X1, to_cache(X0, V0, "output"), "output").tolist() == [[14.0, 35.0]]


def test_at_level_velocity_the_output_is_reused_whatever_the_sample() -> None:
    assert from_cache(X1, to_cache(X0, V0, "velocity"), "velocity").tolist() == V0.tolist()


@pytest.mark.parametrize("level", LEVELS)
def test_at_the_sample_it_was_cached_at_an_entry_gives_the_output_back(level: str) -> None:
    assert torch.equal(from_cache(X0, to_cache(X0, V0, level), level), V0)


@pytest.mark.parametrize("level", LEVELS)
def test_an_entry_outlives_changes_in_place_of_what_it_was_made_of(level: str) -> None:
    sample, output = X0.clone(), V0.clone()
    entry = to_cache(sample, output, level)
    before = entry.clone()
    sample.zero_()
    output.zero_()
    assert torch.equal(entry, before)


def test_level_velocity_serves_samples_and_outputs_of_different_shape() -> None:
    sample, output = torch.zeros(1, 33, 4), torch.ones(1, 16, 4)
    assert from_cache(sample, to_cache(sample, output, "velocity"), "velocity").shape == output.shape
