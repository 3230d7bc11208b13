"""A second opinion on a generation: its draft, from the same noise, by a policy of other and mostly fewer steps.

Whether a picture turned bad is hardly told by the errors that cached steps make, even if each were known exactly: it is
told by how the denoiser answers to them, and a single run does not show that (docs/research-log.md). A second run from
the same noise does. It has errors of its own, and where the denoiser makes much of small errors, the two runs part.
"""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from statistics import fmean, stdev
from typing import Any

from torch import Tensor

from ertacache.arguments import instance, normalized, number, text
from ertacache.calibration.calibrate import calibrate
from ertacache.calibration.options import checked
from ertacache.calibration.progress import CalibrationProgress
from ertacache.calibration.prompts import calls_for, prompts_of
from ertacache.errors import CalibrationError, GuardError
from ertacache.files import entries, reading, save
from ertacache.policy import Policy
from ertacache.runtime import identity
from ertacache.runtime.calls import Call, gives_latents, twin_of
from ertacache.runtime.following import PolicyDriver
from ertacache.runtime.guard import DraftReport, Guard, GuardReport, estimated_errors
from ertacache.runtime.preserving import preserved
from ertacache.runtime.randomness import RandomState
from ertacache.runtime.run import Run
from ertacache.runtime.seams import own_class
from ertacache.watching.envelope import MIN_PROMPTS, limit_for_one_more

RATIO = 5
"""The step ratio of a draft's policy, if none is given."""


@dataclass(frozen=True)
class Draft:
    """What the runs of a policy are compared with, and how large calibration's errors are by that comparison.

    Args:
        policy: the draft's.
        of: the fingerprint of the policy whose runs it checks.
        mean: of the logarithm of the error, over calibration's samples; the error is what
            `ertacache.runtime.guard.estimated_errors` makes of `distance_of` and of both runs' drifts.
        deviation: its standard deviation.
        limit: the score over which a sample is farther off than calibration's: what one more sample like those exceeds
            once in twenty times (Student's t).
        full_runs: what making it cost, in full runs' denoiser calls per prompt, with the draft's policy if that was
            calibrated for it.

    Raises:
        GuardError: if these are no numbers that a score can be made of.
    """

    policy: Policy
    of: str
    mean: float
    deviation: float
    limit: float
    full_runs: float

    def __post_init__(self) -> None:
        normalized(
            self,
            _wrong,
            policy=instance(Policy, "the draft's"),
            of=text,
            # The logarithms are those of errors over 1e-12.
            mean=partial(number, at_least=-1000, at_most=1000),
            deviation=partial(number, above=0, at_most=1000),
            limit=partial(number, at_least=-1000, at_most=1000),
            full_runs=partial(number, at_least=0),
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one safetensors file, whole or not at all.

        Raises:
            ArgumentError: if ``path`` is none.
            OutputError: if it cannot be written.
        """
        plain = {f.name: getattr(self, f.name) for f in fields(self)} | {"policy": self.policy.metadata()}
        save(path, "draft", plain, self.policy.tensors())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Draft:
        """Read what `save` wrote.

        Raises:
            ArgumentError: if ``path`` is none.
            FileNotFoundError: if there is no such file.
            PolicyFileError: if it is damaged, was not written by this library, or has another schema.
        """
        with reading(path, "draft") as (content, tensors):
            plain = entries(cls, content, "the draft")
            return cls(**{**plain, "policy": Policy.parsed(plain["policy"], tensors)})


def _wrong(problem: str) -> GuardError:
    return GuardError(
        "this is no draft that a run can be compared with", given=problem, cure="Make it with ertacache.draft()."
    )


def check_draft(draft: Any, policy: Policy) -> None:
    """Raise `GuardError` if it is no draft, or one of another policy's runs."""
    if not isinstance(draft, Draft):
        raise GuardError(
            "this is not a draft",
            given=type(draft).__name__,
            cure="Pass what ertacache.draft() or Draft.load() returned.",
        )
    if policy.fingerprint != draft.of:
        raise GuardError(
            "this draft is of another policy's runs",
            given=f"policy {policy.fingerprint}, and a draft for {draft.of}",
            cure="Make one for this policy with ertacache.draft().",
        )


class Again:
    """A call as it is about to be made, to be made again from the same noise by another policy.

    Args:
        pipe: the pipeline.
        args: the call's.
        kwargs: the call's.
        random: the global random state that it begins with; by default as it is now.
    """

    def __init__(
        self, pipe: Any, args: Sequence[Any], kwargs: Mapping[str, Any], random: RandomState | None = None
    ) -> None:
        signature = inspect.signature(own_class(pipe).__call__)
        given = dict(signature.bind(pipe, *args, **kwargs).arguments)
        for name, parameter in signature.parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                given |= given.pop(name, {})
        del given[next(iter(signature.parameters))]  # self
        arguments = {name: value for name, value in given.items() if not name.startswith("callback")}
        latents = {"output_type": "latent"} if gives_latents(own_class(pipe)) else None
        self._call = Call(arguments, random or RandomState.current(), latents)
        self._guidance = identity.guidance_of(pipe, args, kwargs)
        self._given = identity.Given.to(pipe, args, kwargs)

    def made(self, pipe: Any, policy: Policy) -> Made | None:
        """The same call by this policy; what the user has stays as it is.

        Returns:
            As of `made_by`.

        Raises:
            PolicyMismatchError: if the policy is not for such calls.
        """
        identity.check_guidance(policy, self._guidance, self._given)
        twin, driver = twin_of(pipe), PolicyDriver(policy, guard=watch_of(policy), call=self._given)
        with preserved(pipe), self._call.random.lent(), Run(twin, driver) as run:
            twin(**self._call.arguments())
        return made_by(driver, run)


@dataclass(frozen=True)
class Made:
    """A run that was made.

    Args:
        latent: the final one, (batch, ...).
        drifts: what its computed steps drifted; None if its policy has no envelope.
        denoiser_calls: what it took.
    """

    latent: Tensor
    drifts: GuardReport | None
    denoiser_calls: int

    def compared_with(self, other: Made) -> tuple[Tensor, tuple[GuardReport, GuardReport] | None]:
        """The distances, (batch,), and what both drifted, if both know."""
        both = (self.drifts, other.drifts) if self.drifts and other.drifts else None
        return distance_of(self.latent, other.latent), both


def made_by(driver: PolicyDriver, run: Run) -> Made | None:
    """What a run came to that has ended; None if it made no step, or was transferred to a grid of its own."""
    if driver.latest is None or not driver.as_calibrated:
        return None
    return Made(driver.latest, driver.guard.report if driver.guard else None, run.report.denoiser_calls)


def watch_of(policy: Policy) -> Guard | None:
    """What notes the drifts of a run of this policy, if it has an envelope."""
    return Guard(policy, policy.envelope, "report") if policy.envelope else None


def drafted(draft: Draft, again: Again, pipe: Any, run: Made) -> DraftReport:
    """Make the draft of a call, and say what it tells of the call's run.

    Raises:
        GuardError: if the draft's policy is transferred to the call's grid.
        PolicyMismatchError: if it is not for such calls.
    """
    other = again.made(pipe, draft.policy)
    if other is None:
        raise GuardError(
            "the draft's policy is transferred to the grid of this call",
            given=f"policy {draft.policy.fingerprint}",
            cure="Make the draft in the setting of the calls to come.",
        )
    compared = run.compared_with(other)
    return DraftReport(*compared, draft.mean, draft.deviation, draft.limit, other.denoiser_calls)


def distance_of(one: Tensor, other: Tensor) -> Tensor:
    """The root mean square of the difference, of each sample.

    Args:
        one: (batch, ...), floating.
        other: the same shape.

    Returns:
        (batch,), float32, on the same device; found without waiting for it.
    """
    change: Tensor = (one.float() - other.float()).flatten(1)
    found: Tensor = change.square().mean(dim=1).sqrt()
    return found


def draft(
    pipe: Any,
    policy: Policy,
    prompts: Iterable[str | Mapping[str, Any]],
    *,
    by: Policy | None = None,
    seed: int = 0,
    progress: bool = True,
    checkpoint: str | os.PathLike[str] | None = None,
    memory_limit: float = 2 << 30,
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
        identity.check_policy(p)
    options = checked(
        pipe, call_arguments, seed=seed, progress=progress, checkpoint=checkpoint, memory_limit=memory_limit
    )
    call_arguments = {**call_arguments, "num_inference_steps": policy.num_inference_steps}
    computed, made = len(policy.computed_steps), policy.num_made_steps
    if not policy.cached_steps:
        raise GuardError(
            "there is nothing to check, since this policy caches nothing",
            given=f"{computed} of {made} steps computed",
            cure="Take another policy.",
        )
    if by is not None and by.computed_steps == policy.computed_steps:
        raise GuardError(
            "a draft computes other steps than what it is of",
            given=f"steps {', '.join(map(str, by.computed_steps))} in both",
            cure="Take another policy, or leave `by` out.",
        )
    grids = [(p.num_inference_steps, p.first_step) for p in (policy, by or policy)]
    if grids[0] != grids[1]:
        raise GuardError(
            "a draft is of the same steps as what it is of",
            given="; ".join(f"{steps} steps from step {first} on" for steps, first in grids),
            cure="Take a policy for the same number of steps, or leave `by` out.",
        )
    if len(listed) < MIN_PROMPTS:
        raise CalibrationError(
            "with so few prompts there is no telling what a draft usually tells",
            given=f"{len(listed)} prompts",
            cure=f"Give {MIN_PROMPTS} prompts or more; 16 are usual.",
        )
    full_runs = 0.0
    if by is None:
        by = calibrate(
            pipe,
            listed,
            num_computed_steps=min(max(made // RATIO, 2), computed - 1),
            **options,
            **call_arguments,
        )
        full_runs = by.calibration.full_runs
    for p in (policy, by):
        identity.check_pipeline(p, pipe)
    calls = calls_for(pipe, listed, call_arguments, options["seed"])
    logs: list[float] = []
    with CalibrationProgress(options["progress"]) as shown:
        shown.phase("what drafts usually tell")
        for call in calls:
            again = Again(pipe, (), call.arguments(), call.random)
            run, other = (again.made(pipe, p) for p in (policy, by))
            if run is None or other is None:
                continue
            distances, drifts = run.compared_with(other)
            logs += [math.log(max(error, _TINY)) for error in estimated_errors(distances.tolist(), drifts)]
            calls_made = run.denoiser_calls + other.denoiser_calls
            shown.expect(calls_made * len(calls))
            shown.advance(calls_made)
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
    return Draft(
        policy=by,
        of=policy.fingerprint,
        mean=fmean(logs),
        deviation=max(stdev(logs), _TINY),
        limit=limit_for_one_more(len(logs)),
        full_runs=full_runs + (computed + len(by.computed_steps)) / made,
    )


_TINY = 1e-12
