"""The global random state is lent whole, and given back."""

import random

import numpy as np
import pytest
import torch

from ertacache.runtime.randomness import RandomState


def drawn():
    return torch.rand(1).item(), random.random(), random.gauss(), np.random.rand(), np.random.standard_normal()


@pytest.fixture(params=[np.random.MT19937, np.random.PCG64])
def bits(request):
    """numpy draws from whatever was set."""
    before = np.random.get_bit_generator()
    np.random.set_bit_generator(request.param(3))
    yield
    np.random.set_bit_generator(before)


@pytest.mark.usefixtures("bits")
def test_what_is_drawn_depends_on_what_is_lent_and_nothing_of_the_users_is_lost():
    random.gauss(), np.random.standard_normal()  # of two that are drawn at once, one is kept
    state = RandomState.current()
    wanted = drawn()
    state.put()
    lent = []
    for seed, number in ((0, 1), (0, 1), (0, 2), (1, 1)):
        with RandomState.of(seed, number).lent():
            lent.append(drawn())
    assert lent[0] == lent[1]
    assert all(len(set(values)) == 3 for values in zip(*lent, strict=True))
    assert drawn() == wanted


def failing():
    torch.rand(1)
    raise ValueError("on the way")


def test_it_is_given_back_after_an_error():
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match="on the way"), RandomState.of(0, 0).lent():
        failing()
    assert torch.equal(torch.get_rng_state(), state)
