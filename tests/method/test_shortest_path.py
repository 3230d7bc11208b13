"""Shortest paths over pairwise errors."""

import itertools

import numpy as np
import pytest

from ertacache.method.shortest_path import edges, shortest_path


@pytest.fixture
def costs():
    rng = np.random.default_rng(0)
    outputs = rng.normal(size=(8, 20)).cumsum(axis=0)
    return outputs, -rng.uniform(0.05, 0.2, 8)


def test_an_edge_is_how_far_reuse_moves_the_latent(costs):
    outputs, slopes = costs
    found = edges(outputs @ outputs.T, slopes)
    for i, j in itertools.combinations(range(9), 2):
        if i < 8:
            moved = sum((slopes[k] * (outputs[k] - outputs[i]) for k in range(i + 1, j)), np.zeros(20))
            assert found[i, j] == pytest.approx(np.linalg.norm(moved), abs=1e-9)


@pytest.mark.parametrize("minimax", [False, True])
@pytest.mark.parametrize("forced", [(), (3,), (2, 5)])
def test_the_shortest_path_is_the_best_of_all(costs, minimax, forced):
    outputs, slopes = costs
    lengths = edges(outputs @ outputs.T, slopes)

    def worth(kept):
        path = sorted([lengths[i, j] for i, j in itertools.pairwise(kept)], reverse=True)
        return path if minimax else [sum(path)]

    every = [(0, *middle, 7) for middle in itertools.combinations(range(1, 7), 3) if set(forced) <= set(middle)]
    best = min(every, key=worth)
    assert shortest_path(lengths, 5, forced, minimax=minimax) == tuple(i for i in range(8) if i not in best)
