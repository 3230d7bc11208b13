"""The prior of instant policies: how outputs of the trained pipelines vary with the noise level.

    python -m training.prior

Records full runs of every trained pipeline, and writes the dot products of their outputs over a common grid of angles
to ``src/ertacache/method/prior.json``. Each pipeline's stand apart, so that any of them can be left out when the
prior is judged.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray

from ertacache import zoo
from ertacache.calibration.announcement import Workload
from ertacache.calibration.full_runs import open_session
from ertacache.calibration.gram import gram_of
from ertacache.calibration.options import CalibrationOptions
from ertacache.method.grid_mapping import interpolation_matrix
from ertacache.method.prior import ANGLES, PRIOR
from ertacache.runtime.guidance_transfer import scale_of
from ertacache.runtime.schedulers import angles_of

Array = NDArray[np.float64]

STEPS = 50
NUM_PROMPTS = 8


def recorded(name: str, work: Path) -> Array:
    """The Gram matrix of a pipeline's outputs without guidance, and of its guidance contrasts, over `ANGLES`.

    Returns:
        (2K, 2K), float64: rows of ``u`` and then of ``d`` of outputs ``v = u + g d``, in units of the mean square of v.
    """
    embedded = zoo.load(name)
    arguments = {**embedded.arguments, "num_inference_steps": STEPS}
    steps = int(arguments.pop("num_inference_steps"))
    options = CalibrationOptions.checked(
        embedded.pipe, steps, arguments, seed=0, progress=False, checkpoint=work, memory_limit=float("inf")
    )
    with open_session(embedded.pipe, embedded.calibration_prompts[:NUM_PROMPTS], options, Workload()) as session:
        gram = gram_of(session.loops.recordings)
        levels, guidance = session.loops.setting.grid, session.circumstances.guidance
        angles = angles_of(embedded.pipe.scheduler, levels)
    scale = scale_of(guidance)
    assert scale is not None  # all of them were trained with guidance
    assert len(gram) == 2 * steps
    sign = np.sign(np.trace(gram[:steps, steps:]))  # whichever branch comes first
    one, none = np.eye(steps), np.zeros((steps, steps))
    mix = np.block([[one, -guidance[scale] * sign * one], [none, sign * one]])
    read = interpolation_matrix(angles[:-1], np.clip(ANGLES, angles[-2], angles[0]).tolist())
    both = np.kron(np.eye(2), read) @ mix
    found: Array = both @ gram @ both.T / np.mean(np.diag(gram)[:steps])
    return found


def main(work: Annotated[Path, typer.Option(help="full runs, kept")] = Path("out/training-prior")) -> None:
    """Write the prior."""
    torch.set_num_threads(1)
    found = {}
    for name in zoo.available():
        gram = recorded(name, work)
        found[name] = [[float(f"{value:.5g}") for value in row[: k + 1]] for k, row in enumerate(gram.tolist())]
        print(f"{name}: {len(gram)} rows", flush=True)
    PRIOR.write_text(json.dumps(found, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
