"""LeMiCa: its plans and costs by hand, and what it does to pipelines."""

from dataclasses import replace
from itertools import combinations, pairwise
from math import inf

import numpy as np
import pytest
import torch

from benchmarks.rivals import lemica
from benchmarks.rivals.base import Calls
from benchmarks.rivals.lemica import LEMICA, edge_costs, full_run, generated, longest_gap, planned, rerun, reusing
from ertacache.evaluation.cost import counting_flops
from tests.rivals.subjects import CALLS_PER_STEP, STEPS, found, generate, subject_of


@pytest.fixture(scope="module")
def flux():
    return subject_of("flux")


@pytest.fixture(scope="module")
def run(flux):
    return full_run(flux, flux.calibration_prompts[0], 0)


def made_up(num_steps: int, **edges: float) -> np.ndarray:
    """Costs of 0 between neighbours, of these edges, and infinite ones."""
    costs = np.full((num_steps, num_steps + 1), inf)
    for i in range(num_steps - 1):
        costs[i, i + 1] = 0.0
    for edge, cost in edges.items():
        _, i, j = edge.split("_")
        costs[int(i), int(j)] = cost
    return costs


def test_the_worst_edge_counts_and_not_the_sum():
    costs = made_up(5, _0_3=3.0, _0_2=2.0, _2_4=2.0, _1_4=9.0)
    assert planned(costs, 3) == (0, 2, 4)  # 2 and 2, where 0, 3, 4 has 3 and 0


def test_of_equal_worst_edges_the_second_worst_decides():
    costs = made_up(6, _1_3=3.0, _3_5=1.0, _2_5=3.0)
    assert planned(costs, 4) == (0, 1, 2, 5)  # 3 and 0, where 0, 1, 3, 5 has 3 and 1


@pytest.mark.parametrize("k", [4, 5, 7, 10])
def test_a_plan_is_the_best_of_all_paths(k):
    num_steps, generator = 10, np.random.default_rng(1)
    costs = made_up(num_steps)
    for i, j in combinations(range(num_steps), 2):
        if 1 < j - i <= 4:
            costs[i, j] = generator.random()
    paths = [(0, *between, num_steps - 1) for between in combinations(range(1, num_steps - 1), k - 2)]
    best = min(paths, key=lambda path: sorted((costs[i, j] for i, j in pairwise(path)), reverse=True))
    assert planned(costs, k) == best


def test_gaps_grow_where_they_must(flux):
    def with_steps(num_steps: int) -> int:
        return longest_gap(replace(flux, arguments={**flux.arguments, "num_inference_steps": num_steps}))

    assert with_steps(50) == 7  # 49 steps in seven edges
    assert with_steps(30) == 8  # 29 in four
    assert with_steps(STEPS) == 7  # all in one


def test_a_full_run_is_as_it_was_and_keeps_what_each_call_returned_and_changed(flux, run):
    assert torch.equal(run.latents, generate(flux))
    assert len(run.outputs) == len(run.changes) == 2 * STEPS
    assert not torch.equal(run.outputs[0], run.outputs[1])
    assert not torch.equal(run.changes[0]["hidden_states"], run.changes[2]["hidden_states"])


@pytest.mark.parametrize("computed", [(0, 1, 2, 5, 7), (0, 3, 4), range(STEPS)])
def test_a_rerun_is_the_same_call_without_computing_what_is_known(flux, run, computed):
    with reusing(flux, computed):
        plain = generated(flux, run.prompt, run.seed)
    with counting_flops(flux.pipe) as full:
        generated(flux, run.prompt, run.seed)
    with counting_flops(flux.pipe) as cost:
        assert torch.equal(rerun(flux, run, computed), plain)
    after = [step for step in computed if step > next((n for n in range(STEPS) if n not in computed), STEPS)]
    # The embeddings and the output head run at skipped steps too.
    assert len(after) / STEPS <= cost.flops / full.flops < (len(after) + 0.6) / STEPS


def test_costs_are_what_one_segment_of_reuse_does_to_the_final_latents(flux, run, monkeypatch):
    monkeypatch.setattr(lemica, "longest_gap", lambda subject: 3)
    costs = edge_costs(flux, run)
    assert costs.shape == (STEPS, STEPS + 1)
    assert all(costs[i, i + 1] == 0 for i in range(STEPS - 1))
    assert np.isfinite(costs).sum() == 7 + 6 + 5
    with reusing(flux, (0, 1, 2, 5, 6, 7)):
        apart = generated(flux, run.prompt, run.seed) - run.latents
    assert costs[2, 5] == apart.abs().mean().item()
    assert costs[4, 7] > 0


def test_costs_are_a_mean_over_samples_and_kept(flux, tmp_path, monkeypatch):
    subject = replace(flux, work=tmp_path)
    monkeypatch.setattr(lemica, "full_run", lambda subject, prompt, seed: seed + 1.0)
    monkeypatch.setattr(lemica, "edge_costs", lambda subject, run: np.array([[run, inf]]))
    assert LEMICA.prepare(subject).tolist() == [[1.5, inf]]
    monkeypatch.setattr(lemica, "edge_costs", None)
    assert LEMICA.prepare(subject).tolist() == [[1.5, inf]]


@pytest.mark.parametrize("name", CALLS_PER_STEP)
def test_a_skipped_step_runs_no_block_and_each_branch_adds_its_own_last_change(name):
    subject = subject_of(name)
    with counting_flops(subject.pipe) as full:
        plain = generate(subject)
    before = found(subject)
    with LEMICA.attach(subject, {"k": STEPS}, made_up(STEPS)):
        assert torch.equal(generate(subject), plain)

    calls, changes = Calls(subject.calls_per_step), {}

    def keep(module, args, output):
        changes[calls.step, calls.branch] = span.changes[calls.branch]

    hook = subject.denoiser.register_forward_hook(keep)
    with (
        LEMICA.attach(subject, {"k": 5}, made_up(STEPS, _2_5=1.0, _5_7=1.0)) as span,
        calls.counted(subject.denoiser),
        counting_flops(subject.pipe) as cost,
    ):
        made = generate(subject)
    hook.remove()
    assert 5 / 8 < cost.flops / full.flops < 5.4 / 8  # 0, 1, 2, 5 and 7 of eight steps, and the heads
    for branch in range(subject.calls_per_step):
        assert changes[3, branch] is changes[4, branch] is changes[2, branch]
        assert changes[6, branch] is changes[5, branch]
        assert changes[5, branch] is not changes[4, branch]
    if subject.calls_per_step == 2:
        assert not torch.allclose(changes[3, 0]["hidden_states"], changes[3, 1]["hidden_states"])
    assert made.isfinite().all()
    assert not torch.equal(made, plain)
    assert found(subject) == before
