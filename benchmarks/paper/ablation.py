"""Table 3: the method built up part by part at one number of computed steps, and below it `aligned` and fewer steps.

The parts are measured at level ``output``, as the paper's formulas have them, and at level ``hidden``, which its
table of memory suggests that its authors ran.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from benchmarks.method import LEVELS, METHODS
from benchmarks.paper.pipelines import Opened
from benchmarks.paper.published import speedups
from ertacache.evaluation.comparison import Variant, fewer_steps, fewer_steps_on_subgrid
from ertacache.method.named_methods import Method

PARTS: Mapping[str, Method] = {name: METHODS[name] for name in ("uniform", "offline", "offline+time", "paper")}
HIDDEN: Mapping[str, Method] = {
    "uniform, hidden": LEVELS["reuse, hidden"],
    "offline, hidden": LEVELS["offline, hidden"],
    "offline+time, hidden": replace(LEVELS["offline, hidden"], timestep_adjustment=True),
    "paper, hidden": LEVELS["paper, hidden"],
}
ALIGNED: Mapping[str, Method] = {"aligned": METHODS["aligned"]}


def run(opened: Opened) -> dict[str, Any]:
    """All parts at the paper's speedup."""
    speedup = speedups(opened.family)[-1]
    policies = opened.policies({**PARTS, **HIDDEN, **ALIGNED}, speedup)
    aligned = policies["aligned"]
    variants = [
        *(Variant(name, opened.num_steps, policy=policy) for name, policy in policies.items()),
        fewer_steps(len(aligned.computed_steps)),
        fewer_steps_on_subgrid(aligned),
    ]
    rows = opened.measured(variants, "table3")
    return {
        "speedup": speedup,
        "computed_steps": len(aligned.computed_steps),
        "rows": [{"computed_steps": v.computed_steps, **asdict(row)} for v, row in zip(variants, rows, strict=True)],
    }
