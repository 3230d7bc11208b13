"""`doctor`: look at a pipeline, without a call or with a short one, and say what the library can do for it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ertacache import value_checks
from ertacache.accelerate import accelerated
from ertacache.calibration.options import checked_steps
from ertacache.diagnosis.advice import findings_of
from ertacache.diagnosis.denoiser_facts import denoiser_facts
from ertacache.diagnosis.estimate import estimate_of, made_of
from ertacache.diagnosis.facts import Finding, LevelFacts, PolicyFit, Refusal, refusal_of
from ertacache.diagnosis.result import Diagnosis
from ertacache.diagnosis.scheduler_facts import scheduler_facts
from ertacache.diagnosis.trial import Trial, call_of, try_out
from ertacache.diagnosis.ways import levels_of, refusal_of_pipeline, ways_of
from ertacache.diagnosis.wording import numbers
from ertacache.errors import ArgumentError, ERTACacheError, PipelineError, RunError
from ertacache.memory_errors import full_memory
from ertacache.policy import Policy
from ertacache.runtime.begun_call import begun
from ertacache.runtime.call_setting import guidance_of, to_name
from ertacache.runtime.call_signature import CallSignature, check_call_arguments
from ertacache.runtime.denoisers import denoisers_of
from ertacache.runtime.environment import environment_of
from ertacache.runtime.policy_checks import check_output_shape, check_pipeline, check_policy
from ertacache.runtime.policy_source import GivenPolicy
from ertacache.runtime.unwrap import own_class


def doctor(
    pipe: Any,
    policy: Policy | None = None,
    *,
    time: bool = False,
    num_inference_steps: int | None = None,
    **call_arguments: Any,
) -> Diagnosis:
    """Say whether a pipeline is served, by what, and what it costs; takes seconds, and leaves the pipeline as it was.

    >>> print(doctor(pipe))  # doctest: +SKIP
    Served (by all that shows without a call). 2x at once: ertacache.accelerated(pipe, speedup=2.0)
    ...

    Refusals are the errors that `ertacache.accelerated` and `ertacache.calibrate` would raise. Some show in a call
    only; with ``time=True`` a short one is made.

    Args:
        pipe: a diffusers pipeline, accelerated or not.
        policy: a policy; whether it fits is said too. A call is begun for that, which ends when its noise levels are
            set, or with ``time=True`` after its first step.
        time: also make calls of four steps: one is recorded as calibration does, one is timed with its third step
            cached (and again if that took less than ten seconds), and one ends after a step at level ``hidden``. They
            show what else is refused, and what full runs, a step ratio of 2 and a calibration take on this machine.
        num_inference_steps: T of the calls to come, 1 or more; by default the policy's, or else the pipeline's own.
        **call_arguments: those of the calls to come (size, guidance, a prompt, a picture, ...). A pipeline that takes a
            prompt gets one if none is given.

    Returns:
        The diagnosis; prints as a summary, the conclusion first.

    Raises:
        ArgumentError: if an argument is wrong, or a trial needs a number of steps and the pipeline has none.
        CalibrationError: if the arguments of a call that is made or begun do not go together, or it makes no step.
        PipelineError: if this is no pipeline, or its call takes no such argument.
        PolicyMismatchError: if ``policy`` is no policy.
    """
    value_checks.pipeline(pipe)
    time = value_checks.flag("time", time)
    check_call_arguments(pipe, call_arguments)
    if policy is not None:
        check_policy(policy)
    steps = _steps(pipe, num_inference_steps, policy)
    plain = copy.copy(pipe)  # what is checked below is the pipeline without an acceleration that may be on
    plain.__class__ = own_class(pipe)
    static = _seen_without_a_call(plain, steps, call_arguments, enabled=type(pipe) is not type(plain))
    if policy is not None and static.refusal is None:
        static = replace(static, policy=_fit(plain, policy, steps, call_arguments, with_first_step=time))
    if not time or static.refusal is not None:
        return static
    if steps is None:
        raise ArgumentError(
            "a trial needs the number of steps, and the pipeline has none of its own",
            given="num_inference_steps=None",
            cure="Pass num_inference_steps=30, say.",
        )
    try:
        trial = try_out(plain, call_arguments, steps)
    except (PipelineError, RunError) as error:
        return _refused(static, Refusal.of(error))
    return _with_trial(static, trial, steps)


def _steps(pipe: Any, given: Any, policy: Policy | None) -> int | None:
    """T of the calls to come: as given, the policy's, or the pipeline's own; None if that is not known."""
    if given is None and policy is not None:
        return policy.asked_steps
    own = CallSignature.of(pipe).defaults.get("num_inference_steps") if given is None else given
    return checked_steps(own) if given is not None or isinstance(own, int) else None


def _seen_without_a_call(
    pipe: Any, steps: int | None, call_arguments: Mapping[str, Any], *, enabled: bool
) -> Diagnosis:
    """All that shows without a call."""
    scheduler = scheduler_facts(pipe)
    refusal = refusal_of_pipeline(pipe) or scheduler.refusal
    denoisers = denoiser_facts(pipe) if refusal_of(lambda: denoisers_of(pipe)) is None else ()
    return Diagnosis(
        own_class(pipe).__name__,
        str(environment_of(pipe)["device"]),
        refusal,
        ways_of(pipe, refusal, steps),
        levels_of(pipe, refusal),
        scheduler,
        denoisers,
        guidance_of(pipe, (), call_arguments),
        findings_of(pipe, scheduler, denoisers, steps, enabled=enabled),
    )


def _fit(
    pipe: Any, policy: Policy, steps: int | None, call_arguments: Mapping[str, Any], *, with_first_step: bool
) -> PolicyFit:
    """Whether a policy fits a pipeline, and a call with these arguments: that is begun, and answers itself."""

    def check() -> None:
        with accelerated(pipe, policy):
            pass

    origin = policy.origin
    made_for = f"for {origin.pipeline_class}, {numbers(to_name(origin.guidance))}" if origin else "made by hand"
    computed = f"{len(policy.computed_steps)} of {policy.num_made_steps} steps computed"
    fit = PolicyFit(f"{policy.method.name}, {computed}, {made_for}", refusal_of(check))
    if fit.refusal is not None:
        return fit
    arguments = call_of(pipe, call_arguments, steps or policy.asked_steps).arguments()
    fit = replace(fit, notes=tuple(check_pipeline(policy, pipe)))
    try:
        call = begun(pipe, GivenPolicy(policy), arguments, with_first_step=with_first_step)
    except ERTACacheError as error:
        return replace(fit, call=Refusal.of(error))
    except Exception as error:  # a pipeline raises anything over arguments that it misses
        if full_memory(error):
            raise
        return replace(fit, unseen=f"{type(error).__name__}: {error}")
    return replace(fit, notes=tuple(call.report.notes))


def _refused(static: Diagnosis, refusal: Refusal) -> Diagnosis:
    """The diagnosis of a pipeline whose trial was refused."""
    ways = tuple(replace(way, refusal=refusal) for way in static.ways)
    return replace(
        static,
        refusal=refusal,
        ways=ways,
        levels=tuple(LevelFacts(level.name, refusal, True) for level in static.levels),
    )


def _with_trial(static: Diagnosis, trial: Trial, steps: int) -> Diagnosis:
    """Add what a trial has shown."""
    calibrates = {"calibrate": trial.calibration}
    ways = tuple(replace(way, refusal=way.refusal or calibrates.get(way.name)) for way in static.ways)
    estimate, made = estimate_of(trial, steps), made_of(trial, steps)
    few = Finding(
        f"the call makes {made} step{'s' * (made != 1)}, too few to estimate what a step ratio of 2 saves",
        "Ask for more steps, or a larger strength of image-to-image.",
    )
    several = len(trial.samples) > 1  # policies of several latents are not transferred
    return replace(
        static,
        ways=ways,
        scheduler=replace(static.scheduler, transfers=False) if several else static.scheduler,
        levels=tuple(_tried(level, trial) for level in static.levels),
        findings=static.findings if estimate else (*static.findings, few),
        estimate=estimate,
    )


def _tried(level: LevelFacts, trial: Trial) -> LevelFacts:
    """Add what a trial has shown of a level."""
    sample, output = trial.samples[0]
    refusals = {"hidden": trial.hidden, "output": refusal_of(lambda: check_output_shape(sample.shape, output.shape))}
    return replace(level, refusal=level.refusal or refusals.get(level.name), tried=True)
