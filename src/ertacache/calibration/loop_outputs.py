"""What a closed loop computed, kept so that another loop can begin as it did without computing it again."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor


class ComputedOutput(NamedTuple):
    """What one prompt's computed step returned.

    Args:
        output: the model output, (batch, ...), in the pipeline's dtype.
        contrast: how the guidance branches differed, the same shape, float32; None with one branch.
    """

    output: Tensor
    contrast: Tensor | None

    def copied_to(self, device: torch.device) -> ComputedOutput:
        """A copy, which nothing else writes into."""
        between = self.contrast
        copied = None if between is None else between.to(device, copy=True)
        return ComputedOutput(self.output.to(device, copy=True), copied)


class Trace:
    """The computed steps of one closed loop; in main memory, or in temporary files.

    Args:
        cached_steps: the loop's schedule.
        in_files: whether to keep them in files, for as long as this object lives.
    """

    def __init__(self, cached_steps: Collection[int], *, in_files: bool = False) -> None:
        self.cached_steps = frozenset(cached_steps)
        self._folder = TemporaryDirectory(prefix="ertacache-") if in_files else None
        self._outputs: dict[int, list[ComputedOutput]] = {}
        self._steps: list[int] = []

    def keep(self, step: int, outputs: Sequence[ComputedOutput]) -> None:
        """Keep a computed step.

        Args:
            step: its index.
            outputs: one for each prompt.
        """
        self._steps.append(step)
        copies = [row.copied_to(torch.device("cpu")) for row in outputs]
        if self._folder is None:
            self._outputs[step] = copies
            return
        tensors = {f"output {k}": row.output.contiguous() for k, row in enumerate(copies)}
        tensors |= {f"contrast {k}": r.contrast.contiguous() for k, r in enumerate(copies) if r.contrast is not None}
        save_file(tensors, self._path(step))

    def output(self, step: int, prompt: int) -> ComputedOutput:
        """What was kept of a prompt's step, on the CPU."""
        if self._folder is None:
            return self._outputs[step][prompt]
        with safe_open(self._path(step), "pt") as file:
            names = set(file.keys())
            between = f"contrast {prompt}"
            kept = file.get_tensor(between) if between in names else None
            return ComputedOutput(file.get_tensor(f"output {prompt}"), kept)

    def shared_with(self, cached: Collection[int]) -> frozenset[int]:
        """The computed steps before the first step at which the two schedules differ."""
        differing = self.cached_steps ^ frozenset(cached)
        return frozenset(i for i in self._steps if i < min(differing, default=len(self._steps) + len(cached)))

    def _path(self, step: int) -> Path:
        assert self._folder is not None  # both callers have checked
        return Path(self._folder.name) / f"{step}.safetensors"
