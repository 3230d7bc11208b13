"""DPCache: its predictor, costs and plans by hand, and what it does to pipelines."""

from itertools import combinations, pairwise
from math import inf

import numpy as np
import pytest
import torch

from benchmarks.rivals.dpcache import DPCACHE, Taylor, path_costs, planned
from benchmarks.rivals.last_block import recorded
from ertacache.evaluation.cost import counting_flops
from tests.rivals.subjects import CALLS_PER_STEP, found, generate, subject_of


def after(order: int, **values: float) -> Taylor:
    """A predictor that has seen these values at these steps."""
    predictor = Taylor(order)
    for step, value in values.items():
        predictor.computed(int(step[1:]), torch.tensor([value]))
    return predictor


def test_the_first_order_is_the_line_through_the_last_two_computed_steps():
    assert after(1, _0=0.0, _1=1.0, _2=4.0).predicted(4) == 4 + 2 * 3
    assert after(1, _0=0.0, _1=1.0, _2=4.0, _6=2.0).predicted(8) == 2 + 2 * (2 - 4) / 4


def test_the_second_order_needs_a_difference_at_the_step_before():
    # Differences begin at step 2, so the second one is not there yet.
    assert after(2, _0=0.0, _1=1.0, _2=4.0).predicted(4) == 4 + 2 * 3
    # First differences 3 at step 2 and -0.5 at step 6, second difference (-0.5 - 3) / 4.
    assert after(2, _0=0.0, _1=1.0, _2=4.0, _6=2.0).predicted(8) == 2 + 2 * -0.5 + 2**2 / 2 * -3.5 / 4


def test_costs_of_order_1_by_hand():
    costs = path_costs(torch.tensor([[0.0], [1.0], [4.0], [9.0]]), order=1)
    # After the end: 0.8 times 9 + 5, the line through 4 and 9, and 0.2 times their mean.
    end = 0.8 * 14 + 0.2 * 6.5
    assert costs.shape == (4, 4, 5)
    assert costs[0, 0, 1] == 0
    # From 0 and 1 the line says 2, 3, 4 for steps 2, 3 and the end; errors add up.
    np.testing.assert_allclose(costs[0, 1, 2:], np.cumsum([2, 6, end - 4]), rtol=1e-6)
    # From steps 0 and 2 it is 6 and 8.
    np.testing.assert_allclose(costs[0, 2, 3:], np.cumsum([3, end - 8]), rtol=1e-6)
    assert costs[1, 2, 3] == 2  # 4 + 3 for 9
    assert costs[2, 1, 3] == costs[2, 2, 3] == costs[1, 2, 2] == inf


def test_costs_of_order_2_take_the_difference_before_from_consecutive_steps():
    squares = torch.arange(6.0)[:, None] ** 2
    costs = path_costs(squares, order=2)
    # At step 1 the difference is 1; at step 3, (9 - 1) / 2 = 4; the second one is (4 - 1) / 2 = 1.5.
    assert costs[1, 3, 4] == pytest.approx(16 - (9 + 4 + 1.5 / 2))
    assert costs[1, 3, 5] == pytest.approx(costs[1, 3, 4] + 25 - (9 + 2 * 4 + 4 * 1.5 / 2))
    assert costs[0, 2, 3] == inf  # there is no difference at step 0


def test_an_elements_mean_is_taken():
    costs = path_costs(torch.tensor([[0.0, 0.0], [1.0, 0.0], [4.0, 0.0], [9.0, 0.0]]), order=1)
    assert costs[0, 1, 2] == 1


def path_cost(costs: np.ndarray, steps: tuple[int, ...]) -> float:
    path = (*steps, len(costs))
    return sum(costs[i, j, k] for i, j, k in zip(path, path[1:], path[2:], strict=False))


def test_a_plan_is_the_cheapest_path_where_costs_depend_on_one_step_only():
    num_steps, k = 12, 6
    generator = np.random.default_rng(0)
    weights = generator.random(num_steps + 1)
    costs = np.full((num_steps, num_steps, num_steps + 1), inf)
    for j, end in combinations(range(num_steps + 1), 2):
        costs[: max(j, 1), j, end] = weights[j] * (end - j - 1) ** 2
    # Any path with the first three steps, gaps of at most 0.3 * 12 = 3.
    paths = [(0, 1, 2, *rest) for rest in combinations(range(3, num_steps), k - 3)]
    allowed = [path for path in paths if all(b - a <= 3 for a, b in pairwise((*path, num_steps)))]
    best = min(allowed, key=lambda path: path_cost(costs, path))
    assert planned(costs, k) == best


def test_the_step_before_is_part_of_the_cost():
    costs = np.zeros((8, 8, 9))
    costs[2, 4, 6] = costs[3, 5, 7] = 1.0
    # Two steps between 2 and 8, no gap longer than 2: 4 and 6, which costs 1; there is no other way.
    assert planned(costs, 5) == (0, 1, 2, 4, 6)
    costs[2, 3, 5] = 5.0  # one step more may stand anywhere, and the cheap way avoids 2, 4, 6
    steps = planned(costs, 6)
    assert steps[:3] == (0, 1, 2)
    assert path_cost(costs, steps) == 0


def test_gaps_grow_where_they_must():
    costs = np.zeros((30, 30, 31))
    steps = planned(costs, 5)  # 28 steps in three gaps, though 0.3 of all is 9
    assert max(b - a for a, b in pairwise((*steps, 30))) == 10
    assert len(steps) == 5


def test_the_last_steps_are_computed_on_request():
    costs = np.zeros((30, 30, 31))
    costs[:, 27:29, 29:] = 1.0  # which makes the last step dear
    assert planned(costs, 9, last_full_steps=0)[-1] < 29
    steps = planned(costs, 9, last_full_steps=1)
    assert (len(steps), steps[-1]) == (9, 29)
    assert planned(costs, 9, last_full_steps=2)[-2:] == (28, 29)
    assert planned(costs, 4, last_full_steps=1) == (0, 1, 2, 29)


@pytest.fixture(scope="module")
def costs_of_flux():
    return DPCACHE.prepare(subject_of("flux"))


def test_costs_are_those_of_the_conditional_branch_averaged_over_prompts(costs_of_flux):
    flux, found = subject_of("flux"), []
    for seed, prompt in enumerate(flux.calibration_prompts):
        with recorded(flux.denoiser) as left:
            flux.pipe(prompt=prompt, generator=torch.Generator().manual_seed(seed), **flux.arguments)
        found.append(path_costs(torch.stack(left[::2]).flatten(1), order=2))
    np.testing.assert_allclose(costs_of_flux[2], np.mean(found, axis=0), rtol=1e-5)


@pytest.mark.parametrize("name", CALLS_PER_STEP)
def test_skipped_steps_run_the_output_head_alone_on_the_prediction(name):
    subject = subject_of(name)
    with counting_flops(subject.pipe) as full:
        plain = generate(subject)
    before = found(subject)
    costs = {2: np.zeros((8, 8, 9))}
    with DPCACHE.attach(subject, {"k": 8, "order": 2, "last_full_steps": 0}, costs):
        assert torch.equal(generate(subject), plain)

    with (
        recorded(subject.denoiser) as left,
        DPCACHE.attach(subject, {"k": 5, "order": 2, "last_full_steps": 0}, costs) as predictors,
        counting_flops(subject.pipe) as cost,
    ):
        made = generate(subject)
    assert 5 / 8 < cost.flops / full.flops < 5.4 / 8  # 0, 1, 2, 4 and 6 of eight steps, and the heads
    features = left[:: subject.calls_per_step]
    expected = after_tensors({step: features[step] for step in (0, 1, 2, 4, 6)})
    assert torch.equal(features[7], expected.predicted(7))
    assert set(predictors) == set(range(subject.calls_per_step))
    assert made.isfinite().all()
    assert not torch.equal(made, plain)
    assert found(subject) == before


def after_tensors(features):
    predictor = Taylor(2)
    for step, feature in features.items():
        predictor.computed(step, feature)
    return predictor
