"""A call that can be made again, from the same noise, by another policy."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from ertacache.errors import GuardError
from ertacache.policy import Policy
from ertacache.runtime.call_setting import CallSetting
from ertacache.runtime.calls import Call, gives_latents, twin_of
from ertacache.runtime.policy_checks import check_guidance
from ertacache.runtime.policy_driver import PolicyDriver
from ertacache.runtime.preserving import preserved
from ertacache.runtime.randomness import RandomState
from ertacache.runtime.resolve import Resolved
from ertacache.runtime.run import Run
from ertacache.runtime.unwrap import own_class
from ertacache.watching.draft import Draft
from ertacache.watching.draft_report import DraftReport
from ertacache.watching.finished_run import FinishedRun, LatentObserver, drift_watch


class ReplayableCall:
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
        self._setting = CallSetting.of(pipe, args, kwargs)

    def run(self, pipe: Any, policy: Policy) -> FinishedRun | None:
        """Make the call by this policy; what the user has stays as it is.

        Returns:
            What it came to; None if the policy was transferred to the grid of the call.

        Raises:
            PolicyMismatchError: if the policy is not for such calls.
        """
        check_guidance(policy, self._setting)
        guard, latents = drift_watch(policy), LatentObserver()
        observers = [latents, *([guard] if guard else [])]
        twin = twin_of(pipe)
        driver = PolicyDriver(Resolved(policy, setting=self._setting), observers=observers)
        with preserved(pipe), self._call.random.lent(), Run(twin, driver, driver.report) as run:
            twin(**self._call.arguments())
        return latents.finished(guard, run.report)


def drafted(draft: Draft, call: ReplayableCall, pipe: Any, run: FinishedRun) -> DraftReport:
    """Make the draft of a call, and say what it tells of the call's run.

    Args:
        draft: the draft.
        call: the call.
        pipe: the pipeline; left as it was found.
        run: what the call came to.

    Raises:
        GuardError: if the draft's policy is transferred to the call's grid.
        PolicyMismatchError: if it is not for such calls.
    """
    other = call.run(pipe, draft.policy)
    if other is None:
        raise GuardError(
            "the draft's policy is transferred to the grid of this call",
            given=f"policy {draft.policy.fingerprint}",
            cure="Make the draft in the setting of the calls to come.",
        )
    compared = run.compared_with(other)
    return DraftReport(*compared, draft.mean, draft.deviation, draft.limit, other.denoiser_calls)
