"""A budget of Algorithm 2's threshold; and the timestep adjustment and error model, fitted on the cached trajectory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ertacache.calibration.budget import Budget, ThresholdBudget
from ertacache.calibration.full_runs import Session
from ertacache.calibration.loop_runner import ClosedLoops
from ertacache.calibration.make_policy import better_policy, record_of
from ertacache.calibration.paper_loop import Observation, observe
from ertacache.method.named_methods import Method
from ertacache.method.schedule import Schedule
from ertacache.method.timesteps import step_lengths, time_grid
from ertacache.policy import Policy
from ertacache.runtime.denoisers import denoisers_of
from ertacache.runtime.layout_tables import channel_axis
from ertacache.runtime.unwrap import model_of


def under_threshold(session: Session, method: Method, budget: ThresholdBudget) -> Policy:
    """Make the policy that caches every step whose distance by Eq. (12), in closed loop, is under the threshold."""
    session.progress.phase(f"fitting {method.name}")
    return fitted_on_cached_trajectory(session.loops, method, budget, threshold=budget.threshold, planned=None)


def fitted_on_cached_trajectory(
    loops: ClosedLoops,
    method: Method,
    budget: Budget,
    *,
    threshold: float | None,
    planned: Schedule | None,
) -> Policy:
    """Make the policy of a method with Algorithm 2, timestep adjustment or an error model.

    Args:
        loops: the loops of the calibration.
        method: the method; its parts determine what is fitted.
        budget: the budget that was asked for.
        threshold: the lambda of Eq. (12); None if the schedule is not Algorithm 2's.
        planned: the schedule; None if the loop decides it step by step, by the threshold.
    """
    seen, grid = _observed(loops, method, threshold, planned)
    if method.predictor != "reuse":
        fit = loops.predict(seen.cached_steps, method)
        return better_policy(loops, method, budget, fit, threshold=threshold)
    notes = _notes(seen, threshold, retimed=grid is not None)
    return Policy(
        num_inference_steps=loops.setting.num_steps,
        cached_steps=seen.cached_steps,
        method=method,
        time_grid=grid,
        rectification=seen.rectification,
        calibration=record_of(loops, budget, seen.error, (), threshold=threshold, notes=notes),
    )


def _observed(
    loops: ClosedLoops, method: Method, threshold: float | None, planned: Schedule | None
) -> tuple[Observation, tuple[float, ...] | None]:
    """Run Algorithm 2, then fit Eqs. (13)-(14), then Eqs. (15)-(21).

    With timestep adjustment there are two loops: the first one, on the scheduler's grid, runs Algorithm 2 and fits the
    new grid; the second one, on that grid, fits the error model.

    Returns:
        The observation of the last loop, but with the distances of the first one, since Eq. (12) is defined on the
        unadjusted grid; and the adjusted grid, or None.
    """
    classes = [type(model_of(module)).__name__ for module in denoisers_of(loops.pipe).values()]
    axis = channel_axis(classes, len(loops.setting.latent_shape) + 1)

    def decide(step: int, distance: float) -> bool:
        return step in planned if planned is not None else threshold is not None and distance < threshold

    late = method.timestep_adjustment  # then the error model is fitted after it, on the retimed trajectory
    seen = observe(loops, decide, method.level, granularity=None if late else method.rectification, axis=axis)
    if not late or not seen.cached_steps:
        return seen, None
    cached = seen.cached_steps
    grid = tuple(time_grid(step_lengths(loops.setting.num_steps, cached, seen.corrections)))
    retimed = observe(
        loops, lambda step, _: step in cached, method.level, granularity=method.rectification, axis=axis, grid=grid
    )
    return replace(retimed, distances=seen.distances), grid


def _notes(seen: Observation, threshold: float | None, *, retimed: bool) -> Sequence[str]:
    """Make the notes on the schedule for the user."""
    over = [i for i in seen.cached_steps if threshold is not None and seen.distances[i] >= threshold]
    notes = [
        f"step {i} is computed after all: on the adjusted grid the denoiser's calls change there"
        for i in (seen.refused if retimed else ())
    ]
    return [*notes, f"on the cached trajectory the distance exceeds {threshold:.3g} at steps {over}"] if over else notes
