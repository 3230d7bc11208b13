"""L2P: its steps, its training and its predictions by hand, and what it does to pipelines."""

import pytest
import torch

from benchmarks.rivals import l2p
from benchmarks.rivals.l2p import L2P_CACHE, full_steps, learnt, products
from benchmarks.rivals.teacache import watching_outputs
from ertacache.evaluation.cost import counting_flops
from tests.rivals.subjects import CALLS_PER_STEP, found, generate, subject_of


def test_the_last_step_is_computed_and_the_others_are_evenly_spaced():
    assert full_steps(30, 10, first=4) == (0, 1, 2, 4, 8, 12, 16, 21, 25, 29)
    assert full_steps(30, 10, first=1) == (0, 3, 6, 10, 13, 16, 19, 23, 26, 29)
    assert full_steps(8, 3, first=4) == (0, 1, 7)


@pytest.mark.parametrize("first", [1, 4])
@pytest.mark.parametrize("num_steps", [8, 30, 50])
def test_as_many_steps_as_asked_for(num_steps, first):
    for count in range(2, num_steps):
        steps = full_steps(num_steps, count, first)
        assert len({*steps}) == count
        assert steps[0] == 0
        assert steps[-1] == num_steps - 1


def test_training_is_adam_on_the_mean_squared_error_of_true_outputs():
    torch.manual_seed(0)
    runs = torch.randn(3, 6, 40, dtype=torch.float64).cumsum(dim=1)  # (runs, steps, elements)
    weights = torch.eye(5, dtype=torch.float64).requires_grad_()
    optimizer = torch.optim.Adam([weights], lr=0.01)
    for _ in range(201):
        optimizer.zero_grad()
        (weights.tril() @ runs[:, :-1] - runs[:, 1:]).square().mean().backward()
        optimizer.step()
    found = learnt(torch.stack([products(list(run)) for run in runs]).mean(dim=0))
    torch.testing.assert_close(found, weights.detach().tril())
    assert not torch.allclose(found, torch.eye(5, dtype=torch.float64), atol=0.1)


def test_training_begins_with_reuse_and_moves_by_the_learning_rate(monkeypatch):
    # The first step of Adam is as long as the learning rate. Outputs 1 and 2: the weight must grow.
    monkeypatch.setattr(l2p, "EPOCHS", 1)
    weights = learnt(products([torch.tensor([1.0]), torch.tensor([2.0])]))
    torch.testing.assert_close(weights, torch.tensor([[1.01]], dtype=torch.float64))


def test_an_output_that_halves_is_predicted_to_halve():
    weights = learnt(products([torch.tensor([8.0]), torch.tensor([4.0])]))
    assert weights.item() == pytest.approx(0.5, abs=1e-3)


def test_weights_are_fitted_on_both_branches_of_all_prompts():
    flux, grams = subject_of("flux"), []
    for seed, prompt in enumerate(flux.calibration_prompts):
        outputs = []
        with watching_outputs(flux.denoiser, outputs):
            flux.pipe(prompt=prompt, generator=torch.Generator().manual_seed(seed), **flux.arguments)
        grams += [products(outputs[::2]), products(outputs[1::2])]
    torch.testing.assert_close(L2P_CACHE.prepare(flux), learnt(sum(grams) / 4), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", CALLS_PER_STEP)
def test_a_skipped_step_runs_nothing_and_predictions_are_predicted_from(name):
    subject, left = subject_of(name), []
    with counting_flops(subject.pipe) as full:
        plain = generate(subject)
    before = found(subject)
    weights = torch.zeros(7, 7, dtype=torch.float64)
    weights[2, :3] = torch.tensor([0.1, -0.5, 1.25])  # predicts step 3
    weights[4, :5] = torch.tensor([0.0, 0.0, 0.5, 1.0, -0.25])  # step 5, from what it predicted at step 3 too
    weights[5, 5] = 0.5  # step 6, from what it predicted at step 5
    with L2P_CACHE.attach(subject, {"count": 8, "first": 1}, weights):
        assert torch.equal(generate(subject), plain)

    with (
        watching_outputs(subject.denoiser, left),
        L2P_CACHE.attach(subject, {"count": 5, "first": 4}, weights),
        counting_flops(subject.pipe) as cost,
    ):
        made = generate(subject)  # computes 0, 1, 2, 4 and 7
    assert cost.flops == full.flops * 5 // 8
    for branch in range(subject.calls_per_step):
        v = left[branch :: subject.calls_per_step]
        torch.testing.assert_close(v[3], 0.1 * v[0] - 0.5 * v[1] + 1.25 * v[2])
        torch.testing.assert_close(v[5], 0.5 * v[2] + v[3] - 0.25 * v[4])
        torch.testing.assert_close(v[6], 0.5 * v[5])
    if subject.calls_per_step == 2:
        assert not torch.allclose(left[6], left[7])
    assert made.isfinite().all()
    assert not torch.equal(made, plain)
    assert found(subject) == before
