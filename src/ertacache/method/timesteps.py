"""Trajectory-aware timestep adjustment, the paper's Algorithm 1, lines 3-12, with its errata.

A cached step whose output would have changed is shortened, and the others are lengthened. In: the correction of every
cached step. Out: the lengths of all steps, the grid points they add up to, and the noise levels there.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

SMALLEST_CORRECTION = 0.1
"""The floor of ``phi``: a correction of 0 would repeat a noise level, and multistep solvers divide by the gap.

With a much smaller floor such a solver multiplies its earlier outputs by so much that a clip turns into noise.
"""


def correction_coefficient(prediction_error: float, output_change: float) -> float:
    """Eq. (13): the correction of a cached step, ``phi_i = clip(1 - |v~_i - v_i|_1 / |v_i - v_{i-1}|_1, 0, 1)``.

    Args:
        prediction_error: ``|v~_i - v_i|_1``, summed over the calibration prompts, 0 or more.
        output_change: ``|v_i - v_{i-1}|_1``, likewise. If it is 0, the output did not change: phi is 1 if the
            prediction is exact, else 0.

    Returns:
        0 .. 1, where 1 leaves the step as long as a computed one.
    """
    if output_change == 0:
        return 1.0 if prediction_error == 0 else 0.0
    return min(max(1 - prediction_error / output_change, 0.0), 1.0)


def step_lengths(num_steps: int, cached: Collection[int], corrections: Mapping[int, float]) -> list[float]:
    """Eq. (14): the lengths of all steps, in shares of the grid; they sum to 1.

    ``Delta_i = Delta_c`` if step i is computed and ``Delta_c * phi_i`` if it is cached; after every step,
    ``Delta_c`` becomes what is left of the grid over *the number of steps left*. As printed, (14) divides by
    ``1 - i/T``, which loses a factor T, and Algorithm 1 updates ``Delta_c`` after cached steps only.

    Args:
        num_steps: T.
        cached: the cached steps, within 1 .. T-2.
        corrections: ``phi_i`` of each cached step (see `correction_coefficient`), raised to `SMALLEST_CORRECTION`
            where smaller.

    Returns:
        T lengths, each over 0.
    """
    lengths: list[float] = []
    current, used = 1 / num_steps, 0.0
    for i in range(num_steps):
        phi = max(corrections[i], SMALLEST_CORRECTION) if i in cached else 1.0
        lengths.append(current * phi)
        used += lengths[-1]
        if i < num_steps - 1:
            current = (1 - used) / (num_steps - 1 - i)
    return lengths


def time_grid(lengths: Sequence[float]) -> list[float]:
    """Sum step lengths to grid points ``tau_0 = 0 .. tau_T = 1``, the last one exactly 1.

    Args:
        lengths: what `step_lengths` returned.
    """
    grid = np.concatenate([[0.0], np.cumsum(lengths)])
    grid[-1] = 1.0
    return [float(tau) for tau in grid]


def warp(levels: Sequence[float] | NDArray[np.float64], grid: Sequence[float]) -> NDArray[np.float64]:
    """Find the noise levels at the grid points: the scheduler's own curve, interpolated at ``tau_i * T``.

    Args:
        levels: the T + 1 noise levels of the unwarped grid, in sampling order, the terminal one included.
        grid: the T + 1 points ``tau_i``, rising from 0 to 1.

    Returns:
        (T + 1,), float64; the first and the last are those of ``levels``.
    """
    curve = np.asarray(levels, dtype=np.float64)
    num_steps = len(curve) - 1
    warped: NDArray[np.float64] = np.interp(np.asarray(grid) * num_steps, np.arange(num_steps + 1), curve)
    return warped
