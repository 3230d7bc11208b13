"""From what is known of a setting to its policy: weights by the outputs' dot products alone, and by the prior's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ertacache.learning.learnt import Learnt
from ertacache.method.named_methods import LEARNT
from ertacache.method.prior import outputs_with_prior
from ertacache.policy import CalibrationRecord, Policy
from ertacache.runtime.instant import solved_policy
from ertacache.runtime.schedulers import angles_of


def learnt_policy(
    learnt: Learnt,
    scheduler: Any,
    levels: Sequence[float],
    first: int,
    computed: int,
    strength: float,
    without: str | None = None,
) -> Policy:
    """The policy of a setting that full generations were recorded of.

    Args:
        learnt: what is known.
        scheduler: that of the call, before its first step; left unchanged.
        levels: the T + 1 noise levels of its grid.
        first: the step that the call begins with.
        computed: how many of the steps that the call makes are computed.
        strength: the guidance scale.
        without: the trained pipeline that is left out of the prior, by name, to judge this.
    """
    record = CalibrationRecord(
        f"num_computed_steps={computed} (learnt)",
        num_prompts=learnt.samples,
        notes=(learnt.told(computed),),
    )
    angles = angles_of(scheduler, levels[first:])
    outputs = outputs_with_prior(learnt.gram.numpy(), learnt.samples, angles, strength, without)
    return solved_policy(Policy(1, (), LEARNT, calibration=record), outputs, scheduler, levels, first, computed)
