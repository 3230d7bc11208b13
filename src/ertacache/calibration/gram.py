"""Gram matrices: the dot products of the outputs of all steps. The surrogate and transfers are computed from them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ertacache.calibration.recording import Recording, Setting
from ertacache.calibration.shard import current_shard
from ertacache.method.prior import outputs_with_prior
from ertacache.method.surrogate import Surrogate


def gram_of(recordings: Sequence[Recording], num_steps: int | None = None) -> NDArray[np.float64]:
    """Compute ``<v_i, v_j>`` for all pairs of steps, summed over prompts.

    Args:
        recordings: one recording for each of this process's prompts; all prompts are summed.
        num_steps: how many rows to use, from the first one on; None for all that were recorded.

    Returns:
        (num_steps, num_steps), float64.
    """
    own = [recording.gram()[:num_steps, :num_steps] for recording in recordings]
    total: NDArray[np.float64] = np.sum(current_shard().gather(own, "dot products of the full runs"), axis=0)
    return total


def surrogate_of(
    recordings: Sequence[Recording], setting: Setting, guidance: float, without: str | None = None
) -> Surrogate:
    """Make the surrogate of a calibration, from its full runs and the prior.

    Args:
        recordings: one for each of this process's prompts.
        setting: the setting of the full runs.
        guidance: the guidance scale; 1 for none.
        without: the trained pipeline to leave out of the prior, by name, to judge it.
    """
    shard, streams = current_shard(), []
    for k in range(setting.num_streams):
        own, here = [recording.of_stream(k) for recording in recordings], setting.of_stream(k)
        num_prompts = len(shard.gather([None] * len(own), "number of prompts"))
        outputs = outputs_with_prior(gram_of(own, here.num_steps), num_prompts, here.angles, guidance, without)
        response = shard.agreed(own[0].response, "the sampler's response")
        streams.append(Surrogate.answering(outputs, response, here.forced, here.emptied))
    return Surrogate.joint(streams)
