"""`calibrate`: record the full runs, choose the schedule, fit what stands in for the denoiser, say what it cost."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from ertacache.calibration.budget import Budget, StepsBudget, check_prompts, parse_budget
from ertacache.calibration.full_runs import Workload, open_session
from ertacache.calibration.options import MEMORY_LIMIT, CalibrationOptions, checked_steps
from ertacache.calibration.policy_for_budget import solve
from ertacache.calibration.progress import CalibrationProgress
from ertacache.calibration.prompts import prompts_of
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
    method: str | Method = "aligned",
    full_runs: float | None = None,
    seed: int = 0,
    progress: bool = True,
    checkpoint: str | os.PathLike[str] | None = None,
    memory_limit: float = MEMORY_LIMIT,
    **call_arguments: Any,
) -> Policy:
    """Make a policy for a pipeline from a few prompts, for exactly one budget.

    Args:
        pipe: a diffusers pipeline; left as it was found.
        prompts: texts, or dicts of call arguments (``prompt_embeds``, ``latents``, ``image``, ...).
        num_inference_steps: T, three or more; the policy holds for this number of steps.
        speedup: budget: the least step ratio.
        num_computed_steps: budget: the most steps that may be computed.
        threshold: budget: the lambda of Algorithm 2, for methods with ``schedule="offline"``.
        seconds: budget: the most that one whole call may take, on this machine, in these settings, warmed up.
        min_psnr: budget: what the PSNR against the full run, in dB, must reach in the mean over prompts like these,
            with 95 % confidence, judged on prompts that the fit did not use; met with as few computed steps as do.
        min_ssim: budget: the same of SSIM.
        method: a name of `ertacache.method.named_methods.NAMED_METHODS`, or a `Method`.
        full_runs: what calibration may cost, in full runs' denoiser calls per prompt: by default 5, or 8 for a budget
            of quality. With more of them the schedule is searched longer. An interrupt (Ctrl-C) ends the search with
            the best schedule so far. Methods that do not search take what they need, at most 3.
        seed: prompt k gets a generator seeded ``seed + k``, unless its dict brings one.
        progress: show a progress bar and what calibration costs.
        checkpoint: a folder in which full runs are kept, so that an interrupted calibration goes on from there,
            and another budget or method starts from there. No function may be among the call arguments then.
        memory_limit: bytes; above it, recordings go to files.
        **call_arguments: go to every pipeline call.

    Returns:
        The policy, with what calibration cost and measured in ``policy.calibration``.

    Raises:
        ArgumentError: if an argument has another type, or a value that it cannot have.
        BudgetError: on no budget, several, or one that cannot be met.
        CalibrationError: without prompts, or when the denoiser returns NaN.
        MethodError: on an unknown method.
        OutputError: if nothing can be written to the checkpoint.
        PipelineError: if the pipeline or its scheduler cannot be served, or its call takes no such argument.
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
    }
    budget = parse_budget(num_inference_steps, chosen, given, full_runs)
    options = CalibrationOptions.checked(
        pipe,
        num_inference_steps,
        call_arguments,
        seed=seed,
        progress=progress,
        checkpoint=checkpoint,
        memory_limit=memory_limit,
    )
    listed = prompts_of(prompts)
    check_prompts(budget, len(listed))
    with open_session(pipe, listed, options, _workload(num_inference_steps, chosen, budget)) as session:
        made = session.loops.setting.num_steps
        if made != num_inference_steps:  # image-to-image makes fewer
            budget = parse_budget(made, chosen, given, full_runs)
        policy = session.with_origin(solve(session, chosen, budget))
        _say_what_was_made(policy, session.progress)
        return policy


def _workload(num_inference_steps: int, method: Method, budget: Budget) -> Workload:
    """Make the workload of a calibration; a search keeps the traces of two loops at a time."""
    hidden = method.level == "hidden"
    computed = budget.computed if isinstance(budget, StepsBudget) else num_inference_steps
    traced = 2 * computed if method.schedule == "search" and not hidden else 0
    return Workload(budget.full_runs, traced, hidden)


def _say_what_was_made(policy: Policy, progress: CalibrationProgress) -> None:
    record = policy.calibration
    progress.say(
        f"{policy.method.name}: {len(policy.computed_steps)} of {policy.num_made_steps} steps computed "
        f"(step ratio {policy.step_ratio:.2f}), error of the final latent {record.error:.4f}; "
        f"{record.denoiser_calls} denoiser calls, {record.full_runs:.2f} full runs per prompt"
    )
    for note in record.notes:
        progress.say(f"note: {note}")
