"""From closed loops to a policy: which loop's weights and which loop's errors end up in it.

For the method ``aligned``, on the final schedule:

- The weights are fitted in a loop whose prompts all go on with the weights of all prompts, as runs of the policy do.
- The errors, drifts and pictures' quality are those of prompts that are held out from their own weights. For a budget
  of steps or seconds, and in a profile, they come from the search's loop, in which each prompt goes on with weights
  fitted on the others in that same loop. For a budget of quality they come from a loop in which each prompt goes on
  with what the loop of the weights fitted on the others (`ertacache.calibration.loop_runner.ClosedLoops.judged`).
- For a budget of steps or seconds, a loop by Taylor's weights is compared with the loop of the weights. Where Taylor's
  are nearer to the full runs, both weights and errors are that loop's (`better_policy`).

With fewer prompts than `ertacache.calibration.step_fit.MIN_HELD_OUT` none is held out, and the search's loop gives
weights and errors; budgets of quality and profiles refuse so few. Other predictors fit nothing: one loop gives the
errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import exp
from typing import Any

from ertacache.calibration.budget import Budget
from ertacache.calibration.loop_result import Fit, FittedOn
from ertacache.calibration.loop_runner import ClosedLoops
from ertacache.method.named_methods import Method
from ertacache.policy import CalibrationRecord, Policy


def policy_of(
    loops: ClosedLoops,
    method: Method,
    budget: Budget,
    fit: Fit,
    *,
    threshold: float | None = None,
    notes: Sequence[str] = (),
) -> Policy:
    """The policy with a fit's schedule and weights, whose record has the fit's errors, drifts and quality.

    Args:
        loops: the calibration's.
        method: the policy's.
        budget: what was asked for.
        fit: what it holds.
        threshold: the lambda of Eq. (12), where Algorithm 2 chose the schedule.
        notes: for the record.
    """
    record = record_of(loops, budget, fit.error, fit.step_errors, threshold=threshold, notes=notes)
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


def better_policy(
    loops: ClosedLoops,
    method: Method,
    budget: Budget,
    fit: Fit,
    *,
    threshold: float | None = None,
    notes: Sequence[str] = (),
) -> Policy:
    """As `policy_of`, with the weights that a policy gets: of all prompts, or Taylor's if they are nearer.

    They are compared as the search compares, so that one prompt of a large error does not outvote the rest; but in the
    loop with the weights of all. Held-out prompts' errors add up from step to step, and on 12 prompts Taylor's weights
    seemed better by up to 4 dB where they were 5 dB worse on new prompts (docs/research-log.md).
    """
    if method.predictor != "aligned":
        return policy_of(loops, method, budget, fit, threshold=threshold, notes=notes)
    of_all, by_taylor = fit_of_all(loops, method, fit), loops.predict(fit.cached_steps, method, predictor="taylor")
    keeps_taylor = of_all.score > by_taylor.score
    if keeps_taylor:
        note = (
            "Taylor weights were kept: the geometric mean of their errors over prompts is "
            f"{exp(by_taylor.score):.4g}, of the fitted ones' {exp(of_all.score):.4g}"
        )
        fit, notes = by_taylor, [*notes, note]
    else:
        fit = replace(fit, predictions=of_all.predictions)
    policy = policy_of(loops, method, budget, fit, threshold=threshold, notes=notes)
    return replace(policy, calibration=replace(policy.calibration, taylor_kept=keeps_taylor))


def with_weights_of_all(loops: ClosedLoops, method: Method, fit: Fit) -> Fit:
    """A loop's schedule, errors and quality, with weights fitted on all prompts in a loop of their own.

    The latents of held-out prompts have more error than those of a policy's runs, and weights that are fitted there are
    up to half a decibel worse.
    """
    return replace(fit, predictions=fit_of_all(loops, method, fit).predictions)


def fit_of_all(loops: ClosedLoops, method: Method, fit: Fit) -> Fit:
    """The loop on a fit's schedule in which all prompts go on with the weights of all, as a policy's runs do.

    That is the fit itself where no prompt was held out.
    """
    if method.predictor != "aligned" or not loops.holds_out:
        return fit
    return loops.predict(fit.cached_steps, method, weights=FittedOn.ALL_PROMPTS)


def nothing_cached(loops: ClosedLoops, method: Method, budget: Budget, note: str) -> Policy:
    """The policy that computes every step; ``note`` says why."""
    return Policy(
        num_inference_steps=loops.setting.num_steps,
        cached_steps=(),
        method=method,
        calibration=record_of(loops, budget, 0.0, (), notes=[note]),
    )


def record_of(
    loops: ClosedLoops,
    budget: Budget,
    error: float,
    step_errors: Sequence[float],
    *,
    threshold: float | None = None,
    notes: Sequence[str] = (),
) -> CalibrationRecord:
    """What calibration did and measured so far.

    Args:
        loops: the calibration's.
        budget: what was asked for.
        error: of the final latent, relative to the full run's.
        step_errors: the same after each step, or empty.
        threshold: the lambda of Eq. (12), where Algorithm 2 chose the schedule.
        notes: what the user should know.
    """
    return CalibrationRecord(
        budget=budget.asked,
        num_prompts=len(loops.calls),
        **cost_so_far(loops),
        error=error,
        step_errors=tuple(step_errors),
        threshold=threshold,
        notes=tuple(notes),
    )


def cost_so_far(loops: ClosedLoops) -> dict[str, Any]:
    """What calibration cost so far, as fields of a `CalibrationRecord`."""
    return {"denoiser_calls": loops.denoiser_calls, "full_runs": loops.denoiser_calls / loops.full_run}
