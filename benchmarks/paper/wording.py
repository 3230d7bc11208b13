"""What the page says of numbers: whether a gain is there, and which rows are best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np

from ertacache.metrics import interval

Result = Mapping[str, Any]


def verdict(values: Sequence[float]) -> str:
    """Whether a gain that the paper claims is there: the 95 % interval of its mean over prompts on one side of 0."""
    low, high = interval(values)
    return "reproduced" if low > 0 else "the other way round" if high < 0 else "undecided"


def gain(ours: Result, others: Result) -> list[float]:
    """By how much the PSNR is higher, prompt by prompt."""
    return [float(x) for x in np.subtract(ours["psnr"], others["psnr"])]


def best_first(rows: Mapping[str, Sequence[float]]) -> str:
    """Names and mean PSNR in dB."""
    order = sorted(rows, key=lambda name: -fmean(rows[name]))
    return ", ".join(f"{name} {fmean(rows[name]):.1f}" for name in order)


def lpips_of(row: Result) -> str:
    """The mean LPIPS, where its weights were on the machine."""
    return f"{fmean(row['more']['lpips']):.4f}" if "lpips" in row["more"] else "-"
