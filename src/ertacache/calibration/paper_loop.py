"""The closed loop on which the paper's method is fitted: it computes every step, but continues with cached residuals.

Since every step is computed, the distances of Eq. (12) are known on the cached trajectory, and so are the errors to
which Eqs. (13) to (21) are fitted. The loop decides at each step whether to cache it (Algorithm 2), or follows a
schedule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from math import inf
from operator import add
from typing import Any

import torch
from torch import Tensor

from ertacache.calibration.deviations import Deviations
from ertacache.calibration.lockstep import Lockstep, PromptAtStep
from ertacache.calibration.loop_runner import ClosedLoops
from ertacache.calibration.recorder import check_finite
from ertacache.calibration.shard import current_shard
from ertacache.double_precision import as_float64
from ertacache.method.rectification import Granularity, Moments, rectified
from ertacache.method.residual import Level, from_cache, to_cache
from ertacache.method.threshold import relative_distance
from ertacache.method.timesteps import correction_coefficient
from ertacache.policy import Rectification
from ertacache.runtime.block_stack import sketch
from ertacache.runtime.schedulers import retime


@dataclass(frozen=True)
class Observation:
    """The result of the paper's closed loop.

    Args:
        cached_steps: the schedule.
        distances: Eq. (12) at every step but the first and the last, on the cached trajectory.
        corrections: ``phi_i`` of Eq. (13) for every cached step.
        rectification: K and B for every cached step; None if they were not fitted.
        error: the error of the final latent, relative to the full run's.
        refused: the steps that were to be cached, but are computed since the denoiser's calls change there.
    """

    cached_steps: tuple[int, ...]
    distances: Mapping[int, float]
    corrections: Mapping[int, float]
    rectification: Rectification | None
    error: float
    refused: tuple[int, ...]


Decide = Callable[[int, float], bool]
"""``decide(step, distance)`` returns whether to cache a step, given its distance by Eq. (12), which is infinite if the
denoiser's calls change at this step."""


def observe(
    loops: ClosedLoops,
    decide: Decide,
    level: Level,
    *,
    granularity: Granularity | None = None,
    axis: int = 1,
    grid: Sequence[float] | None = None,
) -> Observation:
    """Compute every step, but continue with the reused residual at steps that ``decide`` caches.

    If ``decide`` compares the distance with a threshold, this is Algorithm 2.

    Args:
        loops: the prompts, and the count of denoiser calls.
        decide: decides which steps are cached.
        level: the level of the residuals.
        granularity: the granularity of K and B. They are solved at each cached step from all prompts, which continue
            with the corrected output. None to fit no error model.
        axis: the channel axis of the model output, counted with the batch axis at 0.
        grid: T + 1 points from 0 to 1 (Eq. 14), or None for the scheduler's own grid.
    """
    return _PaperLoop(loops, decide, level, granularity, axis, grid).run()


class _PaperLoop:
    """The state of one such loop; see `observe`.

    At level ``hidden`` there is a second set of runs, the followers. They make the same steps without the blocks, since
    only the pipeline itself can turn the output of the denoiser's head into a model output. At steps that are not
    cached, the followers use the blocks' residuals of the first set, so they compute hardly anything.
    """

    def __init__(
        self,
        loops: ClosedLoops,
        decide: Decide,
        level: Level,
        granularity: Granularity | None,
        axis: int,
        grid: Sequence[float] | None,
    ) -> None:
        self._loops, self._decide, self._level = loops, decide, level
        self._shard = current_shard()
        self._granularity, self._axis, self._grid = granularity, axis, grid
        self._residuals: dict[int, Tensor] = {}  # by own prompt, of the last step that was not cached
        self._previous: dict[int, Tensor] = {}  # by own prompt, what the denoiser returned at the step before
        self._pattern: tuple[Any, ...] = ()
        self._cached: list[int] = []
        self._refused: list[int] = []
        self._distances: dict[int, float] = {}
        self._corrections: dict[int, float] = {}
        self._error_models: list[tuple[Tensor, Tensor]] = []
        # Steps at which the followers leave the blocks out. A step is added while they wait at the step before it.
        self._without_blocks: set[int] = set()

    def run(self) -> Observation:
        """Run the loop over all steps."""
        return self._loops.settled(self._run)[0]

    def _run(self) -> Observation:
        hidden = self._level == "hidden"
        with (
            self._lockstep(lambda step: False) as full,
            self._lockstep(self._without_blocks.__contains__) as followers,
        ):
            followed: Iterator[list[PromptAtStep]] = iter(followers) if hidden else iter(())
            for prompts in full:
                same_calls = self._calls_stay(prompts)
                cached = self._caches(prompts, same_calls)
                if same_calls and hidden:
                    self._prepare(followers, prompts, cached)
                self._go_on(prompts, next(followed) if hidden else [], cached)
            for _ in followed:
                raise AssertionError("the runs without blocks made another step")
            deviations = Deviations(self._loops.recordings)
            own = deviations.distances(self._loops.setting.num_steps, full.outputs())
            deviations.add(self._shard.gather(own, "the end of the paper's loop"))
            self._loops.count([*map(sum, zip(full.denoiser_calls, followers.denoiser_calls, strict=True))])
        return Observation(
            tuple(self._cached),
            self._distances,
            self._corrections,
            self._rectification(),
            deviations.relative[-1],
            tuple(self._refused),
        )

    def _lockstep(self, is_cached: Callable[[int], bool]) -> Lockstep:
        grid = self._grid
        return Lockstep(
            self._loops.pipe,
            self._loops.calls,
            is_cached,
            lambda scheduler: None if grid is None else retime(scheduler, grid),
            self._loops.on_denoiser_call,
            first_step=self._loops.setting.first_step,
            residuals_kept=int(self._level == "hidden"),
        )

    def _calls_stay(self, prompts: Sequence[PromptAtStep]) -> bool:
        """Return whether the denoiser's calls are those of the step before: no other expert, no guidance that ends."""
        before, self._pattern = self._pattern, prompts[0].step.pattern
        return before == self._pattern

    def _caches(self, prompts: Sequence[PromptAtStep], same_calls: bool) -> bool:
        """Decide whether this step is cached, and note it; the first and the last step are not."""
        index = prompts[0].index
        for prompt in prompts:
            check_finite(prompt.step.model_output, self._loops.numbers[prompt.prompt], index)
        if not 0 < index < self._loops.setting.num_steps - 1:
            return False
        if not self._decide(index, self._distance(prompts) if same_calls else inf):
            return False
        (self._cached if same_calls else self._refused).append(index)
        return same_calls

    def _distance(self, prompts: Sequence[PromptAtStep]) -> float:
        """Compute the distance of Eq. (12) at this step, and note it."""
        index, own = prompts[0].index, []
        for prompt in prompts:
            full = self._loops.recordings[prompt.prompt].entry(index, self._level)
            cached, fresh = self._residuals[prompt.prompt], self._residual(prompt)
            own.append(relative_distance(as_float64(cached), as_float64(fresh), as_float64(full)))
        parts = self._shard.gather(own, f"step {index} of the paper's loop")
        error, size = (sum(values) for values in zip(*parts, strict=True))
        self._distances[index] = error / size if size else 0.0
        return self._distances[index]

    def _residual(self, prompt: PromptAtStep) -> Tensor:
        """Compute the residual that Eq. (12) compares, float32."""
        if self._level == "hidden":
            return sketch(prompt.step.residuals)
        return to_cache(prompt.step.sample.float(), prompt.step.model_output.float(), self._level)

    def _prepare(self, followers: Lockstep, prompts: Sequence[PromptAtStep], cached: bool) -> None:
        """Make the followers leave the blocks out at the next step they come to."""
        self._without_blocks.add(prompts[0].index)
        if not cached:
            followers.replace_newest_residuals([prompt.step.residuals for prompt in prompts])

    def _go_on(self, prompts: Sequence[PromptAtStep], followed: Sequence[PromptAtStep], cached: bool) -> None:
        """Set the outputs with which the prompts and their followers continue, and keep what later steps need."""
        fresh = outputs = {prompt.prompt: prompt.step.model_output.float() for prompt in prompts}
        if cached:
            outputs = self._in_place_of(fresh, self._reused(prompts, followed), prompts[0].index)
        else:
            self._residuals = {prompt.prompt: self._residual(prompt) for prompt in prompts}
        for prompt in [*(prompts if cached else ()), *followed]:
            prompt.reply = outputs[prompt.prompt].to(prompt.reply.dtype)
        self._previous = fresh

    def _reused(self, prompts: Sequence[PromptAtStep], followed: Sequence[PromptAtStep]) -> dict[int, Tensor]:
        """Compute, for each prompt, the output that the cached residual gives, float32."""
        if self._level == "hidden":
            return {prompt.prompt: prompt.step.model_output.float() for prompt in followed}
        return {p.prompt: from_cache(p.step.sample.float(), self._residuals[p.prompt], self._level) for p in prompts}

    def _in_place_of(self, fresh: Mapping[int, Tensor], reused: dict[int, Tensor], index: int) -> dict[int, Tensor]:
        """Return the prompts' outputs at a cached step; fit Eq. (13), and with a granularity Eqs. (15) to (21)."""
        own = [
            (
                float((fresh[k] - self._previous[k]).abs().sum()),
                float((reused[k] - fresh[k]).abs().sum()),
                self._moments(reused[k], fresh[k]),
            )
            for k in fresh
        ]
        changes, errors, moments = zip(*self._shard.gather(own, f"error model of step {index}"), strict=True)
        self._corrections[index] = correction_coefficient(sum(errors), sum(changes))
        if self._granularity is None:
            return reused
        self._error_models.append(reduce(add, moments).solve())
        device = next(iter(reused.values())).device
        k_hat, b_hat = (parameter.to(device, torch.float32) for parameter in self._error_models[-1])
        return {k: rectified(v, k_hat, b_hat, self._granularity, self._axis) for k, v in reused.items()}

    def _moments(self, reused: Tensor, fresh: Tensor) -> Moments | None:
        """One prompt's part of the error model; with a K and B for each element it has the size of a few latents."""
        if self._granularity is None:
            return None
        moments = Moments(self._granularity, self._axis)
        moments.add(reused, fresh)
        return moments

    def _rectification(self) -> Rectification | None:
        """Collect K and B of all cached steps."""
        if self._granularity is None or not self._error_models:
            return None
        k_all, b_all = (torch.stack([model[n].cpu() for model in self._error_models]) for n in (0, 1))
        return Rectification(self._granularity, self._axis, k_all, b_all)
