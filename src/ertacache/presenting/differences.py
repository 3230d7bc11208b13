"""How much brighter differences between pictures must be made to be seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

import numpy as np
from torch import Tensor

MOST = 32
"""Largest gain: beyond it the rounding of pictures to 8 bits would be seen rather than their difference."""
_LOOKED_AT = 100_000
"""Numbers of a picture that are looked at; evenly spaced ones of a larger picture."""


def visible_gain(cases: Sequence[Mapping[str, Tensor]], reference: str) -> int:
    """A power of two, at most `MOST`, that makes a typical difference bright without clipping it.

    Typical is the median over all pictures of the 99th percentile of a picture's differences.

    Args:
        cases: for each prompt its pictures, by the way to generate; float in 0 .. 1, any shape, all of one shape.
        reference: the name of the picture that the others of a prompt are compared with.
    """
    sizes = [
        _bright(picture, pictures[reference])
        for pictures in cases
        for name, picture in pictures.items()
        if name != reference
    ]
    typical = median(sizes) if sizes else 1.0
    gain = 1
    while gain < MOST and 2 * gain * typical <= 1:
        gain *= 2
    return gain


def _bright(picture: Tensor, reference: Tensor) -> float:
    apart = (picture.float().clamp(0, 1) - reference.float().clamp(0, 1)).abs().flatten()
    step = len(apart) // _LOOKED_AT | 1  # odd, so that it does not stay in one column of the picture
    return float(np.percentile(apart[::step].cpu().numpy(), 99))
