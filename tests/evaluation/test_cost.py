"""Operations and memory, counted."""

import os

import pytest
import torch
from torch import nn

from ertacache.evaluation.cost import counting_flops, watching_memory


class Pipe:
    def __init__(self, transformer):
        self.transformer = transformer


def test_operations_of_a_linear_layer_and_of_attention_are_counted_call_by_call():
    pipe = Pipe(nn.Linear(8, 16, bias=False))
    with torch.no_grad(), counting_flops(pipe) as cost:
        pipe.transformer(torch.zeros(4, 8))
        pipe.transformer(torch.zeros(4, 8))
        nn.Linear(8, 16)(torch.zeros(4, 8))  # not the denoiser's
    assert cost.flops == 2 * (2 * 4 * 8 * 16)

    class Attention(nn.Module):
        def forward(self, x):
            return nn.functional.scaled_dot_product_attention(x, x, x)

    attention = Attention()
    with torch.no_grad(), counting_flops(Pipe(attention)) as cost:
        attention(torch.zeros(1, 2, 10, 4))
    assert cost.flops == 2 * (2 * 2 * 10 * 10 * 4)  # two products, two heads


def test_nothing_is_left_at_the_denoiser_even_after_an_error():
    class Failing(nn.Module):
        def forward(self, x):
            raise ValueError("on purpose")

    module = Failing()
    with counting_flops(Pipe(module)) as cost, pytest.raises(ValueError, match="on purpose"):
        module(torch.zeros(1))
    assert cost.flops == 0
    assert not module._forward_hooks
    assert not module._forward_pre_hooks
    torch.zeros(2, 2) @ torch.zeros(2, 2)
    assert cost.flops == 0


def test_memory_at_its_peak_is_what_was_held_at_once():
    with watching_memory("cpu") as cost:
        first = torch.zeros(1 << 18)  # a MiB
        second = torch.ones(1 << 18)
        del first, second
        torch.zeros(1 << 10)
    assert 2 << 20 <= cost.peak_bytes < (2 << 20) + (1 << 16)


@pytest.mark.parametrize("level", [None, "2"])
def test_the_profilers_log_level_is_left_as_it_was(level, monkeypatch):
    monkeypatch.delenv("KINETO_LOG_LEVEL", raising=False)
    if level is not None:
        monkeypatch.setenv("KINETO_LOG_LEVEL", level)
    with watching_memory("cpu"):
        assert os.environ["KINETO_LOG_LEVEL"] == (level or "99")
    assert os.environ.get("KINETO_LOG_LEVEL") == level
