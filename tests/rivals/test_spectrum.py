"""Spectrum: its steps and its forecasts by hand, and what it does to pipelines."""

import pytest
import torch

from benchmarks.rivals.last_block import recorded
from benchmarks.rivals.spectrum import SPECTRUM, Forecaster, chebyshev, computed_steps, forecast_weights
from ertacache.evaluation.cost import counting_flops
from tests.rivals.subjects import CALLS_PER_STEP, found, generate, subject_of

KNOBS = {"warmup_steps": 2, "window_size": 2, "flex_window": 1.0, "w": 0.5, "tail_actual_steps": 0}


def test_the_window_grows_at_every_computed_step():
    # Windows 2, 2.75, 3.5, 4.25, 5, ... rounded down: gaps of 2, 2, 3, 4, 5 and so on.
    steps = computed_steps(50, warmup_steps=5, window_size=2, flex_window=0.75)
    assert steps == (0, 1, 2, 3, 4, 6, 8, 11, 15, 20, 25, 31, 38, 46)
    assert len(steps) == 14  # as many network passes as their README says
    assert len(computed_steps(50, warmup_steps=5, window_size=2, flex_window=3.0)) == 10  # likewise


def test_the_last_steps_are_computed_on_request():
    steps = computed_steps(10, warmup_steps=2, window_size=3, flex_window=0.0, tail_actual_steps=2)
    assert steps == (0, 1, 4, 7, 8, 9)


def test_chebyshev_polynomials():
    x = 0.3
    expected = [1, x, 2 * x**2 - 1, 4 * x**3 - 3 * x, 8 * x**4 - 8 * x**2 + 1]
    torch.testing.assert_close(chebyshev(torch.tensor([x])), torch.tensor([expected]))


def test_one_computed_step_is_shrunk_by_the_ridge():
    # At step 25 time is 0 and the basis (1, 0, -1, 0, 1), with squares of 3 in all; at step 50 it is all ones. The
    # coefficients of a feature of 1 are the basis over 3 + 0.1, and the forecast is (1 - 1 + 1) / 3.1.
    assert forecast_weights([25], 50, w=1.0) == pytest.approx([1 / 3.1])


def test_the_fit_is_that_of_ridge_regression():
    steps, values = [0, 3, 10, 20], torch.tensor([1.0, 2.0, -1.0, 0.5], dtype=torch.float64)
    basis = chebyshev(torch.tensor([*steps, 30], dtype=torch.float64) / 25 - 1)
    # The ridge is as good as five more observations, one of each coefficient, all 0.
    padded = torch.cat([basis[:-1], 0.1**0.5 * torch.eye(5, dtype=torch.float64)])
    coefficients = torch.linalg.lstsq(padded, torch.cat([values, values.new_zeros(5)])).solution
    forecast = torch.tensor(forecast_weights(steps, 30, w=1.0), dtype=torch.float64) @ values
    torch.testing.assert_close(forecast, basis[-1] @ coefficients)


def test_without_polynomials_it_is_the_line_through_the_last_two():
    assert forecast_weights([0, 2, 6], 8, w=0.0) == pytest.approx([0, -0.5, 1.5])
    assert forecast_weights([4], 8, w=0.0) == pytest.approx([1])


def test_forecasts_are_blended():
    half, all_, none = (torch.tensor(forecast_weights([0, 2, 6], 8, w=w)) for w in (0.5, 1.0, 0.0))
    torch.testing.assert_close(half, (all_ + none) / 2)
    forecaster = Forecaster(w=0.5)
    for step, value in ((0, 1.0), (2, 3.0), (6, -2.0)):
        forecaster.computed(step, torch.full((2,), value))
    torch.testing.assert_close(forecaster.predicted(8), torch.full((2,), (half @ torch.tensor([1.0, 3, -2])).item()))


@pytest.mark.parametrize("name", CALLS_PER_STEP)
def test_skipped_steps_run_the_output_head_alone_on_the_forecast(name):
    subject = subject_of(name)
    with counting_flops(subject.pipe) as full:
        plain = generate(subject)
    before = found(subject)
    everything = {**KNOBS, "warmup_steps": 8}
    with SPECTRUM.attach(subject, everything, None):
        assert torch.equal(generate(subject), plain)

    with recorded(subject.denoiser) as left, SPECTRUM.attach(subject, KNOBS, None) as forecasters:
        with counting_flops(subject.pipe) as cost:
            made = generate(subject)
        assert 4 / 8 < cost.flops / full.flops < 4.4 / 8  # 0, 1, 3 and 6 of eight steps, and the heads
        features = left[:: subject.calls_per_step]
    assert set(forecasters) == set(range(subject.calls_per_step))
    assert forecasters[0].steps == [0, 1, 3, 6]
    assert torch.equal(features[7], forecasters[0].predicted(7))
    assert made.isfinite().all()
    assert not torch.equal(made, plain)
    assert found(subject) == before
