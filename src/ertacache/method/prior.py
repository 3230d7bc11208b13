"""The prior: how outputs of diffusion models vary with the noise level, learnt from the trained pipelines.

Outputs of different models vary over the noise level much alike. Their normalised dot products, averaged over the
trained pipelines (``python -m training.prior``), stand in for those of a model that nothing was recorded of: they give
an instant policy its weights.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ertacache.method.gram_weights import Outputs
from ertacache.method.grid_mapping import interpolation_matrix

Array = NDArray[np.float64]

PRIOR = Path(__file__).with_name("prior.json")
"""The lower triangles of Gram matrices, (2K, 2K), by pipeline: of outputs without guidance, and of the contrasts."""
ANGLES: tuple[float, ...] = (*np.linspace(np.pi / 2, 1.45, 6)[:-1].tolist(), *np.linspace(1.45, 0.06, 28).tolist())
"""Of the K noise levels that it is known at: ``phi`` of ``x = cos(phi) x_0 + sin(phi) noise``, falling."""
NUGGET = 1e-3
"""How much of its square each output varies on its own, as one model's outputs do beside the mean of others'."""
PRIOR_SAMPLES = 1.0
"""As how many samples of a model the prior counts; the more are recorded, the less it says."""
SCALES = (1.0, 8.0)
"""Between which guidance scales outputs are mixed; beyond them as at the nearest."""


def prior_outputs(angles: Sequence[float], guidance: float, without: str | None = None) -> Outputs:
    """The outputs that are expected of a model on a grid of noise levels.

    Args:
        angles: the T + 1 noise levels as angles, 0 to pi / 2, falling.
        guidance: the scale g of ``v = u + g d``, also where it is an input of a distilled model; 1 for none.
        without: the trained pipeline to leave out, by name, to judge the prior.

    Returns:
        Their rows, (T, T) or wider, on levels ``sigma`` of flow matching, ``tan(phi) = sigma / (1 - sigma)``.
    """
    mean = np.mean([gram for name, gram in _grams().items() if name != without], axis=0)
    steps, scale = len(angles) - 1, float(np.clip(guidance, *SCALES))
    read = interpolation_matrix(ANGLES, np.clip(angles[:-1], ANGLES[-1], ANGLES[0]).tolist())
    mixed = np.concatenate([read, scale * read], axis=1)
    gram = mixed @ mean @ mixed.T
    gram += NUGGET * np.diag(np.diag(gram))
    sine, cosine = np.sin(angles), np.cos(angles)
    return Outputs.of(gram, (sine / (sine + cosine))[: steps + 1].tolist(), guidance)


def outputs_with_prior(
    gram: Array, samples: int, angles: Sequence[float], guidance: float, without: str | None = None
) -> Outputs:
    """The outputs that are expected of a model that a few samples were recorded of: the prior counts as one more.

    Args:
        gram: the dot products of its outputs, summed over the samples, (T, T), float64.
        samples: how many.
        angles, guidance, without: see `prior_outputs`.
    """
    prior = prior_outputs(angles, guidance, without)
    expected = prior.rows @ prior.rows.T
    own = gram / (np.mean(np.diag(gram)) or 1.0)
    both = samples * own + PRIOR_SAMPLES * expected / np.mean(np.diag(expected))
    return Outputs.of(both + NUGGET * np.diag(np.diag(both)), prior.levels, guidance)


@cache
def _grams() -> dict[str, Array]:
    found = {}
    for name, rows in json.loads(PRIOR.read_text(encoding="utf-8")).items():
        lower = np.zeros((len(rows), len(rows)))
        for k, row in enumerate(rows):
            lower[k, : k + 1] = row
        found[name] = lower + np.tril(lower, -1).T
    return found
