"""From closed loops to a policy: which loop provides its weights, and which loop its errors.

For the method ``aligned``, on the final schedule:

- *Weights* are fitted in a loop in which all prompts use the weights fitted on all prompts, as a policy's runs do.
- *Errors, drifts and quality* are measured on held-out prompts: no prompt uses weights that were fitted on it.
  For a budget of steps or seconds, and in a profile, they come from the search's loop: each prompt uses weights that
  the same loop fits on the other prompts. For quality budgets they come from an extra loop: each prompt uses the
  leave-one-out weights that the weight-fitting loop computed without it
  (`ertacache.calibration.loop_runner.ClosedLoops.judged`).
- *Taylor's weights:* for a budget of steps or seconds, one more loop uses them. If it ends nearer to the full runs
  than the weight-fitting loop, the policy gets weights and errors from it (`better_policy`).

With fewer prompts than `ertacache.calibration.step_fit.MIN_HELD_OUT` none is held out, and the search's loop provides
weights and errors; budgets of quality and profiles refuse so few prompts. Other predictors fit nothing: one loop
provides the errors.
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
    """Make a policy from a fit: its schedule and weights, with its errors, drifts and quality in the record.

    Args:
        loops: the loops of the calibration.
        method: the method of the policy.
        budget: the budget that was asked for.
        fit: the fit.
        threshold: the lambda of Eq. (12), if Algorithm 2 chose the schedule.
        notes: notes for the record.
    """
    if fit.of_each:
        each = ", ".join(f"{error:.4g}" for error in fit.of_each)
        notes = [
            *notes,
            f"error of each latent that the loop steps, such as clip and sound: {each}; the largest counts",
        ]
    record = record_of(loops, budget, fit.error, fit.step_errors, threshold=threshold, notes=notes)
    if fit.quality:
        record = replace(record, psnr=fit.quality.psnr, ssim=fit.quality.ssim, sound=fit.quality.sound)
    return Policy(
        num_inference_steps=loops.setting.num_steps,
        cached_steps=fit.cached_steps,
        method=method,
        predictions=fit.predictions if method.predictor == "aligned" else {},
        streams=tuple(other.predictions if method.predictor == "aligned" else {} for other in fit.others),
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
    limit: float | None = None,
    notes: Sequence[str] = (),
) -> Policy:
    """As `policy_of`, but with weights fitted on all prompts, or Taylor's weights if these end nearer to the full runs.

    The two are compared by the mean logarithm of the final errors, as in the search, so that one prompt with a large
    error does not outvote the rest. The fitted weights are compared by the loop in which all prompts use them, not by
    that of held-out prompts, whose errors add up from step to step: judged by that on 12 prompts, Taylor's weights
    seemed better by up to 4 dB where they were 5 dB worse on new prompts (docs/records/research-log.md). Where the loop
    with Taylor's weights would take ``loops.denoiser_calls`` above ``limit``, it is left out.
    """
    if method.predictor != "aligned":
        return policy_of(loops, method, budget, fit, threshold=threshold, notes=notes)
    of_all, by_taylor = fit_of_all(loops, method, fit), None
    if limit is None or loops.can_afford(loops.setting.num_steps - len(fit.cached_steps), limit):
        by_taylor = loops.predict(fit.cached_steps, method, predictor="taylor")
    if by_taylor is not None and of_all.score > by_taylor.score:
        note = (
            "plain extrapolation (Taylor's weights) is used, since the fitted weights were worse on these prompts "
            f"(error {exp(of_all.score):.4g} against {exp(by_taylor.score):.4g}); such a policy is not transferred to "
            "other settings, and more prompts may help"
        )
        fit, notes = by_taylor, [*notes, note]
    else:
        fit = fit.with_predictions_of(of_all)
    policy = policy_of(loops, method, budget, fit, threshold=threshold, notes=notes)
    return replace(policy, calibration=replace(policy.calibration, taylor_kept=fit is by_taylor))


def with_weights_of_all(loops: ClosedLoops, method: Method, fit: Fit) -> Fit:
    """Replace the weights of a fit by those fitted on all prompts, in a loop of their own; keep its errors and quality.

    The latents of held-out prompts have more error than those of a policy's runs, and weights that are fitted on them
    are up to half a decibel worse.
    """
    return fit.with_predictions_of(fit_of_all(loops, method, fit))


def fit_of_all(loops: ClosedLoops, method: Method, fit: Fit) -> Fit:
    """Run the loop on a fit's schedule in which all prompts use the weights fitted on all, as a policy's runs do.

    If no prompt was held out, the fit itself is that loop's, and is returned.
    """
    if method.predictor != "aligned" or not loops.holds_out:
        return fit
    return loops.predict(fit.cached_steps, method, weights=FittedOn.ALL_PROMPTS)


def nothing_cached(loops: ClosedLoops, method: Method, budget: Budget, note: str) -> Policy:
    """Make a policy that computes every step; ``note`` says why."""
    return Policy(
        num_inference_steps=loops.setting.num_steps,
        cached_steps=(),
        method=method,
        calibration=record_of(loops, budget, 0.0, (), notes=[note]),
    )


def record_of(
    loops: ClosedLoops,
    budget: Budget,
    error: float | None,
    step_errors: Sequence[float],
    *,
    threshold: float | None = None,
    notes: Sequence[str] = (),
) -> CalibrationRecord:
    """Make the record of what calibration did and measured so far.

    Args:
        loops: the loops of the calibration.
        budget: the budget that was asked for.
        error: the error of the final latent, relative to the full run's; None if it was not measured.
        step_errors: the same after each step, or empty.
        threshold: the lambda of Eq. (12), if Algorithm 2 chose the schedule.
        notes: what the user should know.
    """
    return CalibrationRecord(
        budget=budget.asked,
        num_prompts=loops.num_prompts,
        **cost_so_far(loops),
        error=error,
        step_errors=tuple(step_errors),
        threshold=threshold,
        notes=tuple(notes),
    )


def cost_so_far(loops: ClosedLoops) -> dict[str, Any]:
    """Return the cost of calibration so far, as fields of a `CalibrationRecord`."""
    return {"denoiser_calls": loops.denoiser_calls, "full_runs": loops.denoiser_calls / loops.full_run}
