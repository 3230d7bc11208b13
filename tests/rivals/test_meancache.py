"""MeanCache: its predictor, costs and plans by hand, and what it does to pipelines."""

from dataclasses import replace
from itertools import combinations, pairwise
from math import inf

import numpy as np
import pytest
import torch

from benchmarks.rivals import meancache
from benchmarks.rivals.meancache import MEANCACHE, SPANS, Plan, average, edge_costs, planned, predicted, watched
from benchmarks.rivals.teacache import watching_outputs
from ertacache.evaluation.cost import counting_flops
from ertacache.runtime.schedulers import sampler_of
from tests.rivals.subjects import CALLS_PER_STEP, STEPS, found, generate, subject_of

LEVELS = [1.0, 0.8, 0.5, 0.4]
VELOCITIES = [torch.tensor([1.0]), torch.tensor([3.0])]
PARABOLA = torch.tensor([[0.0], [-1.0], [-3.0], [-6.0], [-10.0]])
"""What enters steps at levels 5, 4, 3, 2, 1: the velocities are 1, 2, 3, 4."""


def test_the_average_is_weighed_by_how_far_each_step_went():
    assert average(VELOCITIES, LEVELS, 0).item() == pytest.approx((0.2 * 1 + 0.3 * 3) / 0.5)
    assert average(VELOCITIES, LEVELS, 1).item() == pytest.approx(3)


def test_the_correction_is_how_the_average_differs_from_the_velocity_at_its_start():
    # The average since step 0 is 2.2, which is 1.2 more than the velocity there, over a way of -0.5.
    assert predicted(VELOCITIES, LEVELS, 2).item() == pytest.approx(3 + (0.4 - 0.5) * (2.2 - 1) / -0.5)
    assert torch.equal(predicted(VELOCITIES, LEVELS, 6), predicted(VELOCITIES, LEVELS, 2))


def test_a_span_of_one_is_plain_reuse():
    assert predicted(VELOCITIES, LEVELS, 1).item() == pytest.approx(3)


def test_costs_by_hand():
    costs = edge_costs(PARABOLA, [5.0, 4.0, 3.0, 2.0, 1.0], longest=3)
    assert costs.shape == (len(SPANS), 5, 6)
    # At the start there is nothing to correct by: the average of 1, 2 and of 1, 2, 3 is compared with 1.
    np.testing.assert_allclose(costs[:, 0, 2], 0.5)
    np.testing.assert_allclose(costs[:, 0, 3], 1.0)
    # At step 2 the average so far is 1.5, 0.5 more than at the start over a way of 2: 3.5 ahead is met exactly.
    assert costs[0, 2, 4] == pytest.approx(0.5)
    assert costs[1, 2, 4] == pytest.approx(0)
    assert all(costs[place, i, i + 1] == 0 for place in range(len(SPANS)) for i in range(4))
    assert (costs[:, 0, 4] == inf).all()  # too long
    assert (costs[:, :, 5] == inf).all()  # the last step is computed
    assert (costs[:, 2, :3] == inf).all()


def test_a_costs_mean_is_taken_over_elements():
    still = torch.zeros_like(PARABOLA)
    costs = edge_costs(torch.cat([PARABOLA, still], dim=1), [5.0, 4.0, 3.0, 2.0, 1.0], longest=4)
    np.testing.assert_allclose(costs[:, 0, 3], 0.5)


@pytest.mark.parametrize("k", [2, 4, 6, 9])
def test_a_plan_is_the_path_with_the_smallest_sum_of_fourth_powers(k):
    num_steps, generator = 9, np.random.default_rng(0)
    costs = np.full((len(SPANS), num_steps, num_steps + 1), inf)
    for i, j in combinations(range(num_steps), 2):
        costs[:, i, j] = generator.random(len(SPANS)) * (j - i - 1)
    cheapest = costs.min(axis=0)
    paths = [(0, *between, num_steps - 1) for between in combinations(range(1, num_steps - 1), k - 2)]
    best = min(paths, key=lambda path: sum(cheapest[i, j] ** 4 for i, j in pairwise(path)))
    plan = planned(costs, k)
    assert plan.steps == best
    assert plan.spans == tuple(SPANS[costs[:, i, j].argmin()] for i, j in pairwise(best))


def test_a_skipped_step_has_the_span_of_its_edge():
    plan = Plan((0, 1, 4, 7), (1, 3, 2))
    assert [plan.span_at(step) for step in (2, 3, 5, 6)] == [3, 3, 2, 2]


def test_gaps_grow_where_they_must():
    flux = subject_of("flux")
    assert min(flux.budgets) == 2  # of eight steps: from the first to the last
    assert meancache.longest_gap(flux) == 8
    many = replace(flux, arguments={**flux.arguments, "num_inference_steps": 60})
    assert meancache.longest_gap(many) == 8  # 59 steps in nine edges
    few = replace(flux, arguments={**flux.arguments, "num_inference_steps": 12})
    assert meancache.longest_gap(few) == 11  # in one


def test_costs_are_a_mean_over_seeds_and_kept(monkeypatch, tmp_path):
    monkeypatch.setattr(meancache, "SEEDS", 1)
    flux = replace(subject_of("flux"), work=tmp_path)
    costs = MEANCACHE.prepare(flux)
    runs = [watched(flux, prompt, seed) for seed, prompt in enumerate(flux.calibration_prompts)]
    expected = np.mean([edge_costs(latents, levels, 8) for latents, levels in runs], axis=0)
    np.testing.assert_array_equal(costs, expected)
    monkeypatch.setattr(meancache, "watched", None)
    np.testing.assert_array_equal(MEANCACHE.prepare(flux), costs)


def test_what_is_watched_is_the_way_of_the_latents():
    flux, outputs = subject_of("flux"), []
    with watching_outputs(flux.denoiser, outputs):
        latents, levels = watched(flux, flux.calibration_prompts[0], 0)
    assert len(latents) == STEPS
    assert len(levels) == STEPS + 1
    # Euler's step by the guided velocity.
    scale = flux.arguments["true_cfg_scale"]
    for step in range(STEPS - 1):
        with_prompt, without = (output.flatten() for output in outputs[2 * step : 2 * step + 2])
        velocity = without + scale * (with_prompt - without)
        moved = (latents[step + 1] - latents[step]) / (levels[step + 1] - levels[step])
        torch.testing.assert_close(moved, velocity, rtol=1e-3, atol=1e-3)


def costs_of(plan: Plan) -> np.ndarray:
    """Costs that leave no other plan."""
    costs = np.full((len(SPANS), STEPS, STEPS + 1), inf)
    for (i, j), span in zip(pairwise(plan.steps), plan.spans, strict=True):
        costs[:, i, j] = 1.0
        costs[SPANS.index(span), i, j] = 0.5
    return costs


@pytest.mark.parametrize("name", CALLS_PER_STEP)
def test_a_skipped_step_runs_nothing_and_predictions_are_predicted_from(name):
    subject, left = subject_of(name), []
    with counting_flops(subject.pipe) as full:
        plain = generate(subject)
    before = found(subject)
    with MEANCACHE.attach(subject, {"k": 8}, costs_of(Plan(tuple(range(STEPS)), (1,) * 7))):
        assert torch.equal(generate(subject), plain)

    plan = Plan((0, 1, 2, 5, 7), (1, 1, 3, 2))
    with (
        watching_outputs(subject.denoiser, left),
        MEANCACHE.attach(subject, {"k": 5}, costs_of(plan)) as cache,
        counting_flops(subject.pipe) as cost,
    ):
        made = generate(subject)
    assert cache.plan == plan
    assert cost.flops == full.flops * 5 // 8
    levels = sampler_of(subject.pipe.scheduler).noise_levels(subject.pipe.scheduler)
    for branch in range(subject.calls_per_step):
        v = [output.float() for output in left[branch :: subject.calls_per_step]]
        for step, span in ((3, 3), (4, 3), (6, 2)):
            assert torch.equal(v[step], predicted(v[:step], levels, span))
            assert not torch.allclose(v[step], v[step - 1])
    if subject.calls_per_step == 2:
        assert not torch.allclose(left[6], left[7])
    assert made.isfinite().all()
    assert not torch.equal(made, plain)
    assert found(subject) == before
