"""ProfilingDiT: blocks that look at the background are cached at an interval, those that look at the foreground run.

The paper is "Model Reveals What to Cache: Profiling-Based Feature Reuse for Video Diffusion Models" (arXiv 2504.03140,
ICCV 2025); equation numbers here are its own. Checked against the paper as kept in GeekGuru123/ProfilingDiT at commit
a9b21bc, and that repository's code.

- Caching, ``Wan2.1/wan/cache.py``: the change of each run of consecutive background blocks (Eq. 9) is added until it is
  computed anew; there is a cache for each guidance branch. Their ``DitCache`` and this module on 40 toy blocks, 50
  steps, two branches and Wan's list of 28: the same 1984 of 4000 calls of a block are computed, and outputs are equal
  to the bit. Likewise ``HunyuanVideo/hyvideo/ditcache.py`` with its list of 24 and our steps of Eq. (15).
- Intervals, Eq. (15). The code has fixed ones: 6 of 50 steps for Wan2.1 (``Wan2.1/generate.py``), and for HunyuanVideo
  a list by hand, 6 18 26 32 38 42 46 48 (``HunyuanVideo/hyvideo/config.py``). `computed_steps` gives
  6 18 27 34 39 43 46 48 for T_max = 12 and T_min = 2.
- Profiling is published as Eqs. (5) to (7) only. The code has the resulting lists: background are 28 of the 40 blocks
  of Wan2.1-14B, and 24 of the 40 single blocks of HunyuanVideo, whose double blocks are not profiled.

Decided here:

- The foreground is found by SAM 2 there, in each step's prediction, its channels reduced to 3 by PCA. Here it is found
  without a network, in the final latent, likewise reduced: what differs from the frames' border, by Otsu's threshold.
- A token is looked at where the attention it receives is above the average of the visual tokens. In Open-Sora, whose
  blocks attend within a frame or within a place, that is the average within these.
- R_attn is averaged over steps, guidance branches and four calibration prompts. The threshold τ is not published; it is
  put where a given number of blocks falls below it, with the authors 0.7 of Wan's.
- Instead of Eqs. (10) and (12) the code is followed: changes of several steps are not added up, and after a computed
  step s the next one is s + T_s, here rounded down.
- All blocks are profiled, in FLUX and Open-Sora those of both kinds. A picture is a clip of one frame. Text tokens that
  blocks change are cached with the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from benchmarks.rivals.base import Calls, Knobs, Rival, Span, Subject, ordered_blocks

_PROMPTS = 4
"""For profiling."""

_SETTINGS = (
    (0.3, 0.05, 0.05),
    (0.5, 0.05, 0.05),
    (0.7, 0.05, 0.05),
    (0.7, 0.24, 0.04),  # HunyuanVideo's, near enough
    (0.7, 0.12, 0.12),  # Wan2.1's in the code
    (0.7, 0.40, 0.40),
    (1.0, 0.24, 0.24),
    (1.0, 0.40, 0.40),
)
"""Background blocks as a share of all; T_max and T_min as shares of the steps."""


def computed_steps(num_steps: int, *, step_start: int, T_max: int, T_min: int) -> tuple[int, ...]:  # noqa: N803
    """The steps from ``step_start`` on that run all blocks, by Eq. (15).

    Args:
        num_steps: S.
        step_start: s_0; the steps before it run all blocks too.
        T_max, T_min: the interval at ``step_start``, and that at the end.
    """
    found, step, span = [], step_start, num_steps - step_start
    while step < num_steps:
        found.append(step)
        step += max(1, (T_max * span - (T_max - T_min) * (step - step_start)) // span)
    return tuple(found)


def background_runs(R_attn: Sequence[float], background: int) -> list[range]:  # noqa: N803
    """The background blocks, Eq. (7), as runs of consecutive ones.

    Args:
        R_attn: of each block.
        background: how many blocks are to be below the threshold τ.
    """
    chosen = sorted(sorted(range(len(R_attn)), key=R_attn.__getitem__)[:background])
    runs: list[range] = []
    for block in chosen:
        if runs and runs[-1].stop == block:
            runs[-1] = range(runs[-1].start, block + 1)
        else:
            runs.append(range(block, block + 1))
    return runs


def foreground(features: Tensor) -> Tensor:
    """Which tokens show the foreground.

    Args:
        features: (frames, rows, columns, channels), what is at each token.

    Returns:
        bool, (frames, rows, columns).
    """
    flat = features.flatten(0, 2).double()
    centred = flat - flat.mean(dim=0)
    axes = torch.linalg.svd(centred, full_matrices=False)[2]
    colours = (centred @ axes[:3].T).unflatten(0, features.shape[:3])
    inner = torch.zeros(features.shape[1:3], dtype=torch.bool)
    inner[1:-1, 1:-1] = True
    distances: Tensor = (colours - colours[:, ~inner].mean(dim=(0, 1))).norm(dim=-1)
    return distances > _otsu(distances)


def _otsu(values: Tensor) -> Tensor:
    """The threshold that leaves the least variance on its two sides."""
    ordered = values.flatten().sort().values
    below = torch.arange(1, len(ordered))
    above = len(ordered) - below
    sums = ordered.cumsum(0)
    means = sums[:-1] / below, (sums[-1] - sums[:-1]) / above
    return ordered[(below * above * (means[0] - means[1]) ** 2).argmax()]


class _Watch(TorchFunctionMode):
    """Counts how often each token is looked at, in each block."""

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.blocks = blocks
        self.looked_at: list[Tensor] = [torch.zeros(())] * len(blocks)
        """For each block (tokens,), over all calls."""
        self.calls = 0
        self._entered: tuple[int, Tensor] | None = None

    @contextmanager
    def attached(self) -> Iterator[_Watch]:
        """Watch."""
        with ExitStack() as stack:
            for number, block in enumerate(self.blocks):
                hook = block.register_forward_pre_hook(self._enter(number), with_kwargs=True)
                stack.callback(hook.remove)
            stack.enter_context(self)
            yield self

    def _enter(self, number: int) -> Callable[..., None]:
        def enter(block: nn.Module, args: Any, kwargs: Any) -> None:
            self._entered = number, kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
            self.calls += number == 0

        return enter

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        # A block's first attention is that of tokens to each other; others are to the text.
        if func is F.scaled_dot_product_attention and self._entered is not None:
            (number, hidden), self._entered = self._entered, None
            given = dict(zip(("query", "key"), args, strict=False)) | kwargs
            temporal = getattr(self.blocks[number], "temporal", False)
            seen = _looked_at(given["query"], given["key"], hidden, temporal)
            self.looked_at[number] = self.looked_at[number] + seen
        return func(*args, **kwargs)


def _looked_at(query: Tensor, key: Tensor, hidden: Tensor, temporal: bool) -> Tensor:
    """Which tokens receive more attention than the average one, Eq. (5).

    Args:
        query, key: (groups, heads, L, channels); of the L tokens the text's come first.
        hidden: what entered the block, (batch, N, dim), or in Open-Sora (batch, frames, places, dim).
        temporal: whether a group is one place in all frames; else it is one frame, or all.

    Returns:
        (N,) in 0 .. 1, the mean over the batch.
    """
    visual = query.shape[2] if hidden.ndim == 4 else hidden.shape[1]
    weights = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(dim=-1)
    received = weights[..., -visual:, -visual:].mean(dim=(1, 2))
    seen: Tensor = (received > received.mean(dim=-1, keepdim=True)).double()
    if hidden.ndim == 4:
        seen = seen.reshape(len(hidden), -1, seen.shape[-1])
        seen = (seen.transpose(1, 2) if temporal else seen).flatten(1)
    return torch.mean(seen, dim=0)


def _features(subject: Subject, latents: Tensor) -> Tensor:
    """A pipeline's latents as (frames, rows, columns, channels), one for each token of the denoiser."""
    if latents.ndim == 3:  # FLUX packs them into tokens itself
        rows = subject.arguments["height"] // (2 * subject.pipe.vae_scale_factor)
        return latents.reshape(len(latents), rows, -1, latents.shape[-1])
    frames_first = latents[0] if type(subject.pipe).__name__.startswith("CogVideoX") else latents[0].transpose(0, 1)
    patch: Any = subject.pipe.transformer.config.patch_size
    pooled = F.avg_pool2d(frames_first, patch if isinstance(patch, int) else patch[-1], ceil_mode=True)
    return pooled.permute(0, 2, 3, 1)


def profile(subject: Subject) -> tuple[float, ...]:
    """R_attn of each block, Eq. (6): how much of the foreground it looks at, in 0 .. 1."""
    blocks = ordered_blocks(subject.denoiser)
    ratios = torch.zeros(len(blocks), dtype=torch.float64)
    prompts = subject.calibration_prompts[:_PROMPTS]
    for seed, prompt in enumerate(prompts):
        generator = torch.Generator("cpu").manual_seed(seed)
        with _Watch(blocks).attached() as watch:
            output = subject.pipe(prompt=prompt, generator=generator, output_type="latent", **subject.arguments)
        mask = foreground(_features(subject, output[0].cpu().float())).flatten()
        ratios += torch.stack([seen.cpu()[mask].mean() / watch.calls for seen in watch.looked_at])
    return tuple((ratios / len(prompts)).tolist())


@contextmanager
def _attach(subject: Subject, knobs: Knobs, prepared: tuple[float, ...]) -> Iterator[None]:
    blocks = ordered_blocks(subject.denoiser)
    calls = Calls(subject.calls_per_step)
    intervals = {name: knobs[name] for name in ("step_start", "T_max", "T_min")}
    computed = {*range(knobs["step_start"]), *computed_steps(subject.num_steps, **intervals)}

    def skips(given: Mapping[str, Any]) -> bool:
        return calls.step not in computed

    with ExitStack() as stack:
        stack.enter_context(calls.counted(subject.denoiser))
        for run in background_runs(prepared, knobs["background"]):
            stack.enter_context(Span([blocks[number] for number in run], calls, skips).attached())
        yield


def _knobs(subject: Subject) -> Sequence[Knobs]:
    """From nine tenths of the operations to about a third of those of a stack of 6, where only one block always runs.

    All blocks run in the first 0.12 of the steps, as with the authors (6 of 50); no setting gets below that share.
    """
    count, steps = len(ordered_blocks(subject.denoiser)), subject.num_steps
    return [
        {
            "step_start": max(1, round(0.12 * steps)),
            "T_max": max(2, round(longest * steps)),
            "T_min": max(1, round(shortest * steps)),
            "background": min(max(1, int(share * count)), count - 1),
        }
        for share, longest, shortest in _SETTINGS
    ]


PROFILING_DIT = Rival(
    name="ProfilingDiT",
    source="arXiv 2504.03140; GeekGuru123/ProfilingDiT at a9b21bc",
    knobs=_knobs,
    attach=_attach,
    prepare=profile,
)
