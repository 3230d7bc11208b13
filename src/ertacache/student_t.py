"""Quantiles of Student's t distribution, for confidence and prediction intervals from few samples."""

from __future__ import annotations

from functools import cache
from math import exp, lgamma, pi, sqrt

import numpy as np


@cache
def student_t(freedom: int, probability: float) -> float:
    """Compute a quantile of Student's t distribution, to four digits, by the trapezium rule over its density.

    Args:
        freedom: degrees of freedom, 1 or more.
        probability: the share of the distribution below the quantile, 0.5 to 1.

    >>> round(student_t(15, 0.95), 3)
    1.753
    """
    at = np.linspace(0.0, 100.0, 400_001)
    scale = exp(lgamma((freedom + 1) / 2) - lgamma(freedom / 2)) / sqrt(freedom * pi)
    density = scale * (1 + at**2 / freedom) ** (-(freedom + 1) / 2)
    below = 0.5 + np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2 * np.diff(at))])
    return float(np.interp(probability, below, at))
