"""What a closed loop sees that computes every step and goes on with the predictions: all that the paper fits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any

import torch
from torch import Tensor

from ertacache.calibration.closed_loop import ClosedLoops, Errors
from ertacache.calibration.lockstep import Arrival, Lockstep
from ertacache.calibration.recording import check_finite
from ertacache.method.rectification import Granularity, Moments, along, rectify
from ertacache.method.residual import Level, from_cache, to_cache
from ertacache.method.threshold import relative_distance
from ertacache.method.timesteps import correction_coefficient
from ertacache.policy import Rectification
from ertacache.runtime.block_stack import sketch
from ertacache.runtime.schedulers import retime


@dataclass
class Observation:
    """What a closed loop that computes every step, but goes on with the predictions, saw.

    Args:
        cached_steps: the schedule.
        distances: Eq. (12) at every step but the first and the last, on the cached trajectory.
        corrections: ``phi_i`` of Eq. (13) for every cached step.
        rectification: K and B for every cached step, if they were asked for.
        error: of the final latent.
        refused: steps that were to be cached, but at which the denoiser's calls change.
    """

    cached_steps: tuple[int, ...] = ()
    distances: dict[int, float] = field(default_factory=dict)
    corrections: dict[int, float] = field(default_factory=dict)
    rectification: Rectification | None = None
    error: float = 0.0
    refused: tuple[int, ...] = ()


def observe(
    loops: ClosedLoops,
    decide: Callable[[int, float], bool],
    level: Level,
    *,
    granularity: Granularity | None = None,
    axis: int = 1,
    grid: Sequence[float] | None = None,
) -> Observation:
    """Compute every step, and go on with the reused residual where ``decide(step, distance)`` caches it.

    With ``decide`` comparing the distance to a threshold this is Algorithm 2. With a ``granularity``, K and B
    are solved at each cached step from all prompts, and the corrected output is what they go on with.

    At level ``hidden`` a second set of runs makes the same steps with the blocks left out, since only the
    pipeline itself can turn what the denoiser's head returns into a model output. At steps that are not cached it is
    lent the blocks' residuals of the first set, so it computes next to nothing.
    """
    seen = Observation()
    caches: dict[int, Tensor] = {}
    last: dict[int, Tensor] = {}
    parameters: list[tuple[Tensor, Tensor]] = []
    cached: list[int] = []
    refused: list[int] = []
    pattern: tuple[Any, ...] = ()
    headless: set[int] = set()

    def prepare(scheduler: Any) -> list[float] | None:
        return None if grid is None else retime(scheduler, grid)

    hidden = level == "hidden"

    def lockstep(is_cached: Callable[[int], bool]) -> Lockstep:
        return Lockstep(
            loops.pipe,
            loops.calls,
            is_cached,
            prepare,
            loops.on_denoiser_call,
            first_step=loops.setting.first_step,
            residuals_kept=int(hidden),
        )

    with (
        lockstep(lambda _: False) as full,
        lockstep(headless.__contains__) as headed,
    ):
        heads = iter(headed)
        for arrivals in full:
            index = arrivals[0].index
            for arrival in arrivals:
                check_finite(arrival.step.model_output, arrival.prompt, index)
            fresh = {a.prompt: a.step.model_output.float() for a in arrivals}
            reused: dict[int, Tensor] = {}
            stays = arrivals[0].step.pattern == pattern  # else another expert, or guidance that ends
            pattern = arrivals[0].step.pattern
            if 0 < index < loops.setting.num_steps - 1 and decide(
                index, _distance(loops, seen, index, arrivals, caches, level) if stays else inf
            ):
                (cached if stays else refused).append(index)
            if stays:
                headless.add(index)
                if index not in cached:
                    headed.lend([a.step.residuals for a in arrivals])
            followers = next(heads) if hidden else []
            if index in cached:
                reused = (
                    {a.prompt: a.step.model_output.float() for a in followers}
                    if hidden
                    else {a.prompt: from_cache(a.step.sample.float(), caches[a.prompt], level) for a in arrivals}
                )
                change = sum(float((fresh[k] - last[k]).abs().sum()) for k in fresh)
                error = sum(float((reused[k] - fresh[k]).abs().sum()) for k in fresh)
                seen.corrections[index] = correction_coefficient(error, change)
                if granularity is not None:
                    parameters.append(_error_model(reused, fresh, granularity, axis))
                    reused = _rectified(reused, parameters[-1], granularity, axis)
            else:
                caches = {a.prompt: _entry(a, level) for a in arrivals}
            for arrival in [*(arrivals if reused else ()), *followers]:
                arrival.reply = (reused or fresh)[arrival.prompt].to(arrival.reply.dtype)
            last = fresh
        for _ in heads if hidden else ():
            raise AssertionError("the runs without blocks made another step")
        errors = Errors(loops.recordings)
        errors.add(loops.setting.num_steps, full.outputs)
        loops.denoiser_calls += full.denoiser_calls + headed.denoiser_calls
    seen.refused = tuple(refused)
    seen.cached_steps, seen.error = tuple(cached), errors.relative[-1]
    if granularity is not None and parameters:
        k_all, b_all = (torch.stack([p[n].cpu() for p in parameters]) for n in (0, 1))
        seen.rectification = Rectification(granularity, axis, k_all, b_all)
    return seen


def _distance(
    loops: ClosedLoops,
    seen: Observation,
    index: int,
    arrivals: Sequence[Arrival],
    caches: dict[int, Tensor],
    level: Level,
) -> float:
    """Eq. (12) at this step, which is noted."""
    error = size = 0.0
    for arrival in arrivals:
        recording = loops.recordings[arrival.prompt]
        if level == "hidden":
            full = recording.residual(index)
        else:
            full = to_cache(recording.sample(index).float(), recording.model_output(index).float(), level)
        parts = relative_distance(caches[arrival.prompt], _entry(arrival, level), full)
        error, size = error + parts[0], size + parts[1]
    seen.distances[index] = error / size if size else 0.0
    return seen.distances[index]


def _error_model(
    reused: Mapping[int, Tensor], fresh: Mapping[int, Tensor], granularity: Granularity, axis: int
) -> tuple[Tensor, Tensor]:
    """K and B over all prompts, float64."""
    moments = Moments(granularity, axis)
    for k in fresh:
        moments.add(reused[k], fresh[k])
    return moments.solve()


def _rectified(
    reused: Mapping[int, Tensor], parameters: tuple[Tensor, Tensor], granularity: Granularity, axis: int
) -> dict[int, Tensor]:
    one = next(iter(reused.values()))
    k_hat, b_hat = (along(p.to(one.device, torch.float32), one.ndim, granularity, axis) for p in parameters)
    return {k: rectify(v, k_hat, b_hat) for k, v in reused.items()}


def _entry(arrival: Arrival, level: Level) -> Tensor:
    """What Eq. (12) compares."""
    if level == "hidden":
        return sketch(arrival.step.residuals)
    return to_cache(arrival.step.sample.float(), arrival.step.model_output.float(), level)
