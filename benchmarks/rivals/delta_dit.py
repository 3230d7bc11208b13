"""Delta-DiT: the change that a group of blocks makes is cached, rear blocks early in sampling, front blocks late.

The paper is "Δ-DiT: A Training-Free Acceleration Method Tailored for Diffusion Transformers" (arXiv 2406.01125). Its
front blocks draw the outline and its rear blocks the details, so what is skipped is the rear in the outline stage,
steps 0 .. b - 1, and the front in the detail stage. Every N-th step computes all; the others add the group's change,
output minus input, to what now enters it.

The authors announce code and have not published it; the paper's text could not be had either. Read were the paper's
abstract, summaries of the paper, and what other authors wrote to compare with it: ``deltadit/core/delta_mgr.py`` and
``deltadit/models/opensora/stdit3.py`` of NUS-HPC-AI-Lab/VideoSys at commit d6974cd. For N = 2 and five sizes of
problem, 4008 pairs of a step and a block, the blocks skipped here are those that its manager skips. It departs from
the paper in two ways not followed here: for N > 2 it skips one step in N instead of computing one, and it adds the
cached change with the sign reversed. The paper's own settings are known here as others report them.

Decided here:

- b counts steps from the start of sampling. The settings put it near 0.6 of all steps, as the paper's b = 12 of 20,
  and on a computed step.
- A group larger than half of the stack overlaps the other stage's. So the stack is cut at both groups' edges and each
  piece keeps its own change; those of neighbours add up to the change of the group. Where b is no multiple of N, a
  piece that the outline stage still ran enters the detail stage with a fresher change than the rest of its group.
- Text tokens that blocks change are cached with the others, and each guidance branch has its own cache.
- In Open-Sora a spatial and a temporal block count as two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from typing import Any

from benchmarks.rivals.base import Calls, Knobs, Rival, Span, Subject, ordered_blocks

_SETTINGS = ((2, 0.2), (2, 0.5), (2, 0.75), (3, 0.75), (4, 0.75), (6, 0.75), (6, 1.0), (15, 1.0))
"""N, and the share of blocks to cache. The third makes 1.6 times fewer operations, as the paper's abstract has it."""


def skipped_blocks(step: int, count: int, *, b: int, N: int, N_c: int) -> range:  # noqa: N803
    """The blocks that a step skips.

    Args:
        step: from 0.
        count: of all blocks.
        b: the first step of the detail stage.
        N: every how many steps all blocks run.
        N_c: how many blocks are cached.
    """
    if step % N == 0:
        return range(0)
    return range(count - N_c, count) if step < b else range(N_c)


@contextmanager
def _attach(subject: Subject, knobs: Knobs, prepared: Any) -> Iterator[None]:
    blocks = ordered_blocks(subject.denoiser)
    cached = knobs["N_c"]
    calls = Calls(subject.calls_per_step)

    def skips(first: int) -> Callable[[Mapping[str, Any]], bool]:
        return lambda given: first in skipped_blocks(calls.step, len(blocks), **knobs)

    with ExitStack() as stack:
        stack.enter_context(calls.counted(subject.denoiser))
        edges = sorted({0, len(blocks) - cached, cached, len(blocks)})
        for first, last in pairwise(edges):
            stack.enter_context(Span(blocks[first:last], calls, skips(first)).attached())
        yield


def _knobs(subject: Subject) -> Sequence[Knobs]:
    """From nine tenths of the operations; the floor is one block at every step: a block's share of the stack.

    Of a stack of 6 the strongest setting leaves about a quarter.
    """
    count, steps = len(ordered_blocks(subject.denoiser)), subject.num_steps
    found = []
    for interval, share in _SETTINGS:
        cached = min(max(1, int(share * count)), count - 1)
        found.append({"b": round(0.6 * steps / interval) * interval, "N": interval, "N_c": cached})
    return found


DELTA_DIT = Rival(
    name="Delta-DiT",
    source="arXiv 2406.01125; no code of its authors; NUS-HPC-AI-Lab/VideoSys deltadit",
    knobs=_knobs,
    attach=_attach,
)
