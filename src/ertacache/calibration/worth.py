"""What more full runs would bring, as measured on the small pipelines of this project: docs/records/cost.md."""

from __future__ import annotations

MOST = 80
"""The full runs of the most expensive calibration that was measured."""
WORTH: dict[float, dict[int, float]] = {
    1.5: {1: 2.38, 2: 1.93, 4: 1.04, 10: 0.83, 20: 0.71, 40: 0.61},
    2.0: {1: 1.96, 2: 1.2, 4: 0.63, 10: 0.06, 20: 0.03, 40: -0.03},
    3.0: {1: 2.9, 2: 1.55, 4: 0.78, 10: 0.24, 20: 0.16, 40: -0.1},
    4.0: {1: 3.69, 2: 2.14, 4: 0.35, 10: 0.2, 20: -0.08, 40: 0.1},
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
