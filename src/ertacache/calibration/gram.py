"""Gram matrices: the dot products of the outputs of all steps. The surrogate and transfers are computed from them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ertacache.calibration.recording import Recording, Setting
from ertacache.method.prior import outputs_with_prior
from ertacache.method.surrogate import Surrogate


def gram_of(recordings: Sequence[Recording], num_steps: int | None = None) -> NDArray[np.float64]:
    """Compute ``<v_i, v_j>`` for all pairs of steps, summed over prompts.

    Args:
        recordings: one recording for each prompt.
        num_steps: how many rows to use, from the first one on; None for all that were recorded.

    Returns:
        (num_steps, num_steps), float64.
    """
    total: NDArray[np.float64] = np.sum([recording.gram()[:num_steps, :num_steps] for recording in recordings], axis=0)
    return total


def surrogate_of(
    recordings: Sequence[Recording], setting: Setting, guidance: float, without: str | None = None
) -> Surrogate:
    """Make the surrogate of a calibration, from its full runs and the prior.

    Args:
        recordings: one for each prompt.
        setting: the setting of the full runs.
        guidance: the guidance scale; 1 for none.
        without: the trained pipeline to leave out of the prior, by name, to judge it.
    """
    streams = []
    for k in range(setting.num_streams):
        own, here = [recording.of_stream(k) for recording in recordings], setting.of_stream(k)
        outputs = outputs_with_prior(gram_of(own, here.num_steps), len(own), here.angles, guidance, without)
        streams.append(Surrogate.answering(outputs, own[0].response(), here.forced, here.emptied))
    return Surrogate.joint(streams)
