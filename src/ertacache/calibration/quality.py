"""How good pictures are, from the calibration prompts alone: each against its full run, by weights fitted without it.

A closed loop gives every prompt weights that were fitted on the others, so that its pictures are those of prompts that
calibration did not see. What holds for the mean over prompts like these is bounded from below by Student's t.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev
from typing import Any

from torch import Tensor

from ertacache.errors import BudgetError, PipelineError
from ertacache.student_t import student_t

CONFIDENCE = 0.95
"""One-sided, of `lower_bound`."""


@dataclass(frozen=True)
class Quality:
    """Against the full runs, one number a prompt.

    Args:
        psnr: in dB.
        ssim: at most 1.
    """

    psnr: tuple[float, ...]
    ssim: tuple[float, ...]


class Judge:
    """Compares pictures with those of the full runs.

    Args:
        references: what the full run of each prompt returned.

    Raises:
        BudgetError: if the metrics are not installed.
    """

    def __init__(self, references: Sequence[Any]) -> None:
        try:
            from ertacache import metrics
        except ImportError as error:
            raise BudgetError(
                "quality is measured with torchmetrics, which is not installed",
                given=str(error),
                cure="Install it: pip install 'ertacache[cli]'.",
            ) from error
        self._metrics: tuple[Callable[[Tensor, Tensor], float], ...] = (metrics.psnr, metrics.ssim)
        self._references = [pictures_of(result) for result in references]

    def __call__(self, results: Sequence[Any]) -> Quality:
        """Judge what the calls of all prompts returned."""
        pairs = [(pictures_of(a), b) for a, b in zip(results, self._references, strict=True)]
        return Quality(*(tuple(metric(*pair) for pair in pairs) for metric in self._metrics))


def pictures_of(result: Any) -> Tensor:
    """The pictures or clips that a pipeline call returned, float32 on the CPU, (batch, ..., channels, height, width).

    Raises:
        PipelineError: if it returned none.
    """
    found = getattr(result, "images", getattr(result, "frames", None))
    if not isinstance(found, Tensor):
        raise PipelineError(
            "the quality of what this pipeline makes cannot be measured: it returns no tensor of pictures",
            given=type(found if found is not None else result).__name__,
            cure="Use a budget of steps or seconds, and compare by other means.",
        )
    return found.detach().float().cpu()


def lower_bound(values: Sequence[float], confidence: float = CONFIDENCE) -> float:
    """What the mean over prompts like these exceeds with this confidence, by Student's t.

    Args:
        values: one number a prompt, two or more.
        confidence: one-sided, over 0.5.
    """
    return fmean(values) - student_t(len(values) - 1, confidence) * stdev(values) / sqrt(len(values))
