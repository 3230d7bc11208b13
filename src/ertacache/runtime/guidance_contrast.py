"""Find the contrast of a step: the difference of the guidance branches, which the pipeline gives out only combined."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ertacache.runtime.driver import Step


def contrast(step: Step) -> Tensor | None:
    """Compute the first guidance branch's output minus the last one's.

    The branches are separate denoiser calls, or parts of a batch several times as large as the sample's. The pipeline
    drops what follows the model output along an axis (a learned variance, tokens of a condition), and so does this. A
    prediction uses the contrast only as one more feature, so a poor contrast makes a poor feature, never a wrong run.

    Args:
        step: a computed step.

    Returns:
        The shape of the step's model output, float32, or None if there is one branch only, or the outputs have another
        layout.
    """
    batch = len(step.sample)
    branches: list[Tensor] = []
    for output in step.outputs:
        tensor = _tensor(output, step.stream)
        if tensor is None or not tensor.ndim or not len(tensor) or len(tensor) % batch:
            return None
        branches += tensor.chunk(len(tensor) // batch)
    if len(branches) < 2 or branches[0].shape != branches[-1].shape:
        return None
    wanted = step.model_output.shape
    if branches[0].ndim != len(wanted) or any(
        have < want for have, want in zip(branches[0].shape, wanted, strict=True)
    ):
        return None
    part = tuple(slice(size) for size in wanted)
    return branches[0][part].float() - branches[-1][part].float()


def _tensor(output: Any, stream: int) -> Tensor | None:
    """The tensor of a stream in what the denoiser returned: of a tuple or an output object, the part at its place."""
    if isinstance(output, Mapping):  # diffusers' output objects are
        output = tuple(output.values())
    if isinstance(output, (tuple, list)):
        output = output[stream] if stream < len(output) else None
    if not isinstance(output, Tensor) and not stream:
        output = getattr(output, "sample", None)
    return output if isinstance(output, Tensor) else None
