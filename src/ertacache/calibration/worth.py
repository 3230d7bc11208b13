"""What more full runs would bring, as measured on the small pipelines of this project: docs/records/cost.md."""

from __future__ import annotations

MOST = 80
"""The full runs of the most expensive calibration that was measured."""
WORTH: dict[float, dict[int, float]] = {
    1.5: {1: 2.14, 2: 2.0, 4: 1.31, 10: 0.73, 20: 0.64, 40: 0.5},
    2.0: {1: 1.8, 2: 1.47, 4: 0.4, 10: 0.09, 20: 0.02, 40: 0.02},
    3.0: {1: 3.24, 2: 2.02, 4: 1.82, 10: 0.09, 20: 0.09, 40: 0.17},
    4.0: {1: 4.67, 2: 2.48, 4: 0.3, 10: 0.12, 20: -0.05, 40: 0.0},
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
