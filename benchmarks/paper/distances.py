"""Figure 2a: the distance between consecutive steps, and the distance that TeaCache's polynomial predicts.

Over full runs, so that nothing is cached and both are of the same steps. "Measured" is the relative L1 distance of the
denoiser's outputs, which TeaCache's polynomial was fitted to; "residual" that of Eq. (12) between the residuals.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from rich.progress import track
from torch import Tensor

from benchmarks.paper.pipelines import Opened
from benchmarks.rivals import teacache
from ertacache.method.threshold import relative_distance


def run(opened: Opened) -> dict[str, Any]:
    """One curve a prompt: a number for every step but the first, the mean over guidance branches."""
    opened.console.print(f"{opened.name}: fitting TeaCache's polynomial", style="dim")
    coefficients = teacache.fit(opened.subject)
    prompts = opened.embedded.held_out_prompts[: opened.counts.runs]
    curves: dict[str, list[list[float]]] = {"measured": [], "predicted": [], "residual": []}
    for number in track(range(len(prompts)), f"{opened.name}: full runs", console=opened.console, transient=True):
        for name, curve in _seen(opened, number, np.poly1d(coefficients)).items():
            curves[name].append(curve)
    return {"coefficients": [float(c) for c in coefficients], "steps": list(range(1, opened.num_steps)), **curves}


def _seen(opened: Opened, number: int, rescale: Callable[[float], float]) -> dict[str, list[float]]:
    """The three curves of one full run."""
    subject, modulated, outputs = opened.subject, list[Tensor](), list[Tensor]()
    with teacache.watching(subject.denoiser, modulated.append), teacache.watching_outputs(subject.denoiser, outputs):
        tensors = opened.full_run(number)
    residuals = [tensors[f"v{i}"].float() - tensors[f"x{i}"].float() for i in range(opened.num_steps)]
    inputs = over_branches(modulated, subject.calls_per_step, teacache.relative_l1)
    return {
        "measured": over_branches(outputs, subject.calls_per_step, teacache.relative_l1),
        # The polynomial is applied in each branch, to that branch's distance; branches share the time embedding.
        "predicted": [float(rescale(distance)) for distance in inputs],
        "residual": consecutive(residuals, residual_distance),
    }


def consecutive(tensors: Sequence[Tensor], distance: Callable[[Tensor, Tensor], float]) -> list[float]:
    """The distance of each tensor from the one before; one value fewer than there are tensors."""
    return [distance(current, previous) for previous, current in pairwise(tensors)]


def over_branches(tensors: Sequence[Tensor], branches: int, distance: Callable[[Tensor, Tensor], float]) -> list[float]:
    """The same within each guidance branch of denoiser calls in order, and the mean over branches at each step."""
    curves = [consecutive(tensors[branch::branches], distance) for branch in range(branches)]
    return [float(mean) for mean in np.mean(curves, axis=0)]


def residual_distance(current: Tensor, previous: Tensor) -> float:
    """Eq. (12) for one prompt, the step before being the cached one, on a full run."""
    error, size = relative_distance(previous.double(), current.double(), current.double())
    return error / size if size else 0.0


def consistency(curves: Sequence[Sequence[float]]) -> float:
    """How much prompts differ: standard deviation over mean, averaged over steps; 0 if they do not differ."""
    values = np.asarray(curves)
    return float(np.mean(values.std(axis=0) / np.abs(values.mean(axis=0))))


def misses(measured: Sequence[Sequence[float]], predicted: Sequence[Sequence[float]]) -> tuple[float, float]:
    """The relative error of the mean prediction, in the first and in the last third of the steps."""
    truth = np.mean(measured, axis=0)
    off = np.abs(np.mean(predicted, axis=0) - truth) / truth
    third = max(1, len(off) // 3)
    return float(off[:third].mean()), float(off[-third:].mean())
