"""TeaCache: skip the blocks while the timestep embedding says that the output would hardly change.

Liu et al., "Timestep Embedding Tells: It's Time to Cache for Video Diffusion Model", arXiv 2411.19108; checked against
https://github.com/ali-vilab/TeaCache at 7c10efc:

- The rule, first and last step always computed: TeaCache4FLUX/teacache_flux.py,
  TeaCache4CogVideoX1.5/teacache_sample_video.py, eval/teacache/experiments/opensora.py.
- A state for each guidance branch where guidance calls twice: TeaCache4Wan2.1/teacache_generate.py. The authors' FLUX
  has one call a step; for two, issue #65 refers to that file.
- What is compared by family: the same files. For Wan it is their default, the time embedding before its projection;
  with ``use_ret_steps`` it would be the one after it, the first 5 steps of 50 computed. Issue #39, as quoted in
  #67, says that their default needs no such steps, and their README that it is the better one for the small model.
- Their numbers for the rescaling polynomial belong to the published models. `fit` makes others by their recipe, issue
  #2: over all steps of whole runs, ``numpy.polyfit(x, y, 4)``, x the modulated input and y the model output. As the
  rule puts relative L1 distances of consecutive steps into the polynomial, x and y are those. They used 70 prompts.
  Neither file nor issue says whether the output is what leaves the blocks or the denoiser; here it is the latter.

What was run side by side, theirs and this: with the small CogVideoX and 20 steps their whole ``teacache_forward``, at
two thresholds, with a fitted polynomial and with none, 6 to 13 steps computed: latents bit for bit the same. The rule
of their Wan file on the embeddings of a run of 30 steps, 8 thresholds: all 480 decisions the same.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.rivals.base import Calls, Knobs, Rival, Span, Subject, ordered_blocks

CALIBRATION_PROMPTS = 8


def relative_l1(current: Tensor, previous: Tensor) -> float:
    """Their measure of change: mean |current - previous| / mean |previous|."""
    return ((current - previous).abs().mean() / previous.abs().mean()).item()


@dataclass
class Indicator:
    """Decides for one guidance branch, from how far its modulated input moves.

    Args:
        rescale: from the distance of modulated inputs to the expected distance of outputs.
        rel_l1_thresh: the expected distance at which the blocks run again.
        last_step: which is always computed, like step 0.
        accumulated: the expected distance since the blocks last ran.
        previous: modulated input of the step before, whether that was computed or not.
    """

    rescale: Callable[[float], float]
    rel_l1_thresh: float
    last_step: int
    accumulated: float = 0.0
    previous: Tensor | None = None
    skips: bool = False

    def see(self, step: int, modulated: Tensor) -> None:
        """Decide about a step, given what modulates it."""
        if self.previous is None or step == self.last_step:
            self.skips = False
        else:
            self.accumulated += self.rescale(relative_l1(modulated, self.previous))
            self.skips = self.accumulated < self.rel_l1_thresh
        if not self.skips:
            self.accumulated = 0.0
        self.previous = modulated


def _of_flux(block: Any, given: Mapping[str, Tensor]) -> Tensor:
    """(B, tokens, dim), as the first block's attention is about to see it."""
    modulated: Tensor = block.norm1(given["hidden_states"], emb=given["temb"])[0]
    return modulated


def _of_opensora(block: Any, given: Mapping[str, Tensor]) -> Tensor:
    """(B, T, S, dim), likewise for the first spatial block."""
    table = (block.scale_shift_table + given["modulation"])[:, None, None]
    shift, scale, *_ = table.unbind(dim=-2)
    modulated: Tensor = block.norm1(given["hidden_states"]) * (1 + scale) + shift
    return modulated


def _of_cogvideox(block: Any, given: Mapping[str, Tensor]) -> Tensor:
    """(B, time_embed_dim): the time embedding itself."""
    return given["temb"]


AT_FIRST_BLOCK: dict[str, Callable[[Any, Mapping[str, Tensor]], Tensor]] = {
    "FluxTransformer2DModel": _of_flux,
    "CogVideoXTransformer3DModel": _of_cogvideox,
    "STDiT3Transformer3DModel": _of_opensora,
}
"""What is compared, from the first block and its arguments by name."""


@contextmanager
def watching(denoiser: nn.Module, see: Callable[[Tensor], None]) -> Iterator[None]:
    """Show the modulated input of every call to ``see``, before the first block runs."""
    name = type(denoiser).__name__
    if name == "WanTransformer3DModel":
        # Wan's blocks are given its projection only.
        embedder: Any = denoiser.condition_embedder
        hook = embedder.time_embedder.register_forward_hook(lambda module, args, embedding: see(embedding))
    else:
        first = ordered_blocks(denoiser)[0]
        names = list(inspect.signature(type(first).forward).parameters)[1:]

        def before(block: nn.Module, args: Any, kwargs: Any) -> None:
            see(AT_FIRST_BLOCK[name](block, dict(zip(names, args, strict=False)) | kwargs))

        hook = first.register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


def fit(subject: Subject) -> np.ndarray:
    """The five coefficients of the rescaling polynomial, that of the highest power first."""
    distances: list[tuple[float, float]] = []
    for seed, prompt in enumerate(subject.calibration_prompts[:CALIBRATION_PROMPTS]):
        modulated: list[Tensor] = []
        outputs: list[Tensor] = []
        with watching(subject.denoiser, modulated.append), watching_outputs(subject.denoiser, outputs):
            generator = torch.Generator().manual_seed(seed)
            subject.pipe(prompt=prompt, generator=generator, output_type="latent", **subject.arguments)
        for branch in range(subject.calls_per_step):
            x, y = modulated[branch :: subject.calls_per_step], outputs[branch :: subject.calls_per_step]
            distances += [(relative_l1(x[i], x[i - 1]), relative_l1(y[i], y[i - 1])) for i in range(1, len(x))]
    inputs, changes = zip(*distances, strict=True)
    return np.polyfit(inputs, changes, 4)


@contextmanager
def watching_outputs(denoiser: nn.Module, outputs: list[Tensor]) -> Iterator[None]:
    """Append what every call returns to ``outputs``."""
    hook = denoiser.register_forward_hook(lambda module, args, output: outputs.append(output[0]))
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def attach(subject: Subject, knobs: Knobs, coefficients: np.ndarray) -> Iterator[dict[int, Indicator]]:
    """Skip blocks during one call of the pipeline; gives the state of each guidance branch."""
    calls = Calls(subject.calls_per_step)
    indicators = {
        branch: Indicator(np.poly1d(coefficients), knobs["rel_l1_thresh"], subject.num_steps - 1)
        for branch in range(subject.calls_per_step)
    }

    def see(modulated: Tensor) -> None:
        indicators[calls.branch].see(calls.step, modulated)

    span = Span(ordered_blocks(subject.denoiser), calls, skip=lambda given: indicators[calls.branch].skips)
    with calls.counted(subject.denoiser), watching(subject.denoiser, see), span.attached():
        yield indicators


def _refuses(subject: Subject) -> str:
    name = type(subject.denoiser).__name__
    known = {"WanTransformer3DModel", *AT_FIRST_BLOCK}
    return "" if name in known else f"no modulated input is known for {name}"


def _knobs(subject: Subject) -> Sequence[Knobs]:
    return [{"rel_l1_thresh": thresh} for thresh in (0.03, 0.05, 0.07, 0.1, 0.15, 0.22, 0.33, 0.5)]


TEACACHE = Rival(
    name="TeaCache",
    source="arXiv 2411.19108, https://github.com/ali-vilab/TeaCache",
    knobs=_knobs,
    attach=attach,
    prepare=fit,
    refuses=_refuses,
    adaptive=True,
)
