"""A short check of a new policy: is it nearer to the full run than as many plain steps, on one or two prompts?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from ertacache.evaluation.comparison import Variant, fewer_steps, generate, started
from ertacache.evaluation.evaluate import plain_steps
from ertacache.metrics import psnr
from ertacache.policy import Policy


@dataclass(frozen=True)
class Check:
    """What the check found.

    Args:
        policy: PSNR of the policy's pictures against the full run's, in dB, for each prompt.
        plain: the same of as many plain steps as the policy computes.
        computed: how many steps the policy computes.
        made: of how many.
        plain_steps: the ``num_inference_steps`` of the plain calls.
        held_out: whether calibration did not use these prompts.
    """

    policy: tuple[float, ...]
    plain: tuple[float, ...]
    computed: int
    made: int
    plain_steps: int
    held_out: bool

    @property
    def is_worth_it(self) -> bool:
        """Whether the policy is nearer to the full run than plain steps at the same cost, on average."""
        return fmean(self.policy) > fmean(self.plain)

    def __str__(self) -> str:
        count = len(self.policy)
        prompts = f"{count} prompt{'s' * (count != 1)}"
        where = f"{prompts} that calibration did not use" if self.held_out else f"{prompts} of calibration's own"
        return (
            f"{self.computed} of {self.made} steps; {fmean(self.policy):.1f} dB from the full run on {where}, where "
            f"{self.computed} plain steps are {fmean(self.plain):.1f} dB"
        )


def check(pipe: Any, policy: Policy, calls: Sequence[Mapping[str, Any]], *, held_out: bool) -> Check:
    """Generate each prompt in full, by the policy and with fewer plain steps, and compare the pictures.

    Args:
        pipe: a diffusers pipeline; left as it was found.
        policy: the policy, calibrated on it.
        calls: the arguments of each call, with ``seed`` in place of ``generator``; see
            `ertacache.evaluation.comparison.calls_of`. At least one.
        held_out: whether calibration did not use their prompts.

    Raises:
        MetricError: if the pictures cannot be compared.
        PipelineError: if the pipeline returns no tensor of pictures.
    """
    full, fast = Variant("full", policy.asked_steps), Variant("policy", policy.asked_steps, policy=policy)
    plain = fewer_steps(plain_steps(policy))
    distances: list[tuple[float, float]] = []
    for call in calls:
        reference, *others = (generate(pipe, way, started(call)).pictures for way in (full, fast, plain))
        distances.append((psnr(others[0], reference), psnr(others[1], reference)))
    near, far = zip(*distances, strict=True)
    computed, made = len(policy.computed_steps), policy.num_made_steps
    return Check(near, far, computed, made, plain.num_inference_steps, held_out)


def full_runs_of(policy: Policy, num_prompts: int) -> float:
    """The cost of a check, in full runs: of each prompt one in full, one by the policy, one with as many steps."""
    return num_prompts * (1 + 2 / policy.step_ratio)
