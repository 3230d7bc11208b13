"""Gram matrices: the dot products of the outputs of all steps. The surrogate and transfers are computed from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ertacache.calibration.recording import Recording, Setting
from ertacache.calibration.shard import current_shard
from ertacache.method.prior import outputs_with_prior, prior_outputs
from ertacache.method.surrogate import Surrogate


def grams_of(recordings: Sequence[Recording], num_steps: int | None = None) -> list[NDArray[np.float64]]:
    """Compute ``<v_i, v_j>`` for all pairs of steps, for each prompt.

    Args:
        recordings: one recording for each of this process's prompts; those of all prompts are returned.
        num_steps: how many rows to use, from the first one on; None for all that were recorded.

    Returns:
        As many as there are prompts, each (num_steps, num_steps), float64.
    """
    own = [recording.gram()[:num_steps, :num_steps] for recording in recordings]
    return current_shard().gather(own, "dot products of the full runs")


def gram_of(recordings: Sequence[Recording], num_steps: int | None = None) -> NDArray[np.float64]:
    """As `grams_of`, summed over prompts."""
    total: NDArray[np.float64] = np.sum(grams_of(recordings, num_steps), axis=0)
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
    streams = [[recording.of_stream(k) for recording in recordings] for k in range(setting.num_streams)]
    grams = [grams_of(own, setting.of_stream(k).num_steps) for k, own in enumerate(streams)]
    responses = [current_shard().agreed(own[0].response, "the sampler's response") for own in streams]

    def of(some: slice) -> Surrogate:
        """The surrogate of some of the prompts; of none, the prior."""
        joined = []
        for k, (all_prompts, response) in enumerate(zip(grams, responses, strict=True)):
            here, chosen = setting.of_stream(k), all_prompts[some]
            if chosen:
                total = np.sum(chosen, axis=0)
                outputs = outputs_with_prior(total, len(chosen), here.angles, guidance, without)
            else:
                outputs = prior_outputs(here.angles, guidance, without)
            joined.append(Surrogate.answering(outputs, response, here.forced, here.emptied))
        return Surrogate.joint(joined)

    prompts = range(len(grams[0]))
    alone = [of(slice(k, k + 1)) for k in prompts if len(prompts) > 1]
    return replace(of(slice(None)), alone=alone, prior=of(slice(0)))
