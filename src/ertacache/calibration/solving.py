"""From closed loops and a budget to a policy: the schedule, what is fitted on it, and what a budget asks for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import ceil, exp
from statistics import fmean, median
from typing import Any

from torch import Tensor

from ertacache.calibration.budget import Budget
from ertacache.calibration.closed_loop import ClosedLoops, Fit
from ertacache.calibration.observation import Observation, observe
from ertacache.calibration.quality import CONFIDENCE, lower_bound
from ertacache.calibration.recording import Recording, gram_of, pairwise
from ertacache.calibration.search import Search, beginnings
from ertacache.calibration.session import Session
from ertacache.calibration.timing import MARGIN, REPEATS, time_call, timed
from ertacache.errors import BudgetError, MethodError, PipelineError
from ertacache.method.choice import Method
from ertacache.method.residual import to_cache
from ertacache.method.schedule import check_forced, evenly_spaced
from ertacache.method.surrogate import Surrogate
from ertacache.method.threshold import threshold_for_budget
from ertacache.method.timesteps import step_lengths, time_grid
from ertacache.policy import CalibrationRecord, Policy
from ertacache.runtime.denoisers import denoisers_of
from ertacache.runtime.families import channel_axis
from ertacache.runtime.unwrap import model_of


def solve(session: Session, method: Method, budget: Budget) -> Policy:
    """The policy of a method at a budget, its steps counted from the first one that the calls make.

    Raises:
        BudgetError: if it cannot be met.
        PipelineError: if the method does not suit the pipeline.
    """
    loops, setting = session.loops, session.loops.setting
    if method.timestep_adjustment and setting.first_step:
        raise MethodError(
            "timestep adjustment needs a call that begins with the first step",
            given=f"the call begins with step {setting.first_step} of {len(setting.grid) - 1}",
            cure="Use a method without it, such as 'aligned'.",
        )
    if method.level == "output" and not setting.same_shape:
        raise PipelineError(
            "level 'output' caches v - x, and here the two differ in shape",
            given=f"latents {setting.latent_shape}",
            cure="Use a method of level 'velocity', such as 'aligned' or 'taylor'.",
        )
    session.shown.phase(f"fitting {method.name}")
    if budget.quality:
        return _of_quality(session, method, budget, *budget.quality)
    if budget.seconds is not None:
        return _within_seconds(session, method, budget, budget.seconds)
    if budget.computed is not None:
        check_forced(setting.num_steps, budget.computed, setting.forced)
    if budget.computed == setting.num_steps:
        return _nothing_cached(loops, method, budget, ["all steps are computed, so nothing is cached"])
    if method.schedule == "search":
        assert budget.computed is not None  # `parse_budget` saw to it
        notes: list[str] = []
        fit = searched(loops, method, budget.computed, budget.full_runs * loops.full_run, notes)
        return predicting(loops, method, budget, fit, notes=notes)
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
    return predicting(loops, method, budget, loops.predict(planned, method), threshold=threshold)


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


def searched(loops: ClosedLoops, method: Method, computed: int, limit: float, notes: list[str]) -> Fit:
    """The aligned prediction on the schedule that is best in closed loop, within so many denoiser calls in all.

    ``notes`` is told if the user interrupted the search.
    """
    setting = loops.setting
    # For the loop with Taylor weights, to compare with, and the one whose weights the policy gets.
    reserve = (1 + loops.holds_out) * computed * setting.calls_per_step * len(loops.calls)
    search = Search(loops, surrogate_of(loops), method, int(limit - reserve))
    fit = search.run(computed)
    if search.stopped:
        notes.append(f"the search was interrupted; the schedule is the best of {len(search.tried)}")
    return fit


def surrogate_of(loops: ClosedLoops) -> Surrogate:
    """What judges schedules without denoiser calls."""
    setting = loops.setting
    return Surrogate(gram_of(loops.recordings, setting.num_steps), setting.slopes, setting.forced)


def predicting(
    loops: ClosedLoops,
    method: Method,
    budget: Budget,
    fit: Fit,
    *,
    threshold: float | None = None,
    notes: Sequence[str] = (),
) -> Policy:
    """The policy of a closed loop that predicted its cached steps."""
    notes = list(notes)
    taylor_kept = False
    if method.predictor == "aligned":
        fit, taylor_kept = _no_worse_than_taylor(loops, method, fit, notes)
    policy = policy_of(loops, method, budget, fit, threshold=threshold, notes=notes)
    return replace(policy, calibration=replace(policy.calibration, taylor_kept=taylor_kept))


def with_weights_of_all(loops: ClosedLoops, method: Method, fit: Fit) -> Fit:
    """A loop's schedule, errors and quality, with weights fitted on all prompts in a loop of their own.

    Held-out trajectories have more error than those a policy makes, and weights that are fitted there are up to half a
    decibel worse.
    """
    return replace(fit, predictions=_of_all(loops, method, fit).predictions)


def _of_all(loops: ClosedLoops, method: Method, fit: Fit) -> Fit:
    """The loop in which all prompts go on with the weights of all, as those that follow the policy will."""
    if method.predictor != "aligned" or not loops.holds_out:
        return fit
    return loops.predict(fit.cached_steps, method, weights="all")


def policy_of(
    loops: ClosedLoops,
    method: Method,
    budget: Budget,
    fit: Fit,
    *,
    threshold: float | None = None,
    notes: Sequence[str] = (),
) -> Policy:
    """The policy that does what a closed loop did."""
    record = _record(loops, budget, fit.error, fit.step_errors, threshold=threshold, notes=notes)
    if fit.quality:
        record = replace(record, psnr=fit.quality.psnr, ssim=fit.quality.ssim)
    return Policy(
        num_inference_steps=loops.setting.num_steps,
        cached_steps=fit.cached_steps,
        method=method,
        predictions=fit.predictions if method.predictor == "aligned" else {},
        calibration=record,
        envelope=fit.envelope,
    )


def _no_worse_than_taylor(loops: ClosedLoops, method: Method, fit: Fit, notes: list[str]) -> tuple[Fit, bool]:
    """A loop's schedule and errors with the weights of all prompts, or the loop by Taylor's, if that is nearer; which.

    Compared as the search compares, so that one prompt of a large error does not outvote the rest; but in the loop with
    the weights of all. Held-out prompts' errors add up from step to step, and on 12 prompts Taylor's weights seemed
    better by up to 4 dB where they were 5 dB worse on new prompts (docs/research-log.md).
    """
    of_all, taylor = _of_all(loops, method, fit), loops.predict(fit.cached_steps, method, predictor="taylor")
    if of_all.score <= taylor.score:
        return replace(fit, predictions=of_all.predictions), False
    kept, fitted = exp(taylor.score), exp(of_all.score)
    notes.append(
        f"Taylor weights were kept: the geometric mean of their errors over prompts is {kept:.4g}, "
        f"of the fitted ones' {fitted:.4g}"
    )
    return taylor, True


def _record(
    loops: ClosedLoops,
    budget: Budget,
    error: float,
    step_errors: Sequence[float],
    *,
    notes: Sequence[str],
    threshold: float | None = None,
) -> CalibrationRecord:
    return CalibrationRecord(
        budget=budget.asked,
        num_prompts=len(loops.calls),
        **_spent(loops),
        error=error,
        step_errors=tuple(step_errors),
        threshold=threshold,
        notes=tuple(notes),
    )


def _spent(loops: ClosedLoops) -> dict[str, Any]:
    return {"denoiser_calls": loops.denoiser_calls, "full_runs": loops.denoiser_calls / loops.full_run}


def _within_seconds(session: Session, method: Method, budget: Budget, seconds: float) -> Policy:
    """The best policy whose call stays under so many seconds here; timed, and mended if the plan was too bold."""
    loops, steps = session.loops, session.loops.setting.num_steps
    call = loops.calls[0].as_given()
    session.shown.phase("timing computed and cached steps")
    costs = timed(loops.pipe, call, loops.setting)
    loops.denoiser_calls += costs.denoiser_calls
    computed = costs.most_steps(seconds)
    if computed == steps:
        notes = [f"the full call takes {costs.full:.3g} s, so nothing is cached"]
        nothing = _nothing_cached(loops, method, budget, notes)
        return replace(nothing, calibration=replace(nothing.calibration, seconds=costs.full))
    while True:
        policy = solve(session, method, replace(budget, computed=computed, seconds=None))
        session.shown.phase("timing the policy")
        finished = session.finished(policy)
        taken = [time_call(loops.pipe, call, finished) for _ in range(REPEATS)]
        loops.denoiser_calls += sum(calls for _, calls in taken)
        measured = median(spent for spent, _ in taken)
        if measured <= seconds:
            return replace(policy, calibration=replace(policy.calibration, seconds=measured, **_spent(loops)))
        fewer = computed - max(1, ceil((measured - seconds * (1 - MARGIN)) / costs.computed_step))
        if fewer < loops.setting.fewest_computed:
            raise BudgetError(
                "no policy is so fast on this machine",
                given=f"{budget.asked}; with {computed} of {steps} steps computed a call takes {measured:.3g} s",
                cure="Ask for more seconds, or for a smaller picture.",
            )
        computed = fewer


def _of_quality(session: Session, method: Method, budget: Budget, what: str, least: float) -> Policy:
    """The policy with the fewest computed steps whose quality is this with confidence, as far as loops can tell.

    Bisection over the number of steps, each judged by one or two closed loops; then the search, which may find a better
    schedule, is asked for one step less and again, for as long as that reaches the quality too.
    """
    loops, steps = session.loops, session.loops.setting.num_steps
    limit = budget.full_runs * loops.full_run
    notes: list[str] = []
    loops.judge_pictures()
    found: dict[int, Fit] = {}
    surrogate = surrogate_of(loops) if method.schedule == "search" else None

    def reached(fit: Fit) -> bool:
        assert fit.quality is not None  # there is a judge
        return lower_bound(getattr(fit.quality, what)) >= least

    def enough(computed: int) -> bool:
        session.shown.phase(f"judging {computed} of {steps} steps")
        setting = steps, computed, loops.setting.forced
        cached = next(beginnings(*setting, surrogate)) if surrogate else evenly_spaced(*setting)
        found[computed] = loops.judged(cached, method, reached)
        return reached(found[computed])

    low = loops.setting.fewest_computed
    computed = fewest(low, steps, enough)
    best = found.get(computed)

    def affordable(computed: int) -> bool:
        """Whether a search with so many steps can begin: its first loop, and the two that judge what it finds."""
        return loops.denoiser_calls + 3 * computed * loops.setting.calls_per_step * len(loops.calls) <= limit

    while method.schedule == "search" and computed > low and affordable(computed - 1):
        session.shown.phase(f"searching with {computed - 1} of {steps} steps")
        cached = searched(loops, method, computed - 1, limit, notes).cached_steps
        fit = loops.judged(cached, method, reached)
        if not reached(fit):
            break
        best, computed = fit, computed - 1
        if notes:  # the user has had enough
            break
    if best is None:
        return _nothing_cached(loops, method, budget, ["only the full run reaches this quality, so nothing is cached"])
    assert best.quality is not None  # there is a judge
    values = getattr(best.quality, what)
    note = (
        f"mean {what.upper()} {fmean(values):.4g} over {len(values)} prompts, each by weights fitted on the others; "
        f"over {lower_bound(values):.4g} with {CONFIDENCE:.0%} confidence"
    )
    return policy_of(loops, method, budget, best, notes=[note, *notes])


def fewest(low: int, high: int, enough: Callable[[int], bool]) -> int:
    """The least number in ``low .. high`` that is enough, where all above an enough one are; ``high`` is."""
    while low < high:
        middle = (low + high) // 2
        if enough(middle):
            high = middle
        else:
            low = middle + 1
    return high


def _nothing_cached(loops: ClosedLoops, method: Method, budget: Budget, notes: Sequence[str]) -> Policy:
    return Policy(
        num_inference_steps=loops.setting.num_steps,
        cached_steps=(),
        method=method,
        calibration=_record(loops, budget, 0.0, (), notes=notes),
    )
