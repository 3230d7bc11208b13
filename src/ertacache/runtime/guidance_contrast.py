"""What the guidance branches of a step returned, where the pipeline only hands on what it made of them."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ertacache.runtime.driver import Step


def contrast(step: Step) -> Tensor | None:
    """How the first guidance branch's output differs from the last one's, in the shape of the step's model output.

    The branches are one denoiser call each, or the parts of a batch that is several times as large as the sample's.
    What the pipeline leaves out of the model output (a learned variance, tokens of a condition) is left out: its
    place is behind the rest. The prediction takes the contrast for one more feature, so what it is exactly matters
    to its worth alone, never to the exactness of a run.

    Returns:
        float32, or None where there is one branch, or where the denoiser's outputs are laid out in another way.
    """
    batch = len(step.sample)
    branches: list[Tensor] = []
    for output in step.outputs:
        tensor = _tensor(output)
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


def _tensor(output: Any) -> Tensor | None:
    """The sample in whatever the denoiser returned."""
    if isinstance(output, (tuple, list)):
        output = output[0] if output else None
    if not isinstance(output, Tensor):
        output = getattr(output, "sample", None)
    return output if isinstance(output, Tensor) else None
