"""`draft`: make a check of a policy's generations by second runs, and measure its usual results on some prompts."""

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
from ertacache.calibration.shard import Workers, current_shard, own_numbers
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
    workers: Workers | None = None,
    **call_arguments: Any,
) -> Draft:
    """Make a check of a policy's generations: a second run of each call that flags pictures which may be bad.

    >>> check = draft(pipe, policy, prompts, checkpoint="runs")  # doctest: +SKIP
    >>> with accelerated(pipe, policy, draft=check) as run:  # doctest: +SKIP
    ...     image = pipe("a red star", num_inference_steps=30).images[0]
    >>> run.report.draft.left, run.report.draft.scores, run.report.draft.errors  # doctest: +SKIP

    Args:
        pipe: the pipeline that the policy is for; left as it was found.
        policy: the policy whose runs are to be checked.
        prompts: the prompts of its calibration, or others like those to come; texts or dicts of call arguments. Four
            or more; 16 are usual.
        by: the policy of the second runs: for the same number of steps, with other computed steps, such as another one
            of the same profile. By default one of step ratio 5 is calibrated now, on these prompts.
        seed: prompt k gets a generator seeded ``seed + k``, unless its dict has one.
        progress: show a progress bar.
        checkpoint: as for `ertacache.calibrate`; with the folder of the policy's calibration, its full runs are reused.
        memory_limit: as for `ertacache.calibrate`.
        workers: as for `ertacache.calibrate`.
        **call_arguments: passed to every pipeline call, those of the policy's calibration; ``num_inference_steps`` is
            the policy's.

    Returns:
        The draft, for ``draft=`` of `ertacache.enable` and `ertacache.accelerated`. Each call's ``report.draft`` then
        has, for each sample, ``left``: whether it seems farther from the full run than these prompts do; ``scores``:
        how far, in standard deviations; and ``errors``: its estimated distance to the full run.

    Raises:
        ArgumentError: if an argument has the wrong type, or a value that is not allowed.
        CalibrationError: if there are fewer than four prompts, or fewer than four samples whose calls follow both
            policies as calibrated; or if a run ends with NaN.
        GuardError: if the policy caches nothing; if it computes only two steps and ``by`` is not given; or if ``by``
            computes the same steps or is for another number of steps.
        OutputError: if the checkpoint folder cannot be written to.
        PipelineError: if ``pipe`` is not a pipeline, or its call takes no such argument.
        PolicyMismatchError: if a policy is not one, or was made for another model or setting.

    Notes:
        Making a draft costs the calibration of its policy (unless ``by`` is given), and one run of each policy for each
        prompt. Using it costs the computed steps of the draft's policy in every call.
    """
    listed = prompts_of(prompts)
    for p in (policy, *([] if by is None else [by])):
        check_policy(p)
    if workers is not None:
        kept = {"seed": seed, "progress": progress, "checkpoint": checkpoint, "memory_limit": memory_limit}
        return workers.run(draft, pipe, (policy, listed), {"by": by, **kept, **call_arguments})
    options = CalibrationOptions.checked(
        pipe,
        policy.asked_steps,
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
        full_runs = by.calibration.total_full_runs / len(listed)
    for p in (policy, by):
        check_pipeline(p, pipe)
    calls = calls_for(pipe, listed, options.all_call_arguments, options.seed)
    shard = current_shard()
    with shard.progress(options.progress) as shown:
        shown.phase("what drafts usually tell")
        own = [_log_errors(pipe, calls[k], policy, by, shown, len(calls)) for k in own_numbers(shard, len(calls))]
        logs = [log for of_prompt in shard.gather(own, "drafts") for log in of_prompt]
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
        if len(policy.computed_steps) <= 2:
            raise GuardError(
                "no draft can compute fewer steps than this policy",
                given=f"{len(policy.computed_steps)} computed steps",
                cure="Pass by= with a policy of more steps.",
            )
        return
    if by.computed_steps == policy.computed_steps:
        raise GuardError(
            "`by` must be another policy than `policy`: both compute the same steps",
            given=f"steps {', '.join(map(str, by.computed_steps))} in both",
            cure="Pass another one, or leave `by` out.",
        )
    grids = [(p.num_inference_steps, p.first_step) for p in (policy, by)]
    if grids[0] != grids[1]:
        raise GuardError(
            "`by` must be for the same num_inference_steps (and strength) as `policy`",
            given="; ".join(f"{steps} steps from step {first} on" for steps, first in grids),
            cure="Pass a policy for these, or leave `by` out.",
        )


def _check_count(count: int) -> None:
    if count < MIN_PROMPTS:
        raise CalibrationError(
            f"a draft needs at least {MIN_PROMPTS} prompts",
            given=f"{count} prompts",
            cure=f"Give {MIN_PROMPTS} prompts or more; 16 are usual.",
        )


def _log_errors(
    pipe: Any, call: Call, policy: Policy, by: Policy, shown: CalibrationProgress, num_prompts: int
) -> list[float]:
    """Compute the logarithm of each sample's estimated error; none if a policy would be transferred to this call."""
    again = ReplayableCall(pipe, (), call.arguments(), call.random)
    run, other = (again.run(pipe, p) for p in (policy, by))
    if run is None or other is None:
        shown.say("note: one prompt was left out, as its noise levels are not the calibrated ones")
        return []
    distances, drifts = run.compared_with(other)
    shown.expect((run.denoiser_calls + other.denoiser_calls) * num_prompts)
    shown.advance(run.denoiser_calls + other.denoiser_calls)
    return [math.log(max(error, _TINY)) for error in estimated_errors(distances.tolist(), drifts)]


def _check_logs(logs: Sequence[float], policy: Policy, by: Policy) -> None:
    """Raise `CalibrationError` if too few samples could be compared, or an error is not finite."""
    if len(logs) < MIN_PROMPTS:
        raise CalibrationError(
            "too few samples could be compared: the calls' number of steps, size or noise levels differ from "
            "calibration",
            given=f"{len(logs)} samples, policies {policy.fingerprint} and {by.fingerprint}",
            cure="Pass the same call arguments as to calibrate().",
        )
    if not all(map(math.isfinite, logs)):
        raise CalibrationError(
            "the pipeline returned NaN with one of the two policies",
            given=f"policies {policy.fingerprint} and {by.fingerprint}",
            cure="Check the dtype (float16?) and the prompts without ertacache.",
        )


_TINY = 1e-12
