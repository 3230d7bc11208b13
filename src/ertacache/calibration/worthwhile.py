"""What the result of a calibration should warn of: too few steps to skip any, and a large error."""

from __future__ import annotations

from ertacache.method.worthwhile import FEW_STEPS, LARGE_ERROR
from ertacache.policy import Policy


def warnings_of(policy: Policy) -> list[str]:
    """Notes for the record of a policy that may not be worth using; usually none.

    Args:
        policy: as calibration has just made it.
    """
    made, error = policy.num_made_steps, policy.calibration.error
    found = []
    if policy.cached_steps and made <= FEW_STEPS:
        found.append(
            f"a run of {made} steps leaves little to skip, since each of them changes the picture much; policies are "
            "worth more from about 20 steps on"
        )
    if error is not None and error > LARGE_ERROR:
        found.append(
            f"the final latents are {error:.0%} from those of the full runs, so expect pictures that differ visibly; "
            "compute more steps, and compare with as many plain steps (ertacache evaluate)"
        )
    return found
