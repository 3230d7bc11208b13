"""Aligned rectification: factors, Taylor weights, and the least squares behind the fitted ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ertacache.method.aligned_weights import NormalEquations, features
from ertacache.method.prediction import coefficients, combine, taylor_weights

PROPERTY = settings(deadline=None, max_examples=100)
weights = st.lists(st.floats(-10, 10), max_size=3)


def tensors(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@PROPERTY
@given(weights)
def test_factors_sum_to_one_so_that_an_output_that_stands_still_is_predicted_exactly(w: list[float]) -> None:
    assert sum(coefficients(w)) == pytest.approx(1, abs=1e-12)


@PROPERTY
@given(weights)
def test_factors_say_the_same_as_weights_on_successive_differences(w: list[float]) -> None:
    history = list(tensors(len(w) + 1, 5))
    by_hand = history[0] + sum(w[k] * (history[k] - history[k + 1]) for k in range(len(w)))
    assert torch.allclose(combine(history, coefficients(w)), by_hand, rtol=0, atol=1e-12)


def test_no_weight_is_reuse_of_the_newest_output_and_leaves_the_history_alone() -> None:
    history = list(tensors(3, 4))
    before = [h.clone() for h in history]
    assert torch.equal(combine(history, coefficients([])), history[0])
    combine(history, coefficients([0.5, -0.25]))
    assert all(torch.equal(a, b) for a, b in zip(history, before, strict=True))


def test_features_are_as_many_differences_as_the_history_gives_and_the_newest_output() -> None:
    history = [torch.tensor([7.0]), torch.tensor([4.0]), torch.tensor([2.0])]
    assert [float(f) for f in features(history, 2)] == [3.0, 2.0, 7.0]
    assert [float(f) for f in features(history, 1)] == [3.0, 7.0]
    assert [float(f) for f in features(history[:2], 2)] == [3.0, 7.0]
    assert [float(f) for f in features(history[:1], 2)] == [7.0]


@PROPERTY
@given(st.lists(st.floats(-10, 10), min_size=1, max_size=3))
def test_factors_say_the_same_of_the_history_as_weights_say_of_its_features(w: list[float]) -> None:
    history = list(tensors(len(w), 5))
    by_hand = sum(a * f for a, f in zip(w, features(history, len(w) - 1), strict=True))
    assert torch.allclose(combine(history, coefficients(w[:-1], w[-1])), torch.as_tensor(by_hand), rtol=0, atol=1e-12)


@PROPERTY
@given(st.lists(st.floats(0.01, 1), min_size=4, max_size=12), st.data())
def test_taylor_is_exact_for_outputs_that_are_linear_in_the_noise_level(gaps: list[float], data: st.DataObject) -> None:
    levels = np.cumsum(gaps)[::-1]
    step = data.draw(st.integers(2, len(levels) - 1))
    newest = data.draw(st.integers(1, step - 1))
    history = [newest, data.draw(st.integers(0, newest - 1))]
    offset, slope = tensors(2, 6)
    predicted = combine(
        [offset + slope * levels[i] for i in history], coefficients(taylor_weights(levels, step, history))
    )
    assert torch.allclose(predicted, offset + slope * levels[step], rtol=1e-9, atol=1e-9)


def test_taylor_is_reuse_while_the_history_is_short_or_stands_still() -> None:
    assert taylor_weights([1.0, 0.5, 0.2], 1, [0]) == ()
    assert taylor_weights([1.0, 1.0, 0.2], 2, [1, 0]) == ()


def test_normal_equations_are_least_squares_over_all_prompts() -> None:
    equations = NormalEquations(2, ridge=0.0)
    terms, targets = tensors(5, 2, 3, 4), tensors(5, 3, 4, seed=1)
    targets[2] *= 100  # a prompt that is hard to predict counts no more than the others
    for prompt in range(5):
        equations.add(list(terms[prompt]), targets[prompt])
    sizes = targets.flatten(1).norm(dim=1)
    matrix = (terms / sizes[:, None, None, None]).transpose(0, 1).reshape(2, -1).T.numpy()
    expected, *_ = np.linalg.lstsq(matrix, (targets / sizes[:, None, None]).flatten().numpy())
    assert np.array(equations.solve()) == pytest.approx(expected, abs=1e-10)


def test_a_prompt_that_is_on_its_target_already_has_no_say() -> None:
    equations = NormalEquations(1)
    equations.add([torch.ones(4)], torch.zeros(4))
    assert equations.solve() == (0.0,)
    equations.add([torch.ones(4)], 3 * torch.ones(4))
    assert equations.solve() == pytest.approx((3.0,), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_weights_that_made_the_data_are_found_again(dtype: torch.dtype) -> None:
    equations = NormalEquations(2)
    for prompt in range(3):
        terms = tensors(2, 50, seed=prompt).to(dtype)
        equations.add(list(terms), 1.7 * terms[0] - 0.6 * terms[1])
    assert equations.solve() == pytest.approx((1.7, -0.6), abs=1e-5)


def test_features_that_vanish_get_no_weight() -> None:
    nothing, equations = torch.zeros(4), NormalEquations(2)
    equations.add([nothing, nothing], torch.ones(4))
    assert equations.solve() == (0.0, 0.0)
    one_left = NormalEquations(2)
    one_left.add([torch.ones(4), nothing], 3 * torch.ones(4))
    assert one_left.solve() == pytest.approx((3.0, 0.0), abs=1e-5)


def test_nearly_parallel_features_do_not_get_huge_opposite_weights() -> None:
    feature, target = tensors(2, 100)
    nearly = feature + 1e-7 * tensors(100, seed=2)
    found, unpulled = (NormalEquations(2), NormalEquations(2, ridge=0.0))
    for equations in (found, unpulled):
        equations.add([feature, nearly], target)
    assert max(map(abs, unpulled.solve())) > 1e3
    assert max(map(abs, found.solve())) < 1
