"""From what is known of a setting to its policy: weights by the outputs' dot products alone, and by the prior's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ertacache.learning.learnt import Learnt
from ertacache.method.named_methods import LEARNT
from ertacache.method.prediction import Prediction
from ertacache.method.prior import outputs_with_prior, prior_outputs
from ertacache.policy import CalibrationRecord, Policy
from ertacache.runtime.instant import solved_policy, solved_stream
from ertacache.runtime.schedulers import angles_of


def learnt_policy(
    learnt: Learnt,
    scheduler: Any,
    levels: Sequence[float],
    first: int,
    computed: int,
    strength: float,
    without: str | None = None,
    changes: Sequence[int] = (),
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
        changes: the steps of the grid at which another expert takes over.
    """
    record = CalibrationRecord(
        f"num_computed_steps={computed} (learnt)",
        num_prompts=learnt.samples,
        notes=(learnt.told(computed),),
    )
    angles = angles_of(scheduler, levels[first:])
    outputs = [
        outputs_with_prior(gram.numpy(), learnt.samples, angles, strength, without)
        for gram in (learnt.gram, *learnt.streams)
    ]
    blank = Policy(1, (), LEARNT, calibration=record)
    return solved_policy(blank, outputs, scheduler, levels, first, computed, changes)


def learnt_stream(
    learnt: Learnt,
    number: int,
    policy: Policy,
    scheduler: Any,
    levels: Sequence[float],
    first: int,
    strength: float,
    without: str | None = None,
) -> dict[int, Prediction]:
    """The predictions of a further latent that the loop steps, such as sound; by the prior alone if it was not learnt.

    Args:
        learnt: what is known.
        number: which of the latents it is, 1 or more.
        policy: that of the call.
        scheduler: what steps the latent, before its first step; left unchanged.
        levels: the T + 1 noise levels of its grid.
        first: the step that the call begins with.
        strength: the guidance scale.
        without: the trained pipeline that is left out of the prior, by name, to judge this.
    """
    angles = angles_of(scheduler, levels[first:])
    if number <= len(learnt.streams):
        gram = learnt.streams[number - 1].numpy()
        outputs = outputs_with_prior(gram, learnt.samples, angles, strength, without)
    else:
        outputs = prior_outputs(angles, strength, without)
    return solved_stream(policy, outputs, scheduler, levels, first)
