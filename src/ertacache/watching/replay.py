"""Make a call again, from the same noise, with the draft's policy, and compare the two runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ertacache.errors import GuardError
from ertacache.policy import Policy
from ertacache.runtime.call_setting import CallSetting
from ertacache.runtime.call_signature import given_arguments
from ertacache.runtime.policy_driver import PolicyDriver
from ertacache.runtime.policy_for_call import SolveStream, unchanged
from ertacache.runtime.preserving import preserved
from ertacache.runtime.randomness import RandomState
from ertacache.runtime.repeatable_call import Call, gives_latents, twin_of
from ertacache.runtime.run import Run
from ertacache.watching.draft import Draft
from ertacache.watching.draft_report import DraftReport
from ertacache.watching.finished_run import FinishedRun, LatentObserver, drift_watch


class ReplayableCall:
    """A record of a call, taken before it is made, to make it again from the same noise with another policy.

    Args:
        pipe: the pipeline.
        args: the positional arguments of the call.
        kwargs: the keyword arguments of the call; callbacks are left out.
        random: the global random state that the call begins with; by default the current one.
    """

    def __init__(
        self, pipe: Any, args: Sequence[Any], kwargs: Mapping[str, Any], random: RandomState | None = None
    ) -> None:
        bound = given_arguments(pipe, args, kwargs)
        arguments = {name: value for name, value in bound.items() if not name.startswith("callback")}
        latents = {"output_type": "latent"} if gives_latents(pipe) else None
        self._call = Call(arguments, random or RandomState.current(), latents)
        self._setting = CallSetting.of(pipe, args, kwargs)

    def run(self, pipe: Any, policy: Policy, solve_stream: SolveStream | None = None) -> FinishedRun | None:
        """Make the call with a policy, on a copy of the pipeline; the user's objects stay unchanged.

        Args:
            pipe: the pipeline.
            policy: the policy to follow.
            solve_stream: see `ertacache.runtime.policy_for_call.Resolved`.

        Returns:
            The finished run, or None if the policy had to be transferred to the grid of the call.

        Raises:
            PolicyMismatchError: if the policy is for another setting.
        """
        resolved = replace(unchanged(policy, self._setting), solve_stream=solve_stream)
        guard, latents = drift_watch(policy), LatentObserver()
        observers = [latents, *([guard] if guard else [])]
        twin = twin_of(pipe)
        driver = PolicyDriver(resolved, observers=observers)
        with preserved(pipe), self._call.random.lent(), Run(twin, driver, driver.report) as run:
            twin(**self._call.arguments())
        return latents.finished(guard, run.report)


def compare_with_draft(draft: Draft, call: ReplayableCall, pipe: Any, run: FinishedRun) -> DraftReport:
    """Make a call again with the draft's policy, and compare the two runs.

    Args:
        draft: the draft.
        call: the call.
        pipe: the pipeline; left unchanged.
        run: the run of the call.

    Raises:
        GuardError: if the draft's policy had to be transferred to the grid of the call.
        PolicyMismatchError: if the draft's policy is for another setting.
    """
    other = call.run(pipe, draft.policy)
    if other is None:
        raise GuardError(
            "the draft's policy is transferred to the noise levels of this call, so calibration's errors do not apply",
            given=f"policy {draft.policy.fingerprint}",
            cure="Make the draft with ertacache.draft() in the setting of your calls.",
        )
    compared = run.compared_with(other)
    return DraftReport(*compared, draft.mean, draft.deviation, draft.limit, other.denoiser_calls)
