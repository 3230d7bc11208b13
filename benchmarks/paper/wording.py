"""Verdicts on the paper's claims, and how the page shows figures."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np

from benchmarks.markdown import with_interval
from ertacache.metrics import interval

Result = Mapping[str, Any]

REPRODUCED, REVERSED, INCONCLUSIVE, NOT_REPRODUCED = "reproduced", "reversed", "inconclusive", "not reproduced"


def verdict(values: Sequence[float]) -> str:
    """Whether a gain that the paper claims is there, by the 95 % interval of its mean over prompts."""
    low, high = interval(values)
    return REPRODUCED if low > 0 else REVERSED if high < 0 else INCONCLUSIVE


def held(true: bool) -> str:
    """The verdict on a claim that has no interval."""
    return REPRODUCED if true else NOT_REPRODUCED


def gain(ours: Result, others: Result) -> list[float]:
    """By how many dB the PSNR of ``ours`` is higher, for each prompt."""
    return [float(x) for x in np.subtract(ours["psnr"], others["psnr"])]


def filled(text: str) -> str:
    """A paragraph in lines of at most 120 characters."""
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def psnr_cells(rows: Sequence[Result]) -> list[str]:
    """Mean PSNR in dB with its 95 % interval, the highest mean in bold."""
    means = [fmean(row["psnr"]) for row in rows]
    cells = [with_interval(row["psnr"]) for row in rows]
    return [f"**{cell}**" if mean == max(means) else cell for cell, mean in zip(cells, means, strict=True)]


def lpips_of(row: Result) -> str:
    """The mean LPIPS; "-" where its weights were not on the machine."""
    return f"{fmean(row['more']['lpips']):.4f}" if "lpips" in row["more"] else "-"
