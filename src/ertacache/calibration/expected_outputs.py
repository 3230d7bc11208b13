"""What the recordings of a calibration, and the prior, say of outputs: enough to judge schedules and to solve weights.

No closed loop is needed for either. The search begins with the schedules that are best by this, and a calibration on
recordings alone ends with it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ertacache.calibration.recording import Recording, Setting
from ertacache.method.gram_weights import Outputs
from ertacache.method.prediction import Prediction
from ertacache.method.prior import outputs_with_prior
from ertacache.method.simulated_loop import answers_at
from ertacache.method.surrogate import Surrogate
from ertacache.runtime.sampler_response import direction_of

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ExpectedOutputs:
    """What is expected of the outputs in a calibration's setting.

    Args:
        outputs: on the noise levels of the steps that a call makes.
        response: of the sampler, (T, T), float64; see `ertacache.method.simulated_loop.simulated`.
        answers: how outputs answer errors, each (T,), float64.
        forced: steps at which the denoiser's calls change.
    """

    outputs: Outputs
    response: Array
    answers: tuple[Array, ...]
    forced: tuple[int, ...] = ()

    @classmethod
    def of(
        cls, recordings: Sequence[Recording], setting: Setting, guidance: float, without: str | None = None
    ) -> ExpectedOutputs:
        """Take it from the full runs of a calibration and the prior.

        Args:
            recordings: one for each prompt.
            setting: the setting of the full runs.
            guidance: the guidance scale; 1 for none.
            without: the trained pipeline to leave out of the prior, by name, to judge it.
        """
        steps, response = setting.num_steps, recordings[0].response()
        gram = np.sum([recording.gram()[:steps, :steps] for recording in recordings], axis=0)
        outputs = outputs_with_prior(gram, len(recordings), setting.angles, guidance, without)
        return cls(outputs, response, answers_at(outputs.levels, direction_of(response)), setting.forced)

    def surrogate(self) -> Surrogate:
        """Make the surrogate, which estimates the errors of schedules without denoiser calls."""
        return Surrogate(self.outputs, self.response, self.answers, self.forced)

    def solved(self, cached: Collection[int], order: int) -> dict[int, Prediction]:
        """Solve the predictions of a schedule without denoiser calls.

        Args:
            cached: the schedule.
            order: the highest difference that is used.
        """
        return self.outputs.solved(cached, order, self.response, self.answers, self.forced)
