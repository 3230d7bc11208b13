"""What a table of every schedule says: the best shared one, each prompt's own best, and how few prompts choose well.

In: PSNR or SSIM, (prompts, schedules). The protocol is that of "The Golden Path Hypothesis" (its code was read:
github.com/nanguoyu/Golden-Path-Hypothesis): a shared schedule is judged by the share of prompts on which it is within a
margin of the best schedule of that prompt, with the one-sided 95 % bound of Clopper and Pearson.
"""

from __future__ import annotations

from math import comb
from typing import Any

import numpy as np
from numpy.typing import NDArray

Table = NDArray[np.float64]

MARGINS = (0.25, 0.5, 1.0)
"""In dB, as in the protocol."""
CHOOSERS = (1, 2, 4, 8)
"""How many prompts choose a schedule."""
NEAR = (0.1, 0.5)
"""In dB: how near to the best shared schedule such a choice is counted as found."""


def coverage(table: Table, schedule: int, margin: float) -> float:
    """The share of prompts on which a schedule is within a margin of that prompt's best."""
    return float((table.max(1) - table[:, schedule] <= margin).mean())


def least_share(hits: int, prompts: int, level: float = 0.05) -> float:
    """The one-sided lower bound of a share, by Clopper and Pearson: the smallest that makes ``hits`` likely enough."""
    low, high = 0.0, hits / prompts
    for _ in range(60):
        share = (low + high) / 2
        likely = sum(comb(prompts, k) * share**k * (1 - share) ** (prompts - k) for k in range(hits, prompts + 1))
        low, high = (share, high) if likely < level else (low, share)
    return low


def described(psnr: Table, ssim: Table, schedule: int) -> dict[str, Any]:
    """Figures of one schedule on the prompts of a table."""
    best = int(psnr.mean(0).argmax())
    shares = {f"{margin:g}": coverage(psnr, schedule, margin) for margin in MARGINS}
    return {
        "psnr": float(psnr[:, schedule].mean()),
        "ssim": float(ssim[:, schedule].mean()),
        "below_best_shared": float(psnr[:, best].mean() - psnr[:, schedule].mean()),
        "below_own_best": float((psnr.max(1) - psnr[:, schedule]).mean()),
        "within": shares,
        "within_1_at_least": least_share(round(shares["1"] * len(psnr)), len(psnr)),
        "rank": int((psnr.mean(0) > psnr[:, schedule].mean()).sum()) + 1,
    }


def chosen_by_few(psnr: Table, choosers: int, judges: int, draws: int = 2000) -> dict[str, float]:
    """Let a few prompts choose the best schedule, and judge it on others, against the best one there.

    Args:
        psnr: (prompts, schedules).
        choosers: how many prompts choose.
        judges: how many others judge; the same number for all, since the best of few prompts is partly the luckiest.
        draws: how often they are drawn, with a fixed seed.

    Returns:
        The mean gap to the best shared schedule of the judging prompts, in dB, and how often it is within `NEAR`.
    """
    rng, gaps = np.random.default_rng(0), []
    for _ in range(draws):
        order = rng.permutation(len(psnr))
        few, others = psnr[order[:choosers]].mean(0), psnr[order[len(psnr) - judges :]].mean(0)
        gaps.append(others.max() - others[few.argmax()])
    return {"gap": float(np.mean(gaps)), **{f"{near:g}": float(np.mean(np.array(gaps) <= near)) for near in NEAR}}


def agreement(psnr: Table, ssim: Table) -> dict[str, float]:
    """Whether PSNR and SSIM choose the same: in the mean over prompts, and prompt by prompt."""
    by_psnr, by_ssim = psnr.mean(0), ssim.mean(0)
    one, other = int(by_psnr.argmax()), int(by_ssim.argmax())
    return {
        "same": float(one == other),
        "psnr_lost_by_ssim": float(by_psnr[one] - by_psnr[other]),
        "ssim_lost_by_psnr": float(by_ssim[other] - by_ssim[one]),
        "same_on_share_of_prompts": float((psnr.argmax(1) == ssim.argmax(1)).mean()),
    }
