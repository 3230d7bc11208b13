"""Figure 5: how many calibration prompts the paper's method needs, and how many ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import cycle, islice
from typing import Any

from benchmarks.method import METHODS as NAMED
from benchmarks.method import policies_for
from benchmarks.paper.pipelines import Opened
from benchmarks.paper.published import speedups
from ertacache.evaluation.comparison import Variant
from ertacache.method.named_methods import Method

METHODS: Mapping[str, Method] = {name: NAMED[name] for name in ("paper", "aligned")}


def run(opened: Opened) -> dict[str, Any]:
    """Held-out quality for each size of the calibration set; the sets are nested."""
    speedup = speedups(opened.family)[-1]
    own = opened.embedded.calibration_prompts
    variants = []
    for size in opened.counts.sizes:
        embedded = replace(opened.embedded, calibration_prompts=repeated(own, size))
        folder = opened.work / f"figure5-{size}-prompts"
        for (_, name), policy in policies_for(embedded, dict(METHODS), [speedup], size, folder).items():
            variants.append(Variant(f"{name}, {size}", opened.num_steps, policy=policy))
    rows = opened.measured(variants, "figure5")
    names = [(name, size) for size in opened.counts.sizes for name in METHODS]
    return {
        "speedup": speedup,
        "distinct": min(len(own), max(opened.counts.sizes)),
        "rows": [{"method": m, "size": s, **asdict(row)} for (m, s), row in zip(names, rows, strict=True)],
    }


def repeated(prompts: Sequence[str], count: int) -> list[str]:
    """``count`` prompts, repeated if there are fewer. Calibration gives each a seed of its own."""
    return list(islice(cycle(prompts), count))
