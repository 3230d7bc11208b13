"""`draft`: make a second opinion on a policy's generations, and find what it usually says on calibration's prompts."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from ertacache.calibration.calibrate import calibrate
from ertacache.calibration.options import MEMORY_LIMIT, CalibrationOptions
from ertacache.calibration.progress import CalibrationProgress
from ertacache.calibration.prompts import calls_for, prompts_of
from ertacache.errors import CalibrationError, GuardError
from ertacache.policy import Policy
from ertacache.runtime.policy_checks import check_pipeline, check_policy
from ertacache.runtime.repeatable_call import Call
from ertacache.watching.draft import Draft
from ertacache.watching.draft_report import estimated_errors
from ertacache.watching.drift_score import MIN_PROMPTS, limit_for_one_more
from ertacache.watching.replay import ReplayableCall

RATIO = 5
"""The step ratio of a draft's policy, if none is given."""


def draft(
    pipe: Any,
    policy: Policy,
    prompts: Iterable[str | Mapping[str, Any]],
    *,
    by: Policy | None = None,
    seed: int = 0,
    progress: bool = True,
    checkpoint: str | os.PathLike[str] | None = None,
    memory_limit: float = MEMORY_LIMIT,
    **call_arguments: Any,
) -> Draft:
    """Make what `ertacache.accelerated` takes as ``draft=``: it then tells whose pictures to look at.

    Args:
        pipe: the pipeline that the policy is for; left as it was found.
        policy: whose runs are to be checked.
        prompts: those that it was calibrated on, or others like those to come; texts or dicts of call arguments.
        by: a policy for the draft, of other computed steps, such as another one of the same profile; by default one of
            step ratio 5 is calibrated now, on these prompts.
        seed: prompt k gets a generator seeded ``seed + k``, unless its dict brings one.
        progress: show a progress bar.
        checkpoint: as of `ertacache.calibrate`; with that of the policy's calibration, its full runs are used again.
        memory_limit: as of `ertacache.calibrate`.
        **call_arguments: go to every pipeline call; ``num_inference_steps`` is the policy's.

    Returns:
        The draft.

    Raises:
        ArgumentError: if an argument has another type, or a value that it cannot have.
        CalibrationError: with fewer than four prompts, or of which fewer could be compared, or if a run ends with NaN.
        GuardError: if the policy caches nothing, or ``by`` computes the same steps or is for other ones.
        OutputError: if nothing can be written to the checkpoint.
        PipelineError: if ``pipe`` is no pipeline, or its call takes no such argument.
        PolicyMismatchError: if a policy is none, or was made for another model or setting.
    """
    listed = prompts_of(prompts)
    for p in (policy, *([] if by is None else [by])):
        check_policy(p)
    options = CalibrationOptions.checked(
        pipe,
        policy.num_inference_steps,
        call_arguments,
        seed=seed,
        progress=progress,
        checkpoint=checkpoint,
        memory_limit=memory_limit,
    )
    _check_pair(policy, by)
    _check_count(len(listed))
    computed, made, full_runs = len(policy.computed_steps), policy.num_made_steps, 0.0
    if by is None:
        few = min(max(made // RATIO, 2), computed - 1)
        by = calibrate(pipe, listed, num_computed_steps=few, **options.keywords())
        full_runs = by.calibration.full_runs
    for p in (policy, by):
        check_pipeline(p, pipe)
    calls = calls_for(pipe, listed, options.all_call_arguments, options.seed)
    with CalibrationProgress(options.progress) as shown:
        shown.phase("what drafts usually tell")
        logs = _log_errors(pipe, calls, policy, by, shown)
    _check_logs(logs, policy, by)
    return Draft(
        policy=by,
        of=policy.fingerprint,
        mean=fmean(logs),
        deviation=max(stdev(logs), _TINY),
        limit=limit_for_one_more(len(logs)),
        full_runs=full_runs + (computed + len(by.computed_steps)) / made,
    )


def _check_pair(policy: Policy, by: Policy | None) -> None:
    """Raise `GuardError` if one of the two policies cannot check the other."""
    if not policy.cached_steps:
        raise GuardError(
            "there is nothing to check, since this policy caches nothing",
            given=f"{len(policy.computed_steps)} of {policy.num_made_steps} steps computed",
            cure="Take another policy.",
        )
    if by is None:
        return
    if by.computed_steps == policy.computed_steps:
        raise GuardError(
            "a draft computes other steps than what it is of",
            given=f"steps {', '.join(map(str, by.computed_steps))} in both",
            cure="Take another policy, or leave `by` out.",
        )
    grids = [(p.num_inference_steps, p.first_step) for p in (policy, by)]
    if grids[0] != grids[1]:
        raise GuardError(
            "a draft is of the same steps as what it is of",
            given="; ".join(f"{steps} steps from step {first} on" for steps, first in grids),
            cure="Take a policy for the same number of steps, or leave `by` out.",
        )


def _check_count(count: int) -> None:
    if count < MIN_PROMPTS:
        raise CalibrationError(
            "with so few prompts there is no telling what a draft usually tells",
            given=f"{count} prompts",
            cure=f"Give {MIN_PROMPTS} prompts or more; 16 are usual.",
        )


def _log_errors(
    pipe: Any, calls: Sequence[Call], policy: Policy, by: Policy, shown: CalibrationProgress
) -> list[float]:
    """Compute the logarithm of each sample's estimated error; calls whose policy is transferred are left out."""
    logs: list[float] = []
    for call in calls:
        again = ReplayableCall(pipe, (), call.arguments(), call.random)
        run, other = (again.run(pipe, p) for p in (policy, by))
        if run is None or other is None:
            shown.say("note: one prompt was left out, as its noise levels are not the calibrated ones")
            continue
        distances, drifts = run.compared_with(other)
        logs += [math.log(max(error, _TINY)) for error in estimated_errors(distances.tolist(), drifts)]
        calls_made = run.denoiser_calls + other.denoiser_calls
        shown.expect(calls_made * len(calls))
        shown.advance(calls_made)
    return logs


def _check_logs(logs: Sequence[float], policy: Policy, by: Policy) -> None:
    """Raise `CalibrationError` if too few samples could be compared, or an error is not finite."""
    if len(logs) < MIN_PROMPTS:
        raise CalibrationError(
            "too few of these calls go as those did that the policies were calibrated on",
            given=f"{len(logs)} samples that could be compared, policies {policy.fingerprint} and {by.fingerprint}",
            cure="Give the arguments of their calibration.",
        )
    if not all(map(math.isfinite, logs)):
        raise CalibrationError(
            "a run or its draft ends with NaN",
            given=f"policy {policy.fingerprint}",
            cure="See whether the pipeline itself gives numbers on these prompts, in this precision.",
        )


_TINY = 1e-12
