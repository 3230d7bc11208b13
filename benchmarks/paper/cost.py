"""Table 4: memory and latency, by `benchmarks.latency`: the published sizes on a GPU, scaled down elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks import latency
from benchmarks.paper.pipelines import Opened


def run(opened: Opened) -> dict[str, Any]:
    """Random weights of the backbone's architecture: neither the pipeline nor its prompts matter here."""
    folder = opened.work / "table4"
    latency.main([opened.family], size="", steps=opened.counts.steps, repeats=opened.counts.repeats, out=folder)
    (found,) = folder.glob(f"latency-*-{opened.family}.json")
    return {"measured": json.loads(found.read_text())}


def at_full_size(folder: Path, family: str) -> dict[str, Any] | None:
    """What ``python -m benchmarks.latency`` left in ``folder`` of a run at the published size, if it was made there."""
    path = folder / f"latency-full-{family}.json"
    return json.loads(path.read_text()) if path.is_file() else None
