"""Other ways to choose the computed steps, each from the same recorded full runs, at a number of computed steps.

- Algorithm 2 of the paper, at the threshold that leaves so many steps (`ertacache.method.schedule`).
- The shortest path over pairwise errors, as LeMiCa, MeanCache and DPCache do (`ertacache.method.shortest_path`).
- Simulated annealing and hill climbing on the final error of one prompt, as BudCache (arXiv 2606.13496; its code was
  read: moves within three steps mostly, the first quarter of the computed steps fixed at the start, temperatures from
  0.05 to 1e-5 of the mean squared error), within a number of denoiser calls.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from ertacache.calibration.loop_outputs import Trace
from ertacache.calibration.loop_runner import ClosedLoops
from ertacache.calibration.residual_distances import residual_distances
from ertacache.method.named_methods import Method
from ertacache.method.threshold import threshold_for_budget

Schedule = tuple[int, ...]
"""The cached steps, rising."""


def algorithm_2(loops: ClosedLoops, computed: int) -> Schedule:
    """The paper's offline policy, on residuals of level ``output``."""
    distance, setting = residual_distances(loops.recordings, "output"), loops.setting
    return threshold_for_budget(setting.num_steps, distance, computed, setting.forced)[1]


def annealed(loops: ClosedLoops, computed: int, denoiser_calls: int, *, seed: int = 0, share: float = 0.7) -> Schedule:
    """Annealing, then steepest descent, on the mean squared error of the final latent under plain reuse.

    Args:
        loops: of one prompt, as BudCache's recipe has it.
        computed: how many steps.
        denoiser_calls: how many may be spent.
        seed: of the moves.
        share: how much of them annealing takes; the rest is for the descent.
    """
    generator = random.Random(seed)
    steps, forced = loops.setting.num_steps, set(loops.setting.forced)
    prefix = max(1, computed // 4)
    size = float(loops.recordings[0].sample(steps).double().square().mean())
    method, start = Method(), loops.denoiser_calls
    known: dict[frozenset[int], float] = {}
    current = Trace(())

    def loss(kept: frozenset[int]) -> float:
        nonlocal current
        if kept not in known:
            cached = tuple(i for i in range(steps) if i not in kept)
            trace = Trace(cached)
            fit = loops.attempt(cached, method, earlier=current, trace=trace)
            assert fit is not None  # nothing gives it up
            known[kept], current = fit.error**2 * size, trace
        return known[kept]

    def spent() -> float:
        return (loops.denoiser_calls - start) / denoiser_calls

    fixed = {*range(prefix), *forced}
    free = [i for i in range(steps) if i not in fixed]
    here = frozenset(fixed | set(generator.sample(free, computed - len(fixed))))
    value = loss(here)
    best, least = here, value
    while spent() < share:
        movable, places = sorted(here - fixed), [i for i in free if i not in here]
        source = generator.choice(movable)
        near = [i for i in places if abs(i - source) <= 3]
        target = generator.choice(near if near and generator.random() < 0.7 else places)
        other = here - {source} | {target}
        temperature = 0.05 * (1e-5 / 0.05) ** (spent() / share)
        change = loss(other) - value
        if change < 0 or generator.random() < math.exp(-change / temperature):
            here, value = other, known[other]
        if value < least:
            best, least = here, value
    while spent() < 1:
        improved = False
        for other in _neighbours(best, fixed, free):
            if spent() >= 1:
                break
            if loss(other) < least:
                best, least, improved = other, known[other], True
        if not improved:
            break
    return tuple(i for i in range(steps) if i not in best)


def _neighbours(kept: frozenset[int], fixed: set[int], free: Sequence[int]) -> list[frozenset[int]]:
    return [
        kept - {source} | {target}
        for source in sorted(kept - fixed)
        for target in free
        if target not in kept and abs(target - source) <= 3
    ]
