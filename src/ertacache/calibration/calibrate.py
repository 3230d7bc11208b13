"""`calibrate`: record the full runs, choose the schedule, fit the predictions of cached steps, report the cost."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from ertacache.calibration.announcement import Workload
from ertacache.calibration.budget import check_prompts, parse_budget
from ertacache.calibration.full_runs import open_session
from ertacache.calibration.options import MEMORY_LIMIT, CalibrationOptions, checked_steps
from ertacache.calibration.plan import Plan
from ertacache.calibration.policy_for_budget import solve
from ertacache.calibration.progress import CalibrationProgress
from ertacache.calibration.prompts import prompts_of
from ertacache.calibration.shard import Workers
from ertacache.calibration.worthwhile import warnings_of
from ertacache.method.named_methods import Method
from ertacache.policy import Policy


def calibrate(
    pipe: Any,
    prompts: Iterable[str | Mapping[str, Any]],
    *,
    num_inference_steps: int,
    speedup: float | None = None,
    num_computed_steps: int | None = None,
    threshold: float | None = None,
    seconds: float | None = None,
    min_psnr: float | None = None,
    min_ssim: float | None = None,
    min_sound: float | None = None,
    method: str | Method = "aligned",
    full_runs: float | None = None,
    seed: int = 0,
    progress: bool = True,
    checkpoint: str | os.PathLike[str] | None = None,
    memory_limit: float = MEMORY_LIMIT,
    workers: Workers | None = None,
    **call_arguments: Any,
) -> Policy:
    """Make a policy for a pipeline from a few prompts, for exactly one budget.

    >>> policy = calibrate(pipe, prompts, num_inference_steps=30, speedup=2, guidance_scale=4.0)  # doctest: +SKIP

    Args:
        pipe: a diffusers pipeline; left as it was found. With workers, a function that loads one, or a model's id or
            folder.
        prompts: texts, or dicts of call arguments (``prompt_embeds``, ``latents``, ``image``, ...). They share size,
            guidance and number of steps. As many are used, from the first one on, as ``full_runs`` pays for; by
            default that is six at 2x. One prompt gives a policy; a guard needs four, a budget of quality twelve.
        num_inference_steps: T, 3 or more; the policy is for this number of steps.
        speedup: budget: the least step ratio (all steps over computed ones), 1 to T/2. It is not a ratio of times.
        num_computed_steps: budget: the most steps that may be computed, 2 to T.
        threshold: budget: the lambda of Algorithm 2, over 0, usually 0.02 to 0.6; for methods with
            ``schedule="offline"``.
        seconds: budget: the most seconds that one whole call may take, on this machine, in these settings, warmed up.
        min_psnr: budget: the least mean PSNR against the full run, in dB, over 0 and under 100.
        min_ssim: budget: the least mean SSIM against the full run, over 0 and under 1.
        min_sound: budget: of clips with sound, the least mean signal-to-error ratio against the full run's sound, in
            dB, over 0 and under 100.
        method: ``"aligned"``, ``"taylor"``, ``"reuse"``, ``"uniform"``, ``"offline"``, ``"offline+time"``,
            ``"paper"``, or a `Method`.
        full_runs: the cost limit of the whole calibration, in full runs' denoiser calls, 1 or more. By default 10, or
            8 for each prompt for a budget of quality. With 1, a policy is made from the recording of one full run
            alone, and its error is not measured; with more, more prompts are used, and then the schedule is searched
            longer. docs/records/cost.md has what each number brings. Methods that do not search use all prompts by
            default.
        seed: prompt k gets a generator seeded ``seed + k``, unless its dict has one; -2^63 to 2^63 - 1.
        progress: show a progress bar, and the cost of calibration.
        checkpoint: a folder in which full runs are kept, but not the search. A later calibration on the same prompts
            and settings, also with another budget or method, then makes none again. The call arguments must not
            contain functions.
        memory_limit: bytes, 2 GiB by default; if all recordings together are larger, they go to temporary files.
        workers: processes that share the prompts, such as ``ertacache.distributed.Processes(8)``. The policy is the
            same to the bit for any number of them.
        **call_arguments: passed to every pipeline call (guidance, size, ...). They must be those of the calls to come:
            calls in another setting are refused, unless the policy can be transferred to it.

    Returns:
        The policy, with the cost and the measurements of calibration in ``policy.calibration``.

    Raises:
        ArgumentError: if an argument has the wrong type, or a value that is not allowed.
        BudgetError: if there is no budget, more than one, or one that cannot be met.
        CalibrationError: if there are no prompts, the denoiser returns NaN, or a worker dies twice.
        MethodError: if there is no such method.
        OutputError: if the checkpoint folder cannot be written to.
        PipelineError: if the pipeline or its scheduler cannot be served, or its call takes no such argument.

    Notes:
        *Quality* is reached by the mean over prompts like these with 95 % confidence, judged on prompts that the fit
        did not use, with as few computed steps as possible. That needs ``pip install 'ertacache[cli]'``, and a pipeline
        that returns pictures or clips.

        *Seconds:* the first prompt's call is timed, decoding included. The plan stays 3 % under the budget. If the
        policy takes longer than the budget, it is made again with fewer steps.

        *Ctrl-C* during the schedule search ends it with the best schedule so far, once there is one, and a note in the
        policy says so. At any other time it ends calibration without a policy (KeyboardInterrupt).

        *Fields of* ``policy.calibration``: ``budget``, ``num_prompts``, ``denoiser_calls``, ``full_runs``, ``error``
        and ``notes`` are always there. ``psnr`` and ``ssim`` are measured for a budget of quality, ``seconds`` for one
        of seconds. ``step_errors`` are not measured for ``offline``, ``offline+time`` and ``paper``. ``threshold`` is
        there if Algorithm 2 chose the schedule. ``taylor_kept`` says whether Taylor's weights replace fitted ones.
        ``notes`` also warn of 10 steps or fewer, and of an error over 0.1.
    """
    num_inference_steps = checked_steps(num_inference_steps)
    chosen = method if isinstance(method, Method) else Method.named(method)
    given = {
        "speedup": speedup,
        "num_computed_steps": num_computed_steps,
        "threshold": threshold,
        "seconds": seconds,
        "min_psnr": min_psnr,
        "min_ssim": min_ssim,
        "min_sound": min_sound,
    }
    budget = parse_budget(num_inference_steps, chosen, given)
    listed = prompts_of(prompts)
    if workers is not None:
        asked = {"num_inference_steps": num_inference_steps, "method": chosen, "full_runs": full_runs, **given}
        kept = {"seed": seed, "progress": progress, "checkpoint": checkpoint, "memory_limit": memory_limit}
        return workers.run(calibrate, pipe, (listed,), {**asked, **kept, **call_arguments})
    options = CalibrationOptions.checked(
        pipe,
        num_inference_steps,
        call_arguments,
        seed=seed,
        progress=progress,
        checkpoint=checkpoint,
        memory_limit=memory_limit,
    )
    check_prompts(budget, len(listed))
    plan = Plan.of(budget, chosen, len(listed), num_inference_steps, full_runs)
    left = len(listed) - plan.num_prompts
    workload = Workload.of(num_inference_steps, chosen, plan.limiting(budget), left)
    with open_session(pipe, listed[: plan.num_prompts], options, workload) as session:
        made = session.loops.setting.num_steps
        if made != num_inference_steps:  # image-to-image makes fewer
            budget = parse_budget(made, chosen, given)
        policy = _warned(session.with_origin(solve(session, chosen, plan.limiting(budget))))
        _say_what_was_made(policy, session.progress)
        return policy


def _warned(policy: Policy) -> Policy:
    record = policy.calibration
    return replace(policy, calibration=replace(record, notes=(*record.notes, *warnings_of(policy))))


def _say_what_was_made(policy: Policy, progress: CalibrationProgress) -> None:
    record = policy.calibration
    error = "not measured" if record.error is None else f"{record.error:.2%} (0 is the full run)"
    progress.say(
        f"{policy.method.name}: {len(policy.computed_steps)} of {policy.num_made_steps} steps computed "
        f"(step ratio {policy.step_ratio:.2f}), relative error of the final latent {error}; {record.denoiser_calls} "
        f"denoiser calls, {record.total_full_runs:.1f} full runs in all"
    )
    for note in record.notes:
        progress.say(f"note: {note}")
