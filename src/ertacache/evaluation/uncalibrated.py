"""Instant and learnt policies, as an evaluation measures them: each call makes its own, as it does for users."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ertacache.errors import ArgumentError
from ertacache.evaluation.comparison import started, uncalibrated_source
from ertacache.policy import Policy
from ertacache.runtime.begun_call import begun
from ertacache.runtime.call_setting import CallSetting
from ertacache.runtime.identity import circumstances_of, origin_of


@dataclass(frozen=True)
class Uncalibrated:
    """What ``ertacache.accelerated(pipe, speedup=...)`` follows; `uncalibrated` makes it.

    Args:
        policy: the policy of the first call, with its noise levels.
        speedup: at least so many steps for each computed one, 1 or more.
        learn: the folder of learnt settings; None for an instant policy.
    """

    policy: Policy
    speedup: float
    learn: Path | None = None


Judged = Policy | Uncalibrated
"""What can be judged: a policy, or what makes one in each call."""


def followed(judged: Judged) -> Policy:
    """The policy that calls follow."""
    return judged.policy if isinstance(judged, Uncalibrated) else judged


def uncalibrated_name(speedup: float, learn: Path | None = None) -> str:
    """Its name in tables.

    >>> uncalibrated_name(2.0), uncalibrated_name(2.5, Path("learnt"))
    ('instant 2x', 'learnt 2.5x')
    """
    return f"{'instant' if learn is None else 'learnt'} {speedup:g}x"


def uncalibrated(
    pipe: Any, call: Mapping[str, Any], num_inference_steps: int, speedup: float, learn: Path | None = None
) -> Uncalibrated:
    """Find what calls follow without a calibrated policy: one is begun, and ends after its first step.

    Args:
        pipe: a diffusers pipeline, not accelerated; left as it was found.
        call: the arguments of the first call, without ``num_inference_steps`` and with ``seed`` in place of
            ``generator``.
        num_inference_steps: the pipeline's argument.
        speedup: at least so many steps for each computed one, 1 or more.
        learn: a folder that knows the setting of the call; None for an instant policy.

    Raises:
        ArgumentError: if the folder does not know the setting, whose first call would run in full; or the call makes no
            step.
        BudgetError: if ``speedup`` is out of range.
        PipelineError: if the pipeline cannot be served, or takes no such argument.
        RunError: if its loop cannot be followed.
    """
    source = uncalibrated_source(speedup, learn)
    arguments = {**started(call), "num_inference_steps": num_inference_steps}
    driver = begun(pipe, source, arguments, with_first_step=True)
    policy, levels, first = driver.policy, driver.levels, driver.first
    if first is None:
        raise ArgumentError(
            "a call with these arguments makes no step at all",
            given=f"num_inference_steps={num_inference_steps}",
            cure="Ask for more steps, or a larger strength of image-to-image.",
        )
    if driver.resolved.observers:  # they learn from a full run
        raise ArgumentError(
            "the folder knows nothing of this setting, so the first call would run in full and be learnt from",
            given=", ".join([str(learn), f"{policy.num_made_steps} steps", *_told(driver.resolved.setting)]),
            cure=f"Let it learn first: ertacache generate MODEL PROMPT --speedup {speedup:g} --learn {learn}.",
        )
    origin = origin_of(
        pipe,
        circumstances_of(pipe, (), arguments),
        noise_levels=levels,
        calls_per_step=first.denoiser_calls,
        latent_shape=first.sample.shape[1:],
        asked_steps=num_inference_steps if num_inference_steps != len(levels) - 1 else None,
    )
    return Uncalibrated(replace(policy, origin=origin), speedup, learn)


def _told(setting: CallSetting | None) -> list[str]:
    """The guidance of a call, for a message."""
    return [f"{name}={value:g}" for name, value in (setting.guidance if setting else {}).items()]
