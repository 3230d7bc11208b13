"""Learning from ordinary generations: the first of a setting runs in full, later ones follow what it showed."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from ertacache.learning.full_generation import FullGeneration
from ertacache.learning.learnt import Learnt, LearntFolder
from ertacache.learning.solved import learnt_policy, learnt_stream
from ertacache.method.named_methods import LEARNT
from ertacache.method.prediction import Prediction
from ertacache.output_paths import checked_folder
from ertacache.policy import Policy
from ertacache.runtime import identity
from ertacache.runtime.call_setting import CallSetting
from ertacache.runtime.denoisers import changes_of_expert, loop_modules
from ertacache.runtime.guidance_transfer import strength_of
from ertacache.runtime.instant import sampling_key
from ertacache.runtime.memo import Memo
from ertacache.runtime.pipeline_key import digest_of
from ertacache.runtime.pipeline_settings import configuration_of, refuse_other_caches
from ertacache.runtime.policy_for_call import Resolved, SolveStream, Undecided
from ertacache.runtime.report import Report
from ertacache.runtime.schedulers import check_weights_fit
from ertacache.runtime.step_budget import StepBudget
from ertacache.runtime.unwrap import own_class
from ertacache.value_checks import number, path
from ertacache.watching.finished_run import FinishedRun, LatentObserver
from ertacache.watching.replay import ReplayableCall

_log = logging.getLogger(__name__)
MEMORY_LIMIT = 1 << 30
"""Bytes of outputs that a full generation keeps on its device; more go to a temporary file."""


class Learner:
    """Gives each call the policy that earlier full generations of its setting taught, or has it run in full.

    Args:
        budget: how many steps are computed once a setting is known.
        folder: where what is known is kept, one small file a setting; processes may share it.
        audit: the share of later generations that run in full as well, 0 to 1: they are learnt from, and compared with
            what the policy would have made.
        memory_limit: see `MEMORY_LIMIT`.
        without: the trained pipeline that is left out of the prior, by name, to judge what is learnt.

    Raises:
        ArgumentError: if one is out of range.
        OutputError: if nothing can be written to the folder.
    """

    def __init__(
        self,
        budget: StepBudget,
        folder: Any,
        audit: float = 0.0,
        memory_limit: float = MEMORY_LIMIT,
        without: str | None = None,
    ) -> None:
        self.budget, self.memory_limit, self.without = budget, memory_limit, without
        self.folder = LearntFolder(checked_folder(path("learn", folder)) or Path())
        self.audit = number("audit", audit, at_least=0, at_most=1)
        self._chance = Random()

    def check(self, pipe: Any) -> None:
        """See `ertacache.runtime.policy_source.PolicySource`."""
        refuse_other_caches(pipe, loop_modules(pipe))

    def resolve(self, pipe: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Resolved:
        """See `ertacache.runtime.policy_source.PolicySource`."""
        circumstances = identity.circumstances_of(pipe, args, kwargs)
        setting = CallSetting.of(pipe, args, kwargs)
        parts: list[Any] = [own_class(pipe).__name__, sorted(circumstances.denoisers.items()), circumstances.settings]
        parts += [sorted(circumstances.guidance.items()), own_class(pipe.scheduler).__name__]
        again = ReplayableCall(pipe, args, kwargs) if self.audit else None

        def decide(scheduler: Any, levels: tuple[float, ...], first: int) -> Resolved:
            check_weights_fit(scheduler)
            grid = [[f"{level:.5g}" for level in levels], first, configuration_of(scheduler)]
            key = digest_of([*parts, *grid])
            call = _Call(self, pipe, key, scheduler, levels, first, strength_of(setting.guidance), again)
            resolved = call.resolved()
            return replace(resolved, notes=(*resolved.notes, *circumstances.doubts), setting=setting)

        return Undecided(Policy(1, (), LEARNT), setting=setting, decide=decide)

    def policy(
        self,
        learnt: Learnt,
        scheduler: Any,
        levels: Sequence[float],
        first: int,
        strength: float,
        changes: Sequence[int] = (),
    ) -> Policy:
        """The policy by what is known; solved once in the process for each state of it, in whatever folder it is.

        Args:
            learnt: what is known, just read: another process may have added to it.
            scheduler: that of the call, before its first step; left unchanged.
            levels: the T + 1 noise levels of its grid.
            first: the step that the call begins with.
            strength: the guidance scale.
            changes: the steps of the grid at which another expert takes over.
        """
        computed = self.budget.computed(len(levels) - 1 - first)
        sampling = sampling_key(scheduler, levels, first, changes)
        return _SOLVED.get(
            (digest_of([vars(learnt)]), sampling, strength, computed, self.without),
            lambda: learnt_policy(learnt, scheduler, levels, first, computed, strength, self.without, changes),
        )

    def is_audited(self) -> bool:
        """Whether the coming call is one of the share that runs in full."""
        return self._chance.random() < self.audit


_SOLVED: Memo[Policy] = Memo(32)
"""Kept for the process, as those of `ertacache.runtime.instant`: every block of `accelerated` has a learner anew."""


@dataclass(frozen=True)
class _Call:
    """One call of a setting: it follows the learnt policy, or is learnt from."""

    learner: Learner
    pipe: Any
    key: str
    scheduler: Any
    levels: tuple[float, ...]
    first: int
    strength: float
    again: ReplayableCall | None

    def resolved(self) -> Resolved:
        """How the call goes on."""
        learnt = self.learner.folder.find(self.key)
        steps = len(self.levels) - 1 - self.first
        policy, solve_stream = None, None
        if learnt is not None and len(learnt.gram) == steps:
            changes = changes_of_expert(self.pipe, self.scheduler)
            policy = self.learner.policy(learnt, self.scheduler, self.levels, self.first, self.strength, changes)
            solve_stream = self._streams(learnt, policy)
            if not self.learner.is_audited():
                return Resolved(policy, notes=policy.calibration.notes, solve_stream=solve_stream)
        watch, latents = FullGeneration(steps, self.first, self.learner.memory_limit), LatentObserver()

        def succeeded(report: Report) -> None:
            try:
                self._learn(watch, latents, policy, solve_stream, report)
            finally:
                watch.forget()

        full = Policy(steps, (), LEARNT).shifted(self.first)
        return Resolved(full, observers=(watch, latents), succeeded=succeeded)

    def _streams(self, learnt: Learnt, policy: Policy) -> SolveStream:
        """How the predictions of further latents are made."""

        def solve(number: int, scheduler: Any, levels: Sequence[float], first: int) -> dict[int, Prediction]:
            without = self.learner.without
            return learnt_stream(learnt, number, policy, scheduler, levels, first, self.strength, without)

        return solve

    def _learn(
        self,
        watch: FullGeneration,
        latents: LatentObserver,
        policy: Policy | None,
        solve_stream: SolveStream | None,
        report: Report,
    ) -> None:
        if not watch.whole:
            report.note("nothing was learnt from this generation, since it did not make every step once")
            return
        try:
            gram, *streams = watch.grams()
            more = Learnt(self._setting(watch.steps), gram, samples=watch.samples, streams=tuple(streams))
            if policy is not None:
                audits = self._audit(policy, solve_stream, latents.finished(None, report), report)
                more = replace(more, audits=audits, audited_steps=(len(policy.computed_steps),) * len(audits))
            known = self.learner.folder.add(self.key, more)
        except Exception as error:  # the picture is there, and is not to be lost
            report.note(f"nothing was learnt from this generation: {type(error).__name__}: {error}")
            _log.warning("nothing was learnt", exc_info=True)
            return
        report.note(
            f"this generation ran in full and was learnt from, {known.generations} in all for this setting; later ones "
            f"compute {self.learner.budget.computed(watch.steps)} of {watch.steps} steps"
        )

    def _setting(self, steps: int) -> str:
        scheduler = own_class(self.scheduler).__name__
        return f"{own_class(self.pipe).__name__}, {steps} steps, {scheduler}, guidance {self.strength:g}"

    def _audit(
        self, policy: Policy, solve_stream: SolveStream | None, full: FinishedRun | None, report: Report
    ) -> tuple[float, ...]:
        """How far the policy in force is from this full generation: it is made again, accelerated."""
        again = self.again.run(self.pipe, policy, solve_stream) if self.again else None
        if again is None or full is None:
            return ()
        error = report.audit = again.relative_error(full)
        report.note(f"audited: the policy in force differs from this full run by {error:.4f} of the final latent")
        return (error,)
