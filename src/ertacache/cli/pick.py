"""``ertacache pick``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ertacache.cli import options
from ertacache.cli.console import console, say
from ertacache.output_paths import checked_output, kept_somewhere


def pick(
    profile: Annotated[Path, typer.Argument(help="The profile.safetensors of `ertacache calibrate --frontier`.")],
    out: options.PolicyOut = Path("policy.safetensors"),
    speedup: options.Speedup = None,
    computed_steps: options.ComputedSteps = None,
    seconds: options.Seconds = None,
    min_psnr: options.MinPSNR = None,
    min_ssim: options.MinSSIM = None,
    min_sound: options.MinSound = None,
) -> None:
    """Take the policy for a budget from a profile; needs no model and no denoiser call."""
    checked_output(out, besides=[profile])
    from ertacache.calibration import Profile
    from ertacache.presenting.tables import policy_facts

    policy = Profile.load(profile).policy(
        speedup=speedup,
        num_computed_steps=computed_steps,
        seconds=seconds,
        min_psnr=min_psnr,
        min_ssim=min_ssim,
        min_sound=min_sound,
    )
    kept_somewhere(out, policy.save)
    console.print(policy_facts(policy))
    say(f"wrote {out}")
