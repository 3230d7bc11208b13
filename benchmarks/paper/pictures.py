"""Figures 3 and 4: what the methods' pictures and clips look like; of clips the first and the last frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.progress import Progress
from torch import Tensor

from benchmarks.paper.ablation import ALIGNED, PARTS
from benchmarks.paper.comparison import entry_at, entry_with
from benchmarks.paper.pipelines import Opened
from benchmarks.paper.published import speedups
from benchmarks.rivals import ours, solvers
from ertacache.evaluation.comparison import Result, Variant, compare
from ertacache.method.schedule import computed_steps_for
from ertacache.presenting.pictures import side_by_side


def compared(opened: Opened) -> dict[str, Any]:
    """Figure 3: the full run, TeaCache, PAB where it runs, `paper`, `aligned`, fewer steps, at the fast speedup."""
    speedup = speedups(opened.family)[-1]
    computed = computed_steps_for(opened.num_steps, speedup)
    rivals = [entry_at(opened, name, speedup)[0] for name in ("TeaCache", "PAB")]
    own = [entry_with(opened, rival, computed) for rival in (ours.PAPER, ours.ALIGNED, solvers.FEWER_STEPS)]
    return _shown(opened, [entry.variant for entry in (*rivals, *own) if entry], "figure3", speedup)


def strategies(opened: Opened) -> dict[str, Any]:
    """Figure 4: each part of the method added, and `aligned`."""
    speedup = speedups(opened.family)[-1]
    policies = opened.policies({**PARTS, **ALIGNED}, speedup)
    variants = [Variant(name, opened.num_steps, policy=policy) for name, policy in policies.items()]
    return _shown(opened, variants, "figure4", speedup)


def _shown(opened: Opened, variants: Sequence[Variant], figure: str, speedup: float) -> dict[str, Any]:
    """Generate, draw, and say what was drawn: the PSNR of each picture or clip."""
    prompts = opened.held_out[: opened.counts.shown]
    pictures: dict[str, list[Tensor]] = {}
    with Progress(console=opened.console, transient=True) as progress:
        task = progress.add_task(f"{opened.name}: {figure}", total=len(prompts) * (1 + len(variants)))

        def keep(number: int, name: str, result: Result) -> None:
            progress.advance(task)
            pictures.setdefault(name, []).append(result.pictures[0])

        rows = compare(opened.embedded.pipe, opened.full, variants, opened.calls(prompts), on_result=keep)
    path = opened.images / f"paper-{figure}-{opened.name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    clips, captions = pictures[opened.full.name][0].ndim == 4, list(prompts)
    if clips:
        pictures = {name: [frame for clip in shown for frame in clip[[0, -1]]] for name, shown in pictures.items()}
        captions = [f"{prompt}: {which}" for prompt in prompts for which in ("first frame", "last frame")]
    side_by_side({name.removeprefix("ERTACache, "): shown for name, shown in pictures.items()}, captions, path)
    return {
        "image": path.name,
        "speedup": speedup,
        "prompts_shown": prompts,
        "psnr": {row.name: row.psnr for row in rows[1:]},
    }
