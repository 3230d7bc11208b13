"""What a closed loop finds, and with which weights its prompts went on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

from ertacache.calibration.quality import Quality
from ertacache.method.prediction import Prediction
from ertacache.policy.drift_envelope import Envelope
from ertacache.watching.drift_score import MIN_PROMPTS, envelope_of


class FittedOn(Enum):
    """Which prompts the weights were fitted on that a prompt of a loop goes on with."""

    ALL_PROMPTS = auto()
    """On all prompts of the loop, as the policy's weights are."""
    OTHER_PROMPTS = auto()
    """On the other prompts of the loop (leave-one-out): the prompt's errors are those of a new prompt."""


Weights = FittedOn | Mapping[int, Sequence[Prediction]]
"""What the prompts of a loop go on with: weights fitted in the loop itself, or those given by step, one a prompt."""


@dataclass(frozen=True)
class Fit:
    """What one closed loop found.

    The errors, scores, drifts and pictures are those of the `Weights` that the prompts went on with; ``predictions``
    are always fitted on all prompts.

    Args:
        cached_steps: the schedule it ran.
        predictions: for each cached step, the factors it used, and those that corrected computed steps.
        step_errors: ``||x - x_gt|| / ||x_gt||`` after each step, over the prompts of the loop.
        step_scores: the natural logarithm of the same for each prompt, averaged over prompts: what a mean PSNR follows,
            and what no single prompt of a large error can dominate.
        prompt_scores: the logarithm of the final error of each prompt.
        drifts: by computed step that has one, one row a prompt, one number a sample; see
            `ertacache.watching.drift_score`.
        quality: of the pictures, if the loops have a judge.
        left_out: by step, for each prompt the weights that this loop fitted on the others; empty where no prompt is
            held out.
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
        """How far the prompts drifted, for a guard; None with fewer than `MIN_PROMPTS` prompts."""
        if len(self.prompt_scores) < MIN_PROMPTS or not self.drifts:
            return None
        flat = {step: [value for own in rows for value in own] for step, rows in self.drifts.items()}
        return envelope_of(flat, len(self.step_errors))
