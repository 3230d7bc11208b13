"""The paper's own numbers, as arXiv 2508.21091 prints them: Tables 1 to 4, and what its text says of its figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """A row of Table 1 or 2; None where the paper has a dash, or another column.

    Args:
        method: as printed.
        rival: its name in `benchmarks.rivals.roster`; "" for the paper's own method.
        speedup: over the full run.
        latency: in seconds.
        vbench: in percent, of clips.
        clip: of pictures. The full run has none, so it compares pictures with the full run's.
        lpips, ssim, psnr: against the full run; PSNR in dB.
    """

    method: str
    rival: str
    speedup: float
    latency: float | None
    vbench: float | None
    clip: float | None
    lpips: float
    ssim: float
    psnr: float


@dataclass(frozen=True)
class Part:
    """A row of Table 3: one more part of the method."""

    method: str
    ours: str
    vbench: float | None
    clip: float | None
    lpips: float
    ssim: float
    psnr: float


@dataclass(frozen=True)
class Cost:
    """A row of Table 4: memory in MiB, latency in seconds, on one A800 with 40 GB."""

    method: str
    ours: str
    memory: int
    latency: float


TITLES: Mapping[str, str] = {
    "opensora": "Open-Sora 1.2, 51 frames of 480P, T = 30",
    "cogvideox": "CogVideoX, 48 frames of 480P, T = 50",
    "wan": "Wan2.1-1.3B, 81 frames of 480P, T = 50",
    "flux": "FLUX-dev 1.0, T = 30",
}
"""What the paper measured, by the name of ours that stands for it."""

COMPARISONS: Mapping[str, tuple[Row, ...]] = {
    "opensora": (
        Row("Δ-DiT", "Delta-DiT", 1.03, None, 78.21, None, 0.5692, 0.4811, 11.91),
        Row("T-GATE", "T-GATE", 1.19, None, 77.61, None, 0.3495, 0.6760, 15.50),
        Row("PAB-slow", "PAB", 1.33, 33.40, 77.64, None, 0.1471, 0.8405, 24.50),
        Row("PAB-fast", "PAB", 1.40, 31.85, 76.95, None, 0.1743, 0.8220, 23.58),
        Row("TeaCache-slow", "TeaCache", 1.55, 28.78, 79.28, None, 0.1316, 0.8415, 23.62),
        Row("TeaCache-fast", "TeaCache", 2.25, 19.84, 78.48, None, 0.2511, 0.7477, 19.10),
        Row("ERTACache-slow (λ = 0.1)", "", 1.55, 28.75, 79.36, None, 0.1006, 0.8706, 25.45),
        Row("ERTACache-fast (λ = 0.18)", "", 2.47, 18.04, 78.64, None, 0.1659, 0.8170, 22.34),
    ),
    "cogvideox": (
        Row("Δ-DiT (N_c = 4, N = 2)", "Delta-DiT", 1.08, 72.72, 79.61, None, 0.3319, 0.6612, 17.93),
        Row("Δ-DiT (N_c = 8, N = 2)", "Delta-DiT", 1.15, 68.19, 79.31, None, 0.3822, 0.6277, 16.69),
        Row("Δ-DiT (N_c = 12, N = 2)", "Delta-DiT", 1.26, 62.50, 79.09, None, 0.4053, 0.6126, 16.15),
        Row("PAB", "PAB", 1.35, 57.98, 79.76, None, 0.0860, 0.8978, 28.04),
        Row("FasterCache", "FasterCache", 1.62, 48.44, 79.83, None, 0.0766, 0.9066, 28.93),
        Row("TeaCache", "TeaCache", 2.92, 26.88, 79.00, None, 0.2057, 0.7614, 20.97),
        Row("ERTACache-slow (λ = 0.08)", "", 1.62, 48.44, 79.30, None, 0.0368, 0.9394, 32.77),
        Row("ERTACache-fast (λ = 0.3)", "", 2.93, 26.78, 78.79, None, 0.1012, 0.8702, 26.44),
    ),
    "wan": (
        Row("TeaCache", "TeaCache", 2.00, 99.5, 76.04, None, 0.2913, 0.5685, 16.17),
        Row("ProfilingDiT", "ProfilingDiT", 2.01, 99.0, 76.15, None, 0.1256, 0.7899, 22.02),
        Row("ERTACache (λ = 0.08)", "", 2.17, 91.7, 80.73, None, 0.1095, 0.8200, 23.77),
    ),
    "flux": (
        Row("TeaCache", "TeaCache", 1.84, 14.21, None, 0.9065, 0.4427, 0.7445, 16.4771),
        Row("ERTACache (λ = 0.6)", "", 1.86, 14.01, None, 0.9534, 0.3029, 0.8962, 20.5146),
    ),
}
"""Tables 1 (clips) and 2 (pictures)."""

FULL_RUN_LATENCY: Mapping[str, float] = {"opensora": 44.56, "cogvideox": 78.48, "wan": 199.0, "flux": 26.14}
"""Seconds of the full run in Tables 1 and 2."""

ABLATION: Mapping[str, tuple[Part, ...]] = {
    "wan": (
        Part("Uniform Cache", "uniform", 79.35, None, 0.5041, 0.4058, 13.7640),
        Part("Offline Policy", "offline", 80.59, None, 0.1477, 0.7738, 22.0920),
        Part("+Time Adjustment", "offline+time", 80.89, None, 0.1267, 0.7988, 22.9413),
        Part("+Error Rectification", "paper", 80.73, None, 0.1095, 0.8200, 23.7680),
    ),
    "flux": (
        Part("Uniform Cache", "uniform", None, 0.9066, 0.4424, 0.7105, 15.9428),
        Part("Offline Policy", "offline", None, 0.9433, 0.3469, 0.8693, 19.4069),
        Part("+Time Adjustment", "offline+time", None, 0.9510, 0.3268, 0.8921, 20.3586),
        Part("+Error Rectification", "paper", None, 0.9534, 0.3029, 0.8962, 20.5146),
    ),
}
"""Table 3."""

COSTS: Mapping[str, tuple[Cost, ...]] = {
    "flux": (
        Cost("Baseline", "baseline", 26988, 26.14),
        Cost("TeaCache", "TeaCache", 27056, 14.21),
        Cost("Offline Policy (+Time Adjustment)", "ERTACache, offline+time, 2x", 27020, 13.41),
        Cost("Offline Policy (+Error Rectification)", "ERTACache, paper, 2x", 27022, 14.01),
    ),
    "opensora": (
        Cost("Baseline", "baseline", 21558, 44.56),
        Cost("TeaCache", "TeaCache", 21558, 19.84),
        Cost("Offline Policy (+Time Adjustment)", "ERTACache, offline+time, 2x", 21346, 17.79),
        Cost("Offline Policy (+Error Rectification)", "ERTACache, paper, 2x", 21346, 18.04),
    ),
}
"""Table 4."""

FIGURES: Mapping[str, str] = {
    "figure2a": "the measured distance between cached and computed features varies little over the steps; TeaCache's "
    "prediction is much the same for all prompts, but diverges from the measured distance in later steps",
    "figure2b": "reuse drifts off the full run's trajectory, and the timestep adjustment brings it back",
    "figure3": "ERTACache keeps details and consistency between frames better than TeaCache, and matches the full run",
    "figure4": "each part of the method improves the picture",
    "figure5": "PSNR, SSIM and CLIP score are stable for 20, 30 and 1000 calibration prompts, judged on 1000 captions "
    "of MS COCO 2014",
    "figure6": "at each step the cache error has a structure of its own for every prompt, so it is modelled as a "
    "function of the cached output",
}
"""What the text says that each figure shows."""


def speedups(family: str) -> tuple[float, ...]:
    """Those of the paper's own method in Table 1 or 2, slow and fast."""
    return tuple(row.speedup for row in COMPARISONS[family] if not row.rival)
