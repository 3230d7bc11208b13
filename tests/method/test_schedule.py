"""Algorithm 2 and Eq. (12), evenly spaced schedules, and budgets."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ertacache.errors import BudgetError
from ertacache.method.schedule import check_budget, computed_steps_for, uniform
from ertacache.method.threshold import relative_distance, threshold, threshold_for_budget

PROPERTY = settings(deadline=None, max_examples=100)
seeds = st.integers(0, 2**32 - 1)


class Network:
    """``v = f(x, i)``, step i counted from the noise, and the full run's residuals; both runs make Euler steps."""

    def __init__(self, seed: int, num_steps: int) -> None:
        rng = np.random.default_rng(seed)
        self.num_steps, self.speed = num_steps, rng.uniform(0.2, 3)
        self.mix, self.noise = torch.from_numpy(rng.normal(size=(7, 7))), torch.from_numpy(rng.normal(size=7))
        self.full_run: list[Tensor] = []
        x = self.noise
        for i in range(num_steps):
            self.full_run.append(self(x, i) - x)
            x = self.after(x, self(x, i))

    def __call__(self, x: Tensor, i: int) -> Tensor:
        return torch.tanh(self.mix @ x + self.speed * i)

    def after(self, x: Tensor, v: Tensor) -> Tensor:
        return x + v / self.num_steps


def algorithm_2_as_printed(network: Network, lam: float) -> set[int]:
    """Lines 8 to 22, i counting down from T-1 as there."""
    cached_steps: set[int] = set()
    first, x = network.num_steps - 1, network.noise
    for i in range(first, -1, -1):
        v = network(x, first - i)
        if i in (first, 0):
            kept = v - x
        elif (kept - (v - x)).abs().sum() / network.full_run[first - i].abs().sum() < lam:
            cached_steps.add(i)
            v = x + kept
        else:
            kept = v - x
        x = network.after(x, v)
    return cached_steps


@PROPERTY
@given(seed=seeds, num_steps=st.integers(3, 25), lam=st.floats(0.01, 2))
def test_threshold_in_closed_loop_is_algorithm_2_counted_the_other_way_round(
    seed: int, num_steps: int, lam: float
) -> None:
    network = Network(seed, num_steps)
    x, v = network.noise, network(network.noise, 0)
    kept = v - x

    def distance(last: int, i: int) -> float:
        nonlocal x, v, kept
        x = network.after(x, v if last == i - 1 else x + kept)
        v = network(x, i)
        if last == i - 1:
            kept = kept_after[-1]
        kept_after.append(v - x)
        error, size = relative_distance(kept, v - x, network.full_run[i])
        return error / size

    kept_after = [kept]
    cached = threshold(num_steps, distance, lam)
    assert {num_steps - 1 - i for i in cached} == algorithm_2_as_printed(network, lam)


def test_the_distance_is_a_ratio_of_sums_over_prompts_not_a_mean_of_ratios() -> None:
    prompts = [([3.0, -1.0], [1.0, 1.0], [-2.0, 2.0]), ([0.0, 0.0], [5.0, -5.0], [10.0, 10.0])]
    parts = [relative_distance(*map(torch.tensor, prompt)) for prompt in prompts]
    assert parts == [(4.0, 4.0), (10.0, 20.0)]


def test_the_cache_is_renewed_at_computed_steps_only() -> None:
    asked: list[tuple[int, int]] = []

    def distance(last: int, i: int) -> float:
        asked.append((last, i))
        return float(i == 3)

    assert threshold(6, distance, 0.5) == (1, 2, 4)
    assert asked == [(0, 1), (0, 2), (0, 3), (3, 4)]


def test_a_distance_equal_to_the_threshold_is_computed() -> None:
    assert threshold(3, lambda last, i: 0.5, 0.5) == ()


def test_first_and_last_and_forced_steps_are_computed_whatever_the_threshold() -> None:
    assert threshold(6, lambda last, i: 0.0, 1e9) == (1, 2, 3, 4)
    assert threshold(6, lambda last, i: 0.0, 1e9, forced=(2, 5)) == (1, 3, 4)


@PROPERTY
@given(seed=seeds, num_steps=st.integers(3, 20), data=st.data(), ties=st.booleans())
def test_a_budget_is_used_up_exactly_and_never_exceeded(
    seed: int, num_steps: int, data: st.DataObject, ties: bool
) -> None:
    matrix = np.random.default_rng(seed).gamma(0.5, 2.0, size=(num_steps, num_steps))
    matrix = np.round(matrix) if ties else matrix
    forced = data.draw(st.sets(st.integers(0, num_steps - 1), max_size=num_steps // 2))
    computed = data.draw(st.integers(len({0, num_steps - 1, *forced}), num_steps))
    lam, cached = threshold_for_budget(num_steps, lambda last, i: matrix[last, i], computed, forced)
    assert num_steps - len(cached) == computed
    assert not {0, num_steps - 1, *forced} & set(cached)
    assert set(cached) <= set(threshold(num_steps, lambda last, i: matrix[last, i], lam, forced))


def test_a_budget_goes_to_the_steps_that_change_most() -> None:
    position = np.array([0, 0, 0, 10, 10, 10, 30, 30, 30, 31])
    _, cached = threshold_for_budget(10, lambda last, i: abs(position[i] - position[last]), computed=4)
    assert cached == (1, 2, 4, 5, 7, 8)


def test_where_a_threshold_caches_too_much_the_steps_farthest_from_their_cache_are_computed_after_all() -> None:
    distances = {(0, 1): 0.5, (0, 2): 0.9, (0, 3): 0.8, (0, 4): 0.7, (2, 3): 5.0, (2, 4): 6.0}
    distances |= {(1, 2): 8.0, (1, 3): 8.0, (1, 4): 8.0, (3, 4): 7.0}
    schedules = [threshold_for_budget(6, lambda last, i: distances[last, i], computed)[1] for computed in range(2, 6)]
    assert schedules == [(1, 2, 3, 4), (1, 3, 4), (1, 3), (1,)]


def test_more_forced_steps_than_the_budget_allows_is_an_error() -> None:
    with pytest.raises(BudgetError, match="Allow at least 4"):
        threshold_for_budget(8, lambda last, i: 0.0, computed=3, forced=(2, 3))


def test_evenly_spaced_schedules_compute_exactly_what_is_asked() -> None:
    for num_steps in range(3, 61):
        for computed in range(2, num_steps + 1):
            cached = uniform(num_steps, computed)
            kept = [i for i in range(num_steps) if i not in cached]
            gaps = [b - a for a, b in itertools.pairwise(kept)]
            assert len(kept) == computed
            assert {0, num_steps - 1} <= set(kept)
            assert max(gaps) - min(gaps) <= 1


@PROPERTY
@given(num_steps=st.integers(3, 1000), share=st.floats(0, 1))
def test_a_speedup_is_met_with_as_many_computed_steps_as_it_leaves(num_steps: int, share: float) -> None:
    speedup = 1 + share * (num_steps / 2 - 1)
    computed = computed_steps_for(num_steps, speedup)
    assert num_steps / computed >= speedup * (1 - 1e-9)
    assert num_steps / (computed + 1) < speedup


def test_a_speedup_that_divides_the_steps_is_met_in_spite_of_rounding() -> None:
    assert [computed_steps_for(30, 30 / n) for n in range(2, 31)] == list(range(2, 31))


@pytest.mark.parametrize("speedup", [0.99, 0.0, -2.0, float("nan"), 15.1, float("inf")])
def test_a_speedup_that_no_policy_has_is_an_error(speedup: float) -> None:
    with pytest.raises(BudgetError, match=f"speedup={speedup}"):
        computed_steps_for(30, speedup)


@pytest.mark.parametrize(("num_steps", "computed"), [(2, 2), (30, 1), (30, 31), (30, 0)])
def test_a_number_of_computed_steps_that_no_policy_has_is_an_error(num_steps: int, computed: int) -> None:
    with pytest.raises(BudgetError, match="as asked"):
        check_budget(num_steps, computed, given="as asked")
