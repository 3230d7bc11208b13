"""Other ways to choose the computed steps: what the search is compared with."""

import itertools

import numpy as np
import pytest

from benchmarks.schedules.__main__ import CHOICES, OURS, markdown_of, summary_of
from ertacache.method.paths import edges, shortest_path


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


def test_the_summary_compares_with_the_best_of_the_others_and_takes_the_median_over_all():
    """Ours is at 40 dB everywhere; evenly spaced steps are 2 dB behind, other schedules 1 dB with our weights."""
    psnr = {OURS: 40.0, "fewer steps": 30.0}
    psnr |= {f"{name}, reuse": 35.0 for name in CHOICES} | {f"{name}, aligned": 39.0 for name in CHOICES}
    psnr["evenly spaced, aligned"] = 38.0
    counts = [20, 15, 10, 7, 6]
    rows = [{"computed_steps": n, "name": name, "psnr": [v, v]} for n in counts for name, v in psnr.items()]
    result = {"model": "flux", "computed_steps": counts, "rows": rows, "arguments": {"num_inference_steps": 30}}
    summary = summary_of([result, result])
    assert "| as they are | flux | +2.0 | +2.0 | +2.0 | +2.0 | +2.0 | +2.0 |" in summary
    assert "| with our weights | all | | | | | | **+1.0** |" in summary
    assert "| as they are | 2.0 (2.0 to 2.0) |" in markdown_of(result)
