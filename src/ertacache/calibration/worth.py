"""What more full runs would bring, as measured on the small pipelines of this project: docs/records/cost.md."""

from __future__ import annotations

MOST = 80
"""The full runs of the most expensive calibration that was measured."""
WORTH: dict[float, dict[int, float]] = {
    1.5: {1: 1.17, 2: 0.68, 4: 0.77, 10: -0.0, 20: -0.25, 40: -0.32},
    2.0: {1: 3.19, 2: 2.64, 4: 1.47, 10: -0.07, 20: -0.09, 40: -0.22},
    3.0: {1: 2.57, 2: 1.9, 4: 1.33, 10: 0.47, 20: 0.47, 40: 0.0},
    4.0: {1: 4.02, 2: 1.85, 4: 0.69, 10: 0.64, 20: 0.7, 40: 0.1},
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
        "this was measured on (docs/records/cost.md)"
    )
