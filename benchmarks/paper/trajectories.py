"""Figure 2b: the latents of one prompt in the full run, with cached steps, and with the timestep adjustment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.paper.ablation import ALIGNED, PARTS
from benchmarks.paper.pipelines import Opened
from benchmarks.paper.published import speedups
from ertacache.evaluation.comparison import Variant, generate, started
from ertacache.policy import Policy

CACHED = ("offline", "offline+time")


def run(opened: Opened) -> dict[str, Any]:
    """The first held-out prompt: projected latents, and the distance to the full trajectory after each step."""
    methods = {name: PARTS[name] for name in CACHED} | dict(ALIGNED)
    policies = opened.policies(methods, speedups(opened.family)[-1])
    full = _full_run(opened)
    paths = {"full": full}
    for name, policy in policies.items():
        variant = Variant(name, opened.num_steps, policy=policy)
        (call,) = opened.calls(opened.held_out[:1])
        kept = generate(opened.embedded.pipe, variant, started(call), keep_latents=True).latents
        paths[name] = [full[0], *(latent.flatten().double() for latent in kept)]
    places = {name: positions(policy) for name, policy in policies.items()}
    return {
        "prompt": opened.held_out[0],
        "projected": {name: path.tolist() for name, path in projected(paths).items()},
        "distances": {name: distances(paths[name], full, places[name]) for name in policies},
        "positions": places,
    }


def _full_run(opened: Opened) -> list[Tensor]:
    """The latents x_0 .. x_T, each flat, float64."""
    tensors = opened.full_run(0)
    return [tensors[f"x{i}"].flatten().double() for i in range(opened.num_steps + 1)]


def positions(policy: Policy) -> list[float]:
    """The positions of a policy's latents on the full run's grid, in its steps; not whole numbers if it retimes."""
    steps = policy.num_inference_steps
    return [tau * steps for tau in policy.time_grid] if policy.time_grid else [float(i) for i in range(steps + 1)]


def at(path: Sequence[Tensor], position: float) -> Tensor:
    """The full trajectory, interpolated between two of its latents."""
    last = min(int(position), len(path) - 2)
    share = position - last
    return path[last] * (1 - share) + path[last + 1] * share


def distances(path: Sequence[Tensor], full: Sequence[Tensor], places: Sequence[float]) -> list[float]:
    """After each step, ``||x - x_full|| / ||x_full||``, the full trajectory taken at the same noise level."""
    there = [at(full, place) for place in places]
    return [float((x - y).norm() / y.norm()) for x, y in zip(path, there, strict=True)]


def projected(paths: Mapping[str, Sequence[Tensor]], axes: int = 2) -> dict[str, NDArray[np.float64]]:
    """All trajectories in the plane in which their latents vary most (PCA), (steps + 1, axes) each."""
    points = np.stack([np.asarray(latent) for path in paths.values() for latent in path])
    centred = points - points.mean(axis=0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    flat = centred @ directions[:axes].T
    cuts = np.cumsum([len(path) for path in paths.values()])[:-1]
    return dict(zip(paths, np.split(flat, cuts), strict=True))
