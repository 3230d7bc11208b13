"""Double precision on devices that have none."""

from __future__ import annotations

import pytest
import torch

from ertacache import double_precision
from ertacache.double_precision import as_float64
from ertacache.method.aligned_weights import NormalEquations
from ertacache.method.rectification import Moments
from ertacache.method.threshold import relative_distance
from ertacache.metrics import motion_error


class Apples(torch.Tensor):
    """A tensor as on a device without float64: it cannot be as_float64 before it is fetched."""

    def cpu(self):
        return self.as_subclass(torch.Tensor)

    def double(self):
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype")


def test_a_tensor_is_widened_where_it_is():
    tensor = torch.rand(3, 2).bfloat16()
    assert torch.equal(as_float64(tensor), tensor.double())
    assert as_float64(tensor.to("meta")).device.type == "meta"
    wide = tensor.double()
    assert as_float64(wide) is wide


@pytest.mark.parametrize("error", [TypeError("MPS has no float64"), RuntimeError("Required aspect fp64")])
def test_without_float64_it_is_widened_in_main_memory(error, monkeypatch):
    def refuse(*args, **kwargs):
        raise error

    double_precision._has_float64.cache_clear()
    monkeypatch.setattr(torch, "zeros", refuse)
    tensor = torch.rand(3, 2)
    try:
        assert torch.equal(as_float64(tensor.as_subclass(Apples)), tensor.double())
    finally:
        double_precision._has_float64.cache_clear()


def test_all_that_is_summed_in_float64_is_the_same_to_the_bit_without_it(monkeypatch):
    """The least squares, the moments of the error model, the distance of the schedule and the motion of clips."""

    def summed(kind):
        seeds = [torch.Generator().manual_seed(k) for k in range(3)]
        a, b, c = (torch.rand(2, 4, 3, 5, 5, generator=seed).as_subclass(kind) for seed in seeds)
        equations, moments = NormalEquations(2), Moments("channel")
        equations.add([a, b], c)
        moments.add(a, b)
        k_and_b = [t.tolist() for t in moments.solve()]
        return equations.solve(), k_and_b, relative_distance(*map(as_float64, (a, b, c))), motion_error(a, b)

    expected = summed(torch.Tensor)
    monkeypatch.setattr(double_precision, "_has_float64", lambda device: False)
    assert summed(Apples) == expected
