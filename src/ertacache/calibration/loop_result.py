"""The result of a closed loop, and the choice of the weights that its prompts use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from math import exp, log
from statistics import fmean

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


@dataclass(frozen=True)
class Fit:
    """The result of one closed loop.

    Errors, scores, drifts and quality depend on the `Weights` that the prompts used. ``predictions`` are always fitted
    on all prompts. If the loop steps several latents, errors and scores are those of the one that suffers most, prompt
    by prompt.

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
        others: the same of each further latent that the loop steps.
        of_each: if the loop steps several latents, the error of each one's final latent.
    """

    cached_steps: tuple[int, ...]
    predictions: dict[int, Prediction]
    step_errors: tuple[float, ...]
    step_scores: tuple[float, ...]
    prompt_scores: tuple[float, ...]
    drifts: Mapping[int, tuple[tuple[float, ...], ...]] = field(default_factory=dict)
    quality: Quality | None = None
    left_out: Mapping[int, tuple[Prediction, ...]] = field(default_factory=dict, compare=False, repr=False)
    others: tuple[Fit, ...] = ()
    of_each: tuple[float, ...] = ()

    def of_stream(self, stream: int) -> Fit:
        """The fit of one of the latents; 0 is this one."""
        return self.others[stream - 1] if stream else self

    def with_predictions_of(self, other: Fit) -> Fit:
        """Replace the weights by those of another loop on the same schedule; keep errors and quality."""
        others = tuple(a.with_predictions_of(b) for a, b in zip(self.others, other.others, strict=True))
        return replace(self, predictions=other.predictions, others=others)

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


Weights = FittedOn | Fit
"""The weights that the prompts of a loop use: fitted in the loop itself, or those that an earlier loop left out."""


def joint(fits: Sequence[Fit], by_prompt: Sequence[Sequence[Sequence[float]]], quality: Quality | None) -> Fit:
    """Join the fits of all latents that a loop steps.

    Args:
        fits: of each latent.
        by_prompt: for each latent and step, the logarithm of each prompt's error.
        quality: the quality of the pictures, or None if they were not judged.
    """
    main, *others = fits
    if not others:
        return replace(main, quality=quality)
    worst = [[max(errors) for errors in zip(*rows, strict=True)] for rows in zip(*by_prompt, strict=True)]
    drifts = {
        step: tuple(
            tuple(exp(fmean(log(max(d, _TINY)) for d in parts)) for parts in zip(*rows, strict=True))
            for rows in zip(*(fit.drifts[step] for fit in fits), strict=True)
        )
        for step in main.drifts
    }
    return replace(
        main,
        step_errors=tuple(max(errors) for errors in zip(*(fit.step_errors for fit in fits), strict=True)),
        step_scores=tuple(fmean(row) for row in worst),
        prompt_scores=tuple(worst[-1]) if worst else (),
        drifts=drifts,
        quality=quality,
        others=tuple(others),
        of_each=tuple(fit.step_errors[-1] for fit in fits if fit.step_errors),
    )


_TINY = 1e-12
