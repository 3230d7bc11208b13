"""The folder that ``ertacache calibrate --frontier`` writes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ertacache.cli.json_file import write_json

if TYPE_CHECKING:
    from ertacache.calibration import Profile


def write_frontier(profile: Profile, folder: Path) -> list[Path]:
    """Write a profile, each of its policies as a file of its own, their figures as JSON, and a plot.

    Returns:
        The files that were written.
    """
    from ertacache.presenting.policy_plots import frontier_plot

    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / "profile.safetensors", folder / "frontier.json", folder / "frontier.png"]
    profile.save(written[0])
    rows = []
    for policy in profile.policies:
        path = folder / f"policy-{policy.step_ratio:.2f}x.safetensors"
        policy.save(path)
        written.append(path)
        record = policy.calibration
        figures = {"psnr": record.psnr, "ssim": record.ssim, "seconds": record.seconds, "full_runs": record.full_runs}
        rows.append({"file": path.name, "computed_steps": policy.computed_steps, **figures})
    write_json(rows, written[1])
    frontier_plot(profile, written[2])
    return written
