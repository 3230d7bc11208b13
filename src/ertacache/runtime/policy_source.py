"""Where the policy of a call comes from: a policy that the user gave, or one that is made in the call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ertacache.policy import Policy
from ertacache.runtime.policy_checks import check_pipeline, check_policy
from ertacache.runtime.policy_for_call import Resolved, resolve


class PolicySource(Protocol):
    """Gives each call of a pipeline a policy."""

    def check(self, pipe: Any) -> None:
        """Check what can be checked before the first call.

        Raises:
            PipelineError: if another cache is on, or there is no denoiser.
            PolicyMismatchError: if there can be no policy for this pipeline.
        """

    def resolve(self, pipe: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Resolved:
        """Decide how a call follows a policy, as far as this is known before the scheduler sets its timesteps."""


class GivenPolicy:
    """A policy that the user gave.

    Args:
        policy: the policy.

    Raises:
        PolicyMismatchError: if it is no policy.
    """

    def __init__(self, policy: Policy) -> None:
        check_policy(policy)
        self.policy = policy

    def check(self, pipe: Any) -> None:
        """See `PolicySource`."""
        check_pipeline(self.policy, pipe)

    def resolve(self, pipe: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Resolved:
        """See `PolicySource`."""
        return resolve(self.policy, pipe, args, kwargs)
