"""Keep the outputs that a closed loop computed, so that another loop can begin with them and need not compute them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor


class ComputedOutput(NamedTuple):
    """The output of one prompt's computed step.

    Args:
        output: the model output, (batch, ...), in the pipeline's dtype.
        contrast: the difference of the guidance branches, of the same shape, float32; None with one branch.
    """

    output: Tensor
    contrast: Tensor | None

    def copied_to(self, device: torch.device) -> ComputedOutput:
        """Copy it to a device; nothing else writes into the copy."""
        between = self.contrast
        copied = None if between is None else between.to(device, copy=True)
        return ComputedOutput(self.output.to(device, copy=True), copied)


class Trace:
    """The outputs of one closed loop's computed steps, in main memory or in temporary files; of one latent.

    Args:
        cached_steps: the loop's schedule.
        in_files: whether to keep the outputs in files; they are deleted with this object.
    """

    def __init__(self, cached_steps: Collection[int], *, in_files: bool = False) -> None:
        self.cached_steps = frozenset(cached_steps)
        self._in_files = in_files
        self._folder = TemporaryDirectory(prefix="ertacache-") if in_files else None
        self._beside: dict[int, Trace] = {}
        self._outputs: dict[int, list[ComputedOutput]] = {}
        self._steps: list[int] = []
        self._kept: set[int] = set()

    @property
    def steps(self) -> list[int]:
        """The computed steps that the loop came to."""
        return list(self._steps)

    def of_stream(self, stream: int) -> Trace:
        """The outputs of another latent that the loop steps; 0 is this one."""
        if stream and stream not in self._beside:
            self._beside[stream] = Trace(self.cached_steps, in_files=self._in_files)
        return self._beside[stream] if stream else self

    def keep(self, step: int, outputs: Sequence[ComputedOutput]) -> None:
        """Keep the outputs of a computed step.

        Args:
            step: the index of the step.
            outputs: one output for each prompt.
        """
        self._steps.append(step)
        self._kept.add(step)
        copies = [row.copied_to(torch.device("cpu")) for row in outputs]
        if self._folder is None:
            self._outputs[step] = copies
            return
        tensors = {f"output {k}": row.output.contiguous() for k, row in enumerate(copies)}
        tensors |= {f"contrast {k}": r.contrast.contiguous() for k, r in enumerate(copies) if r.contrast is not None}
        save_file(tensors, self._path(step))

    def has(self, step: int) -> bool:
        """Whether the outputs of a step are here, and not lost with the process that computed them."""
        return step in self._kept

    def lose(self, steps: Iterable[int]) -> None:
        """Note steps that the loop computed, but whose outputs are not here."""
        self._steps += steps

    def output(self, step: int, prompt: int) -> ComputedOutput:
        """Read the output of a prompt at a step, on the CPU."""
        if self._folder is None:
            return self._outputs[step][prompt]
        with safe_open(self._path(step), "pt") as file:
            names = set(file.keys())
            between = f"contrast {prompt}"
            kept = file.get_tensor(between) if between in names else None
            return ComputedOutput(file.get_tensor(f"output {prompt}"), kept)

    def shared_with(self, cached: Collection[int]) -> frozenset[int]:
        """Return the computed steps before the first step at which this schedule and another one differ."""
        differing = self.cached_steps ^ frozenset(cached)
        return frozenset(i for i in self._steps if i < min(differing, default=len(self._steps) + len(cached)))

    def _path(self, step: int) -> Path:
        assert self._folder is not None  # both callers have checked
        return Path(self._folder.name) / f"{step}.safetensors"
