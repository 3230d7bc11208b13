"""Spectrum: Chebyshev polynomials in time, fitted to what has left the last block so far, forecast skipped steps.

Han et al., "Adaptive Spectral Feature Forecasting for Diffusion Sampling Acceleration", CVPR 2026, arXiv 2603.01623;
checked against https://github.com/hanjq17/Spectrum at f7b7841, and read beside the port in sglang,
``python/sglang/multimodal_gen/runtime/cache/spectrum.py``. It prepares nothing: no full run is needed.

- What is forecast are the visual tokens that leave the last block; the output head runs at every step. Each guidance
  branch has a forecaster of its own, as in their Wan: ``src/pipelines/flux_forward.py``, ``wan_forward.py``.
- Steps: the same files. 5 warm-up steps of 50, then a window that grows, see `computed_steps`. A window of 2 gives the
  network passes of their README: 14 of 50 for a growth of 0.75, 10 for one of 3.
- The fit: ``src/utils/basis_utils.py``. Degree 4, ridge 0.1, all computed steps (they keep the last 100). Time is the
  number of the step, 0 .. 50 mapped to -1 .. 1 whatever the number of steps, there and in sglang.
- The blend with the line through the last two computed steps is not in the paper. Its weight ``w`` is 1 there and in
  their configuration, 0.5 in the commands of their README, which recommends 0.5 to 1.
- Their commands have the same settings for FLUX and for Wan: ``scripts/run_mp_image.sh``, ``run_mp_video.sh``.
- The paper's text could not be had, only notes on it: for FLUX.1-dev, 24.3 dB at 3.5x and 22.2 dB at 4.8x.

What was run side by side, theirs and this: the rule of the steps, 6450 settings of 8 to 50 steps: all the same. Their
forecasters in float32, on four random walks with three values of ``w``: 339 forecasts, the same within 3e-6. They work
in bfloat16, whose rounding of coefficients is not followed.

Decided here:

- Warm-up is a tenth of the steps.
- ``tail_actual_steps``, how many of the last steps are computed too, is none with the authors, and comes from the
  ports for ComfyUI (xmarre/ComfyUI-Spectrum-MiniMax-H3). The small models change most in their last step.
- Windows that do not grow are tried too.

Why the authors' own settings lose to plain reuse at the same steps, here: our FLUX, 30 steps, two calibration prompts,
``w`` 0.5. With 15 steps and windows that grow it has 36.4 dB against reuse's 38.5; with the last step computed 47.4
against 44.8. With 10 steps, the last computed, windows that grow give 31.1 against 34.4, even ones 42.9 against 41.8.
The polynomials alone (``w`` 1) are 1.5 to 7 dB below reuse in all of these: in the early steps, where features hardly
change, the ridge costs more than reuse does. Ridges of 0.01 and 0.001 were worse.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import floor

import torch
from torch import Tensor

from benchmarks.rivals.base import Knobs, Rival, Subject
from benchmarks.rivals.last_block import predicting

DEGREE = 4
RIDGE = 0.1
HORIZON = 50
"""The step that is mapped to 1."""


_SETTINGS = (
    (1, 0.1, 0.5, 1),
    (1, 0.2, 0.5, 1),
    (2, 0.0, 0.5, 1),
    (2, 0.15, 0.5, 1),
    (3, 0.0, 0.5, 1),
    (2, 0.75, 0.5, 0),  # their README's for 3.5x
    (2, 0.75, 1.0, 0),  # the paper's for 3.5x
    (4, 0.0, 0.5, 1),
    (5, 0.0, 0.5, 1),
    (2, 3.0, 0.5, 1),
    (2, 3.0, 1.0, 0),  # the paper's for 4.8x
)
"""``window_size``, ``flex_window``, ``w``, ``tail_actual_steps``."""


def computed_steps(
    num_steps: int, *, warmup_steps: int, window_size: float, flex_window: float, tail_actual_steps: int = 0
) -> tuple[int, ...]:
    """The steps that run all blocks.

    Args:
        num_steps: of the run.
        warmup_steps: how many at the start are computed.
        window_size: every how many steps one is computed after them, rounded down (the paper's N).
        flex_window: what the window grows by at each of these (the paper's α).
        tail_actual_steps: how many of the last steps are computed whatever the window says.
    """
    found = list(range(min(warmup_steps, num_steps)))
    window, skipped = window_size, 0
    for step in range(warmup_steps, num_steps):
        if (skipped + 1) % floor(window) == 0:
            found.append(step)
            window, skipped = round(window + flex_window, 3), 0
        else:
            skipped += 1
    return tuple(sorted({*found, *range(num_steps - tail_actual_steps, num_steps)}))


def chebyshev(times: Tensor) -> Tensor:
    """T_0 to T_DEGREE at ``times``, (K,): (K, DEGREE + 1)."""
    columns = [torch.ones_like(times), times]
    while len(columns) <= DEGREE:
        columns.append(2 * times * columns[-1] - columns[-2])
    return torch.stack(columns, dim=1)


def forecast_weights(steps: Sequence[int], step: int, w: float) -> list[float]:
    """How much each computed step counts in a forecast.

    The fit by ridge regression is linear in what it is fitted to: with rows Φ of the basis at the computed steps and φ
    at the forecast one, the weights are φ (ΦᵀΦ + λI)⁻¹ Φᵀ.

    Args:
        steps: the computed ones so far, rising.
        step: to be forecast.
        w: share of the polynomials; the rest is the line through the last two computed steps.
    """
    basis = chebyshev(torch.tensor([*steps, step], dtype=torch.float64) * 2 / HORIZON - 1)
    known, wanted = basis[:-1], basis[-1]
    gram = known.T @ known + RIDGE * torch.eye(DEGREE + 1, dtype=torch.float64)
    weights: list[float] = (w * known @ torch.linalg.solve(gram, wanted)).tolist()
    weights[-1] += 1 - w
    if len(steps) > 1:
        ahead = (1 - w) * (step - steps[-1]) / (steps[-1] - steps[-2])
        weights[-1] += ahead
        weights[-2] -= ahead
    return weights


@dataclass
class Forecaster:
    """Forecasts for one guidance branch.

    Args:
        w: see `forecast_weights`.
        steps: the computed ones so far.
        features: what left the last block at each.
    """

    w: float
    steps: list[int] = field(default_factory=list)
    features: list[Tensor] = field(default_factory=list)

    def computed(self, step: int, feature: Tensor) -> None:
        """Keep a computed step."""
        self.steps.append(step)
        self.features.append(feature)

    def predicted(self, step: int) -> Tensor:
        """The forecast, in the dtype of the features."""
        newest = self.features[-1]
        total = torch.zeros_like(newest, dtype=torch.float32)
        for weight, feature in zip(forecast_weights(self.steps, step, self.w), self.features, strict=True):
            total.add_(feature, alpha=weight)
        return total.to(newest.dtype)


@contextmanager
def attach(subject: Subject, knobs: Knobs, prepared: None = None) -> Iterator[dict[int, Forecaster]]:
    """Forecast during one call of the pipeline; gives the forecaster of each guidance branch."""
    steps = computed_steps(subject.num_steps, **{name: value for name, value in knobs.items() if name != "w"})
    with predicting(subject, steps, lambda: Forecaster(knobs["w"])) as forecasters:
        yield forecasters


def _knobs(subject: Subject) -> Sequence[Knobs]:
    warmup_steps = max(2, round(subject.num_steps / 10))
    names = ("window_size", "flex_window", "w", "tail_actual_steps")
    return [{"warmup_steps": warmup_steps, **dict(zip(names, values, strict=True))} for values in _SETTINGS]


SPECTRUM = Rival(
    name="Spectrum",
    source="arXiv 2603.01623; hanjq17/Spectrum at f7b7841; no full run to prepare",
    knobs=_knobs,
    attach=attach,
)
