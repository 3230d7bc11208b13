"""What more full runs would bring, as measured on the small pipelines of this project: docs/cost.md."""

from __future__ import annotations

MOST = 80
"""The full runs of the most expensive calibration that was measured."""
WORTH: dict[float, dict[int, float]] = {
    1.5: {1: 3.04, 2: 1.89, 4: 1.94, 10: 1.41, 20: 2.1, 40: 1.85},
    2.0: {1: 4.82, 2: 3.09, 4: 0.83, 10: -0.59, 20: -1.17, 40: -1.02},
    3.0: {1: 1.33, 2: -0.82, 4: 0.58, 10: -0.17, 20: -0.05, 40: 0.0},
    4.0: {1: 2.27, 2: -1.02, 4: -0.1, 10: -0.14, 20: 0.05, 40: 0.03},
}
"""By step ratio and full runs: the PSNR in dB that `MOST` bring over these, the mean of the trained pipelines."""


def worth_of_more(step_ratio: float, full_runs: float) -> str:
    """Say what more full runs would bring; nothing where it is nothing, or was not measured.

    Args:
        step_ratio: of the policy.
        full_runs: the limit of the calibration.
    """
    measured = WORTH[min(WORTH, key=lambda ratio: abs(ratio - step_ratio))]
    reached = [runs for runs in measured if runs <= full_runs]
    if not reached or full_runs >= MOST or measured[max(reached)] < 0.1:
        return ""
    return (
        f"full_runs={MOST} would bring {measured[max(reached)]:.1f} dB more, if this model is like the small ones that "
        "this was measured on (docs/cost.md)"
    )
