"""The result of a closed loop, and the choice of the weights that its prompts use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

from ertacache.calibration.quality import Quality
from ertacache.method.prediction import Prediction
from ertacache.policy.drift_envelope import Envelope
from ertacache.watching.drift_score import MIN_PROMPTS, envelope_of


class FittedOn(Enum):
    """The prompts that take part in fitting the weights that one prompt of a closed loop uses."""

    ALL_PROMPTS = auto()
    """All prompts of the loop, as for the policy's weights."""
    OTHER_PROMPTS = auto()
    """All other prompts of the loop (leave-one-out). The prompt's errors are then those of a new prompt."""


Weights = FittedOn | Mapping[int, Sequence[Prediction]]
"""The weights that the prompts of a loop use: fitted in the loop itself, or given: by step, one for each prompt."""


@dataclass(frozen=True)
class Fit:
    """The result of one closed loop.

    Errors, scores, drifts and quality depend on the `Weights` that the prompts used. ``predictions`` are always fitted
    on all prompts.

    Args:
        cached_steps: the schedule.
        predictions: by step: the factors that predict a cached step, or correct a computed one.
        step_errors: ``||x - x_gt|| / ||x_gt||`` after each step, over the prompts of the loop.
        step_scores: after each step, the natural logarithm of each prompt's error, averaged over prompts. A mean PSNR
            follows this mean, and no single prompt with a large error dominates it.
        prompt_scores: the logarithm of the final error of each prompt.
        drifts: for each computed step that has drifts, one row for each prompt with one number for each sample; see
            `ertacache.watching.drift_score`.
        quality: PSNR and SSIM of the pictures; None if the loops have no judge.
        left_out: by step, for each prompt the weights that this loop fitted on the other prompts; empty where no prompt
            is held out.
    """

    cached_steps: tuple[int, ...]
    predictions: dict[int, Prediction]
    step_errors: tuple[float, ...]
    step_scores: tuple[float, ...]
    prompt_scores: tuple[float, ...]
    drifts: Mapping[int, tuple[tuple[float, ...], ...]] = field(default_factory=dict)
    quality: Quality | None = None
    left_out: Mapping[int, tuple[Prediction, ...]] = field(default_factory=dict, compare=False, repr=False)

    @property
    def error(self) -> float:
        """The error of the final latent."""
        return self.step_errors[-1]

    @property
    def score(self) -> float:
        """The mean logarithm of the final error."""
        return self.step_scores[-1]

    @property
    def envelope(self) -> Envelope | None:
        """The envelope of the prompts' drifts, for a guard; None with fewer than `MIN_PROMPTS` prompts."""
        if len(self.prompt_scores) < MIN_PROMPTS or not self.drifts:
            return None
        flat = {step: [value for own in rows for value in own] for step, rows in self.drifts.items()}
        return envelope_of(flat, len(self.step_errors))
