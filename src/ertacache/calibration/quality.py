"""Judge the quality of the calibration prompts' pictures against their full runs, each held out from its weights.

In a closed loop, every prompt uses weights fitted on the other prompts, so its pictures are like those of prompts that
calibration has not seen. Student's t gives a lower bound of the mean quality over prompts like these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev
from typing import Any

from torch import Tensor

from ertacache.calibration.shard import current_shard
from ertacache.errors import BudgetError
from ertacache.runtime.call_results import pictures_of, sound_of
from ertacache.student_t import student_t

CONFIDENCE = 0.95
"""The one-sided confidence of `lower_bound`."""


@dataclass(frozen=True)
class Quality:
    """The quality of pictures against the full runs', one number for each prompt.

    Args:
        psnr: PSNR in dB.
        ssim: SSIM, at most 1.
        sound: of clips with sound, its signal-to-error ratio in dB; else empty.
    """

    psnr: tuple[float, ...]
    ssim: tuple[float, ...]
    sound: tuple[float, ...] = ()


class Judge:
    """Compares pictures with those of the full runs.

    Args:
        references: what the full run of each of this process's prompts returned.

    Raises:
        BudgetError: if the metrics are not installed.
    """

    def __init__(self, references: Sequence[Any]) -> None:
        try:
            from ertacache import metrics, sound_metrics
        except ImportError as error:
            raise BudgetError(
                "quality is measured with torchmetrics, which is not installed",
                given=str(error),
                cure="Install it: pip install 'ertacache[cli]'.",
            ) from error
        self._metrics: tuple[Callable[[Tensor, Tensor], float], ...] = (metrics.psnr, metrics.ssim)
        self._signal_to_error = sound_metrics.signal_to_error
        self._references = [pictures_of(result) for result in references]
        self._sounds = [sound_of(result) for result in references]

    def __call__(self, results: Sequence[Any]) -> Quality:
        """Measure the quality of what the calls of the own prompts returned, and learn that of the others.

        Args:
            results: of each own prompt.
        """
        pairs = [(pictures_of(a), b) for a, b in zip(results, self._references, strict=True)]
        heard = [
            None if sound is None or reference is None else self._signal_to_error(sound, reference)
            for sound, reference in zip(map(sound_of, results), self._sounds, strict=True)
        ]
        seen = [tuple(metric(*pair) for metric in self._metrics) for pair in pairs]
        told = current_shard().gather(list(zip(seen, heard, strict=True)), "judging pictures")
        psnr, ssim = zip(*(values for values, _ in told), strict=True)
        return Quality(psnr, ssim, tuple(sound for _, sound in told if sound is not None))


def lower_bound(values: Sequence[float], confidence: float = CONFIDENCE) -> float:
    """Bound the mean over prompts like these from below, by Student's t.

    Args:
        values: one number for each prompt, two or more.
        confidence: the one-sided confidence, over 0.5.
    """
    return fmean(values) - student_t(len(values) - 1, confidence) * stdev(values) / sqrt(len(values))
