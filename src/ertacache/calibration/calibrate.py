"""`calibrate`: record the full runs, choose the schedule, fit what stands in for the denoiser, say what it cost."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import exp
from pathlib import Path
from typing import Any

from torch import Tensor

from ertacache.calibration.budget import Budget, parse_budget
from ertacache.calibration.checkpoint import Shelf, key_of, readable
from ertacache.calibration.closed_loop import ClosedLoops, Fit
from ertacache.calibration.observation import Observation, observe
from ertacache.calibration.progress import CalibrationProgress
from ertacache.calibration.prompts import Call, calls_for
from ertacache.calibration.recording import Recording, Setting, gram_of, pairwise, record
from ertacache.calibration.search import Search, Surrogate, evenly_spaced
from ertacache.errors import MethodError, PipelineError
from ertacache.method.named import Method
from ertacache.method.residual import to_cache
from ertacache.method.schedule import check_forced, threshold_for_budget
from ertacache.method.timesteps import step_lengths, time_grid
from ertacache.policy import CalibrationRecord, Policy
from ertacache.runtime import identity
from ertacache.runtime.families import channel_axis
from ertacache.runtime.run import Step, denoisers_of
from ertacache.runtime.samplers import sampler_of
from ertacache.runtime.seams import model_of

FULL_RUNS = 4
"""Calibration for one budget costs at most so many full runs' denoiser calls per prompt."""


def calibrate(
    pipe: Any,
    prompts: Sequence[str | Mapping[str, Any]],
    *,
    num_inference_steps: int,
    speedup: float | None = None,
    num_computed_steps: int | None = None,
    threshold: float | None = None,
    method: str | Method = "aligned",
    seed: int = 0,
    progress: bool = True,
    checkpoint: str | os.PathLike[str] | None = None,
    memory_limit: int = 2 << 30,
    **call_arguments: Any,
) -> Policy:
    """Make a policy for a pipeline from a few prompts.

    Args:
        pipe: a diffusers pipeline; left as it was found.
        prompts: texts, or dicts of call arguments (``prompt_embeds``, ``latents``, ``image``, ...).
        num_inference_steps: T; the policy holds for this number of steps.
        speedup: budget: the least step ratio.
        num_computed_steps: budget: the most steps that may be computed.
        threshold: budget: the lambda of Algorithm 2, for methods with ``schedule="offline"``.
        method: a name of `ertacache.method.named.NAMED_METHODS`, or a `Method`.
        seed: prompt k gets a generator seeded ``seed + k``, unless its dict brings one.
        progress: show a progress bar and what calibration costs.
        checkpoint: a folder in which full runs are kept, so that an interrupted calibration goes on from there,
            and another budget or method starts from there.
        memory_limit: bytes; larger recordings go to files.
        **call_arguments: go to every pipeline call.

    Returns:
        The policy, with what calibration cost and measured in ``policy.calibration``.

    Raises:
        BudgetError: on no budget, several, or one that cannot be met.
        CalibrationError: without prompts, or when the denoiser returns NaN.
        MethodError: on an unknown method.
        PipelineError: if the pipeline or its scheduler cannot be served.
    """
    chosen = method if isinstance(method, Method) else Method.named(method)
    budget = parse_budget(num_inference_steps, chosen, speedup, num_computed_steps, threshold)
    sampler_of(pipe.scheduler)
    common = {**call_arguments, "num_inference_steps": num_inference_steps}
    calls = calls_for(pipe, prompts, common, seed)
    guidance = [identity.guidance_of(pipe, (), call.arguments()) for call in calls]
    for k, other in enumerate(guidance):
        if other != guidance[0]:
            raise _not_one_setting(k, other, guidance[0])
    hidden = chosen.level == "hidden"
    key = key_of(pipe, calls, num_inference_steps, hidden=hidden) if checkpoint else ""
    shelf = Shelf(Path(checkpoint) if checkpoint else None, key, memory_limit)
    try:
        with CalibrationProgress(progress) as shown:
            traced = 2 * (budget.computed or 0) if chosen.schedule == "search" and not hidden else 0
            recordings, setting, spent = _full_runs(pipe, calls, num_inference_steps, shelf, shown, hidden, traced)
            loops = ClosedLoops(pipe, calls, recordings, setting, shown.advance, traces_in_files=shelf.in_files)
            loops.denoiser_calls = spent
            if setting.first_step:
                if chosen.timestep_adjustment:
                    raise MethodError(
                        "timestep adjustment needs a call that begins with the first step",
                        given=f"the call begins with step {setting.first_step} of {num_inference_steps}",
                        cure="Use a method without it, such as 'aligned'.",
                    )
                budget = parse_budget(setting.num_steps, chosen, speedup, num_computed_steps, threshold)
            policy = shifted(_solve(loops, chosen, budget, shown), setting.first_step)
            policy = replace(
                policy,
                origin=identity.origin_of(
                    pipe,
                    noise_levels=setting.grid,
                    guidance=guidance[0],
                    calls_per_step=setting.calls_per_step,
                    latent_shape=setting.latent_shape,
                ),
            )
            _tell(policy, shown)
            return policy
    finally:
        shelf.close()


def _full_runs(
    pipe: Any,
    calls: Sequence[Call],
    num_steps: int,
    shelf: Shelf,
    shown: CalibrationProgress,
    hidden: bool = False,
    traced: int = 0,
) -> tuple[list[Recording], Setting, int]:
    """Record every prompt's full run, or find it recorded. The calls spent count those of found runs too.

    ``traced``: how many computed steps of closed loops will be kept as well.
    """

    def announce(sample: Tensor, output: Tensor, calls_per_step: int, residuals: Sequence[Tensor] = ()) -> None:
        kept = sample.nbytes * (num_steps + 1) + output.nbytes * num_steps
        kept += traced * (output.nbytes + 4 * output.numel())  # with the branches' contrast in float32
        live = 18 * sample.numel() * 4
        live += 2 * sum(residual.nbytes for residual in residuals)  # of level hidden
        one = output.nbytes * num_steps  # read at a time to compare the steps
        shown.expect(FULL_RUNS * num_steps * calls_per_step * len(calls))
        shown.say(
            f"calibration needs {readable(live * len(calls) + one)} beside the pipeline, and keeps "
            f"{readable(kept * len(calls))} of recordings in {shelf.expect(kept * len(calls))}; it makes at most "
            f"{FULL_RUNS} full runs' denoiser calls per prompt"
        )

    def on_first(step: Step) -> None:
        announce(step.sample, step.model_output, step.denoiser_calls, step.residuals)

    recordings: list[Recording] = []
    setting: Setting | None = None
    found = 0
    for k, call in enumerate(calls):
        shown.phase(f"full run {k + 1} of {len(calls)}")
        kept = shelf.find(k)
        if kept is None:
            first = on_first if not recordings else lambda step: None
            tensors, here = record(pipe, call, k, num_steps, first, shown.advance, hidden=hidden)
            kept = shelf.keep(k, tensors, here), here
        else:
            if not recordings:
                announce(kept[0].sample(0), kept[0].model_output(0), kept[1].calls_per_step)
            found += 1
            shown.advance(num_steps * kept[1].calls_per_step)
        recording, here = kept
        if setting is not None and here != setting:
            shown_of = "latents {0.latent_shape} and {0.calls_per_step} denoiser calls a step".format
            raise _not_one_setting(k, shown_of(here), shown_of(setting))
        recordings.append(recording)
        setting = here
    assert setting is not None  # there is at least one prompt
    if found:
        shown.say(f"{found} of {len(calls)} full runs were found in the checkpoint")
    return recordings, setting, setting.num_steps * setting.calls_per_step * len(calls)


def _not_one_setting(prompt: int, its: object, first: object) -> PipelineError:
    return PipelineError(
        "the prompts do not share one setting",
        given=f"prompt {prompt} has {its}, the first one {first}",
        cure="Calibrate with one resolution, one noise schedule and one guidance setting; make a policy for each.",
    )


def _solve(loops: ClosedLoops, method: Method, budget: Budget, shown: CalibrationProgress) -> Policy:
    setting = loops.setting
    if method.level == "output" and not setting.same_shape:
        raise PipelineError(
            "level 'output' caches v - x, and here the two differ in shape",
            given=f"latents {setting.latent_shape}",
            cure="Use a method of level 'velocity', such as 'aligned' or 'taylor'.",
        )
    shown.phase(f"fitting {method.name}")
    if budget.computed is not None:
        check_forced(setting.num_steps, budget.computed, setting.forced)
    if method.schedule == "search":
        assert budget.computed is not None  # `parse_budget` saw to it
        return _searched(loops, method, budget, budget.computed)
    threshold, planned = _plan(loops, method, budget)
    corrected = method.timestep_adjustment or method.rectification is not None
    if method.schedule == "offline" or corrected:
        seen, grid = _observed(loops, method, threshold, planned)
        if method.predictor == "reuse":
            over = [i for i in seen.cached_steps if threshold is not None and seen.distances[i] >= threshold]
            notes = [
                f"step {i} is computed after all: on the adjusted grid the denoiser's calls change there"
                for i in (seen.refused if grid is not None else ())
            ]
            notes += [f"on the cached trajectory the distance exceeds {threshold:.3g} at steps {over}"] if over else []
            return Policy(
                num_inference_steps=setting.num_steps,
                cached_steps=seen.cached_steps,
                method=method,
                time_grid=grid,
                rectification=seen.rectification,
                calibration=_record(loops, budget, seen.error, (), threshold=threshold, notes=notes),
            )
        planned = seen.cached_steps
    assert planned is not None  # it is None for a threshold only, which has been run by now
    return _predicting(loops, method, budget, loops.predict(planned, method), threshold)


def _plan(loops: ClosedLoops, method: Method, budget: Budget) -> tuple[float | None, tuple[int, ...] | None]:
    """The threshold, if the schedule is Algorithm 2's, and the schedule, if it is known before a closed loop."""
    setting = loops.setting
    if budget.computed is None:
        return budget.threshold, None
    if method.schedule == "uniform":
        return None, evenly_spaced(setting.num_steps, budget.computed, setting.forced)

    def entry(recording: Recording, step: int) -> Tensor:
        if method.level == "hidden":
            return recording.residual(step)
        return to_cache(recording.sample(step).float(), recording.model_output(step).float(), method.level)

    distance = pairwise(loops.recordings, entry)
    return threshold_for_budget(setting.num_steps, distance, budget.computed, setting.forced)


def _observed(
    loops: ClosedLoops, method: Method, threshold: float | None, planned: tuple[int, ...] | None
) -> tuple[Observation, tuple[float, ...] | None]:
    """Algorithm 2, then Eqs. (13)-(14), then Eqs. (15)-(21): each fitted on the trajectory that the last one left."""
    setting = loops.setting
    classes = [type(model_of(module)).__name__ for module in denoisers_of(loops.pipe).values()]
    axis = channel_axis(classes, len(setting.latent_shape) + 1)

    def decide(step: int, distance: float) -> bool:
        return step in planned if planned is not None else threshold is not None and distance < threshold

    late = method.timestep_adjustment  # then the error model is fitted after it, on the retimed trajectory
    seen = observe(loops, decide, method.level, granularity=None if late else method.rectification, axis=axis)
    if not late or not seen.cached_steps:
        return seen, None
    cached, distances = seen.cached_steps, seen.distances
    grid = tuple(time_grid(step_lengths(setting.num_steps, cached, seen.corrections)))
    seen = observe(
        loops, lambda step, _: step in cached, method.level, granularity=method.rectification, axis=axis, grid=grid
    )
    seen.distances = distances  # Eq. (12) speaks of the unwarped grid
    return seen, grid


def _searched(loops: ClosedLoops, method: Method, budget: Budget, computed: int) -> Policy:
    """The aligned prediction on the schedule that is best in closed loop."""
    setting = loops.setting
    steps, prompts = setting.num_steps, len(loops.calls)
    total = FULL_RUNS * steps * setting.calls_per_step * prompts
    reserve = computed * setting.calls_per_step * prompts  # the closed loop with Taylor weights, to compare with
    surrogate = Surrogate(gram_of(loops.recordings, steps), setting.slopes, method.order, setting.forced)
    fit = Search(loops, surrogate, method, total - reserve).run(computed)
    return _predicting(loops, method, budget, fit, None)


def _predicting(loops: ClosedLoops, method: Method, budget: Budget, fit: Fit, threshold: float | None) -> Policy:
    """The policy of a closed loop that predicted its cached steps."""
    notes: list[str] = []
    if method.predictor == "aligned":
        fit = _no_worse_than_taylor(loops, method, fit, notes)
    return Policy(
        num_inference_steps=loops.setting.num_steps,
        cached_steps=fit.cached_steps,
        method=method,
        predictions=fit.predictions if method.predictor == "aligned" else {},
        calibration=_record(loops, budget, fit.error, fit.step_errors, threshold=threshold, notes=notes),
    )


def shifted(policy: Policy, first_step: int) -> Policy:
    """A policy whose steps count from ``first_step`` of the grid, as one of the whole grid."""
    if not first_step:
        return policy
    predictions = {
        step + first_step: replace(p, history=tuple(i + first_step for i in p.history))
        for step, p in policy.predictions.items()
    }
    return replace(
        policy,
        num_inference_steps=policy.num_inference_steps + first_step,
        first_step=first_step,
        cached_steps=tuple(step + first_step for step in policy.cached_steps),
        predictions=predictions,
    )


def _no_worse_than_taylor(loops: ClosedLoops, method: Method, fit: Fit, notes: list[str]) -> Fit:
    taylor = loops.predict(fit.cached_steps, method, predictor="taylor")
    if fit.score <= taylor.score:  # as the search compares: one prompt of a large error does not outvote the rest
        return fit
    kept, fitted = exp(taylor.score), exp(fit.score)
    notes.append(
        f"Taylor weights were kept: the geometric mean of their errors over prompts is {kept:.4g}, "
        f"of the fitted ones' {fitted:.4g}"
    )
    return taylor


def _record(
    loops: ClosedLoops,
    budget: Budget,
    error: float,
    step_errors: Sequence[float],
    *,
    notes: Sequence[str],
    threshold: float | None = None,
) -> CalibrationRecord:
    full_run = loops.setting.num_steps * loops.setting.calls_per_step
    return CalibrationRecord(
        budget=budget.asked,
        num_prompts=len(loops.calls),
        denoiser_calls=loops.denoiser_calls,
        full_runs=loops.denoiser_calls / full_run / len(loops.calls),
        error=error,
        step_errors=tuple(step_errors),
        threshold=threshold,
        notes=tuple(notes),
    )


def _tell(policy: Policy, shown: CalibrationProgress) -> None:
    record = policy.calibration
    shown.say(
        f"{policy.method.name}: {len(policy.computed_steps)} of {policy.num_made_steps} steps computed "
        f"(step ratio {policy.step_ratio:.2f}), error of the final latent {record.error:.4f}; "
        f"{record.denoiser_calls} denoiser calls, {record.full_runs:.2f} full runs per prompt"
    )
    for note in record.notes:
        shown.say(f"note: {note}")
