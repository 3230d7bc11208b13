"""The closed form for K and B, Eqs. (17) to (21), against ordinary least squares."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from ertacache.method.rectification import Granularity, Moments, along, predicted_error, rectify

GRANULARITIES = [("step", 1), ("channel", 1), ("channel", 2), ("channel", -1), ("element", 1)]
every_granularity = pytest.mark.parametrize(("granularity", "axis"), GRANULARITIES)


def data(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Predictions with a mean, and outputs whose error depends on the prediction, the place, and chance."""
    generator = torch.Generator().manual_seed(seed)
    predicted = torch.randn(8, 5, 4, generator=generator, dtype=torch.float64) + 0.3
    slope, offset = (torch.randn(5, 4, generator=generator, dtype=torch.float64) * 0.2 for _ in range(2))
    noise = 0.05 * torch.randn(8, 5, 4, generator=generator, dtype=torch.float64)
    return predicted, predicted - (slope * predicted + offset + noise)


def grouped(values: Tensor, granularity: Granularity, axis: int) -> np.ndarray:
    """(groups, samples in a group): what shares one K and B."""
    if granularity == "step":
        return values.reshape(1, -1).numpy()
    if granularity == "element":
        return values.flatten(1).T.numpy()
    return values.movedim(axis, 0).flatten(1).numpy()


def fitted(predicted: Tensor, actual: Tensor, granularity: Granularity, axis: int) -> tuple[Tensor, Tensor]:
    moments = Moments(granularity, axis)
    for half in (slice(0, 3), slice(3, None)):
        moments.add(predicted[half], actual[half])
    return moments.solve()


@every_granularity
def test_the_closed_form_is_ordinary_least_squares(granularity: Granularity, axis: int) -> None:
    predicted, actual = data()
    k, b = fitted(predicted, actual, granularity, axis)
    for v, eps, k_group, b_group in zip(
        grouped(predicted, granularity, axis),
        grouped(predicted - actual, granularity, axis),
        k.flatten().tolist(),
        b.flatten().tolist(),
        strict=True,
    ):
        slope, offset = np.linalg.lstsq(np.stack([v, np.ones_like(v)], 1), eps)[0]
        assert (k_group / 4, b_group / 4 + 0.5) == pytest.approx((slope, offset), abs=1e-10)


@every_granularity
def test_a_corrected_prediction_is_right_on_average_within_every_group(granularity: Granularity, axis: int) -> None:
    predicted, actual = data()
    k, b = (along(p, predicted.ndim, granularity, axis) for p in fitted(predicted, actual, granularity, axis))
    left = grouped(rectify(predicted, k, b) - actual, granularity, axis)
    assert np.abs(left.mean(1)).max() < 1e-12
    assert np.abs((left * grouped(predicted, granularity, axis)).mean(1)).max() < 1e-12


def test_a_finer_granularity_never_fits_worse() -> None:
    predicted, actual = data()
    errors = []
    for granularity in ("step", "channel", "element"):
        k, b = (along(p, 3, granularity, 2) for p in fitted(predicted, actual, granularity, 2))
        errors.append(float((rectify(predicted, k, b) - actual).square().sum()))
    assert errors == sorted(errors, reverse=True)
    assert errors[2] < 0.5 * errors[0]


@pytest.mark.parametrize("value", [0.0, 0.3, -3.7, 1e4 / 3])
@every_granularity
def test_a_constant_prediction_is_corrected_by_the_mean_error(
    value: float, granularity: Granularity, axis: int
) -> None:
    _, actual = data()
    predicted = torch.full_like(actual, value)
    k, b = fitted(predicted, actual, granularity, axis)
    assert not k.any()
    eps = torch.from_numpy(grouped(predicted - actual, granularity, axis)).mean(1)
    assert b.flatten() / 4 + 0.5 == pytest.approx(eps, rel=1e-9, abs=1e-10)


def test_one_flat_channel_does_not_disturb_the_others() -> None:
    predicted, actual = data()
    flat = predicted.clone()
    flat[:, :, 1] = 2.0
    k, b = fitted(predicted, actual, "channel", 2)
    k_flat, b_flat = fitted(flat, actual, "channel", 2)
    others = [0, 2, 3]
    assert torch.equal(k[others], k_flat[others])
    assert torch.equal(b[others], b_flat[others])
    assert k_flat[1] == 0


def test_a_channel_s_correction_reaches_that_channel_only() -> None:
    k, b = torch.zeros(3), torch.tensor([-2.0, 2.0, -2.0])  # errors 0, 1 and 0
    by_row = predicted_error(torch.zeros(1, 3, 2), along(k, 3, "channel", 1), along(b, 3, "channel", 1))
    assert by_row.tolist() == [[[0, 0], [1, 1], [0, 0]]]
    by_column = predicted_error(torch.zeros(1, 2, 3), along(k, 3, "channel", -1), along(b, 3, "channel", -1))
    assert by_column.tolist() == [[[0, 1, 0], [0, 1, 0]]]


def test_moments_of_half_precision_outputs_are_summed_in_double_precision() -> None:
    predicted, actual = (t.bfloat16() for t in data())
    moments, exact = Moments("step"), Moments("step")
    moments.add(predicted, actual)
    exact.add(predicted.double(), actual.double())
    assert moments == exact
