"""`profile`: calibrate a pipeline once for several step ratios; measure the quality and the time of each policy."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ertacache.calibration.announcement import Workload
from ertacache.calibration.budget import StepsBudget
from ertacache.calibration.by_steps import search_schedule
from ertacache.calibration.full_runs import Session, open_session
from ertacache.calibration.make_policy import policy_of, with_weights_of_all
from ertacache.calibration.options import MEMORY_LIMIT, CalibrationOptions, checked_steps
from ertacache.calibration.profile import Profile
from ertacache.calibration.prompts import prompts_of
from ertacache.calibration.recording import Setting
from ertacache.calibration.shard import Workers, current_shard
from ertacache.calibration.step_fit import MIN_HELD_OUT, holds_out
from ertacache.calibration.timing import timed
from ertacache.errors import BudgetError, CalibrationError, PolicyFileError
from ertacache.method.named_methods import Method
from ertacache.policy import Policy
from ertacache.value_checks import as_error, each, number

FULL_RUNS = 10
"""The cost limit of a profile, in full runs' denoiser calls per prompt."""
RATIOS = (1.2, 1.5, 2.0, 2.5, 3.0, 3.75, 4.25, 5.0)
"""The default step ratios of a profile's policies."""


def profile(
    pipe: Any,
    prompts: Iterable[str | Mapping[str, Any]],
    *,
    num_inference_steps: int,
    ratios: Sequence[float] = RATIOS,
    seed: int = 0,
    progress: bool = True,
    checkpoint: str | os.PathLike[str] | None = None,
    memory_limit: float = MEMORY_LIMIT,
    workers: Workers | None = None,
    **call_arguments: Any,
) -> Profile:
    """Calibrate policies for several step ratios at once, and measure the quality and the time of each.

    >>> policies = profile(pipe, prompts, num_inference_steps=30, checkpoint="runs")  # doctest: +SKIP
    >>> policy = policies.policy(min_psnr=40)  # doctest: +SKIP

    Args:
        pipe: a diffusers pipeline; left as it was found.
        prompts: as `ertacache.calibrate` takes them, twelve or more; the more, the narrower the intervals.
        num_inference_steps: T, 3 or more.
        ratios: the step ratios, each over 1 and at most T/2. If two mean the same number of computed steps, there is
            one policy for both. The default is 1.2, 1.5, 2, 2.5, 3, 3.75, 4.25 and 5.
        seed: prompt k gets a generator seeded ``seed + k``, unless its dict has one.
        progress: show a progress bar.
        checkpoint: a folder in which full runs and finished policies are kept, so that an interrupted profile can be
            continued.
        memory_limit: as for `ertacache.calibrate`.
        workers: as for `ertacache.calibrate`.
        **call_arguments: passed to every pipeline call; they must be those of the calls to come.

    Returns:
        The profile: one policy for each number of computed steps, the largest number first, to choose from by any
        budget.

    Raises:
        ArgumentError: if an argument has the wrong type, or a value that is not allowed.
        BudgetError: if there is no ratio, one that no policy can have, or the metrics are not installed.
        CalibrationError: if there are fewer than twelve prompts, or the denoiser returns NaN.
        OutputError: if the checkpoint folder cannot be written to.
        PipelineError: if the pipeline cannot be served, its call takes no such argument, or it returns no pictures to
            judge.

    Notes:
        The method is ``aligned``. Quality is measured on pictures, each prompt held out from the weights that it uses;
        that needs ``pip install 'ertacache[cli]'``. A profile costs at most ten full runs' denoiser calls per prompt:
        the full runs once, and a small search for each policy. Ctrl-C ends it without a profile (KeyboardInterrupt);
        with ``checkpoint``, the next call continues after the last finished policy.
    """
    num_inference_steps = checked_steps(num_inference_steps)
    if num_inference_steps < 3:
        raise BudgetError(
            "so few steps leave nothing to cache",
            given=f"num_inference_steps={num_inference_steps}",
            cure="Use 3 or more.",
        )
    ratios = as_error(each(number), BudgetError)("ratios", ratios)
    listed = prompts_of(prompts)
    if not holds_out(len(listed)):
        raise CalibrationError(
            "a profile judges quality on prompts that the fit did not use, and there are too few",
            given=f"{len(listed)} prompts",
            cure=f"Give {MIN_HELD_OUT} prompts or more; 16 or 32 make the intervals narrow.",
        )
    if not ratios or not all(ratio > 1 for ratio in ratios):
        raise _no_such_ratios(ratios, num_inference_steps, "Ask for ratios over 1.")
    if workers is not None:
        kept = {"seed": seed, "progress": progress, "checkpoint": checkpoint, "memory_limit": memory_limit}
        asked = {"num_inference_steps": num_inference_steps, "ratios": ratios}
        return workers.run(profile, pipe, (listed,), {**asked, **kept, **call_arguments})
    options = CalibrationOptions.checked(
        pipe,
        num_inference_steps,
        call_arguments,
        seed=seed,
        progress=progress,
        checkpoint=checkpoint,
        memory_limit=memory_limit,
    )
    with open_session(pipe, listed, options, Workload(FULL_RUNS, traced_steps=2 * num_inference_steps)) as session:
        loops, setting = session.loops, session.loops.setting
        counts = _counts(ratios, setting)
        session.progress.phase("timing computed and cached steps")
        costs = current_shard().agreed(lambda: timed(pipe, loops.calls[0].as_given(), setting), "timing")
        loops.denoiser_calls += costs.denoiser_calls
        loops.judge_pictures()
        policies = []
        for position, computed in enumerate(counts):
            session.progress.phase(f"{computed} of {setting.num_steps} steps ({position + 1} of {len(counts)})")
            policy = _policy(session, counts[position:])
            policies.append(replace(policy, calibration=replace(policy.calibration, seconds=costs.seconds(computed))))
        return Profile(tuple(policies))


def _counts(ratios: Sequence[float], setting: Setting) -> list[int]:
    """Turn step ratios into numbers of computed steps, the largest first.

    Raises:
        BudgetError: if a ratio means all steps, or fewer than must be computed.
    """
    least = setting.fewest_computed
    counts = sorted({int(setting.num_steps / ratio + 1e-9) for ratio in ratios}, reverse=True)
    if not least <= counts[-1] or counts[0] >= setting.num_steps:
        cure = f"Ask for ratios over 1 and up to {setting.num_steps / least:g}."
        if least >= setting.num_steps:
            cure = "These calls leave no step to cache: use more steps, or a higher strength."
        raise _no_such_ratios(ratios, setting.num_steps, cure)
    return counts


def _no_such_ratios(ratios: Sequence[float], num_steps: int, cure: str) -> BudgetError:
    given = f"{', '.join(f'{ratio:g}' for ratio in ratios) or 'none'} at {num_steps} steps"
    return BudgetError("no policy can have these ratios of all steps to computed ones", given=given, cure=cure)


def _policy(session: Session, counts: Sequence[int]) -> Policy:
    """Make the policy with the first of these numbers of computed steps, or load it from an interrupted profile.

    Args:
        session: the recorded full runs.
        counts: the computed steps of all policies that are still to be made, the largest first. Each policy gets a
            share of the denoiser calls that are left, in proportion to its number of computed steps.
    """
    loops, method, computed = session.loops, Method.named("aligned"), counts[0]
    path = session.folder and session.folder / f"profile-{'-'.join(map(str, counts))}.safetensors"
    shard = current_shard()

    def kept_earlier() -> Policy | None:
        return kept_policy(path, computed, session.progress.say) if path and path.is_file() else None

    kept = shard.agreed(kept_earlier, "looking for a finished policy")
    if kept:
        loops.denoiser_calls = kept.calibration.denoiser_calls
        return kept
    available = FULL_RUNS * loops.full_run - loops.denoiser_calls
    limit = loops.denoiser_calls + available * computed / sum(counts)
    found = search_schedule(loops, method, computed, limit)
    if found.interrupted:  # one of many searches: the whole profile goes on from its checkpoint another time
        raise KeyboardInterrupt
    fit = with_weights_of_all(loops, method, found.fit)  # a loop more, to judge it, does not fit into the ten full runs
    budget = StepsBudget(asked=f"num_computed_steps={computed}", computed=computed)
    policy = session.with_origin(policy_of(loops, method, budget, fit))
    if path and shard.is_first:
        policy.save(path)
    return policy


def kept_policy(path: Path, computed: int, warn: Callable[[str], None]) -> Policy | None:
    """Load a policy that an interrupted profile kept.

    Args:
        path: the policy's file.
        computed: how many steps the policy must compute.
        warn: called with the reason why the file cannot be used.

    Returns:
        The policy; None if the file is damaged, or its policy is not from such a profile.
    """
    try:
        kept = Policy.load(path)
    except PolicyFileError as error:
        warn(f"{path.name} is made anew: {error.what}")
        return None
    if len(kept.computed_steps) != computed or len(kept.calibration.psnr) < 2:
        warn(f"{path.name} is made anew: it is no policy of a profile that computes {computed} steps")
        return None
    return kept
