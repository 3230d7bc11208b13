"""At 20 steps, and with two experts of ten steps each: methods side by side: docs/records/pipelines.md.

    python -m benchmarks.twenty     # an hour on a core, and resumable

`wan22` is the small Wan-type pipeline with two experts (training/experts.py) whose boundary lies in the middle of 20
steps, as in the usual workflows of Wan 2.2. Held-out prompts and seeds; instant policies by a prior that has not seen
the pipeline.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from benchmarks.cost.measuring import following
from benchmarks.keys import environment, key_of
from benchmarks.markdown import table, write_figures
from ertacache import Method, Policy, calibrate, zoo
from ertacache.evaluation.comparison import Variant, calls_of, fewer_steps
from ertacache.evaluation.harness import measure
from ertacache.method.schedule import evenly_spaced
from ertacache.runtime.instant import Instant
from ertacache.runtime.step_budget import StepBudget

STEPS = 20
SPEEDUPS = (1.5, 2.0, 3.0)
NUM_PROMPTS = 8
MODELS = ("flux", "wan", "wan22", "cogvideox")
FORCED = {"wan22": (10,)}
"""The step at which the second expert begins, which is always computed."""
OF_THE_SAME_FAMILY = {"wan22": "wan"}
"""What is left out of the prior beside the pipeline itself."""


def ways(embedded: zoo.Embedded, model: str, folder: Path) -> dict[str, Variant]:
    """By step ratio and way."""
    found = {}
    arguments = {**embedded.arguments, "num_inference_steps": STEPS}
    for speedup in SPEEDUPS:
        computed = StepBudget(speedup).computed(STEPS)
        found[f"{speedup:g} fewer steps"] = fewer_steps(computed)
        cached = evenly_spaced(STEPS, computed, FORCED.get(model, ()))
        for name in ("uniform", "taylor"):
            found[f"{speedup:g} {name}"] = Variant("", STEPS, policy=Policy(STEPS, cached, Method.named(name)))
        instant = Instant(StepBudget(speedup), without=OF_THE_SAME_FAMILY.get(model, model))
        found[f"{speedup:g} instant"] = Variant("", STEPS, around=partial(following, instant))
        path = folder / f"aligned-{speedup:g}.safetensors"
        if not path.exists():
            prompts = embedded.calibration_prompts[:NUM_PROMPTS]
            calibrate(embedded.pipe, prompts, speedup=speedup, progress=False, **arguments).save(path)
        found[f"{speedup:g} aligned"] = Variant("", STEPS, policy=Policy.load(path))
    return found


def measured(model: str, prompts: int, seed: int, work: Path) -> dict[str, Any]:
    """PSNR by step ratio and way: a list over prompts."""
    embedded = zoo.load(model)
    folder = work / model / key_of(embedded, STEPS, prompts, seed)
    by_name = ways(embedded, model, folder)
    calls = calls_of(embedded.arguments, embedded.held_out_prompts[:prompts], seed)
    rows = measure(embedded.pipe, Variant("full", STEPS), list(by_name.values()), calls, folder / "measured")
    return {"model": model, "psnr": {name: row.psnr for name, row in zip(by_name, rows, strict=True)}}


def quality_table(results: list[dict[str, Any]]) -> str:
    """A row for each pipeline and ratio; the best in bold."""
    names = ("fewer steps", "uniform", "taylor", "instant", "aligned")
    lines = [["pipeline", "step ratio", *names]]
    for result in results:
        for speedup in SPEEDUPS:
            values = [fmean(result["psnr"][f"{speedup:g} {name}"]) for name in names]
            cells = [f"**{value:.1f}**" if value == max(values) else f"{value:.1f}" for value in values]
            lines.append([result["model"], f"{speedup:g}x", *cells])
    return table(lines)


def main(
    models: Annotated[list[str] | None, typer.Argument(help=f"by default {', '.join(MODELS)}")] = None,
    out: Annotated[Path, typer.Option(help="the folder for the figures")] = Path("benchmarks/results"),
    work: Annotated[Path, typer.Option(help="unfinished measurements")] = Path("out/benchmark-twenty"),
    prompts: Annotated[int, typer.Option(help="held-out prompts")] = 8,
    seed: Annotated[int, typer.Option(help="of the first held-out prompt")] = 1000,
) -> None:
    """Measure, and write the figures."""
    torch.set_num_threads(1)
    results = []
    for model in models or MODELS:
        results.append(measured(model, prompts, seed, work))
        print(quality_table(results), flush=True)
    figures = {**environment(), "prompts": prompts, "seed": seed, "steps": STEPS, "results": results}
    write_figures(out, "twenty", figures, {"twenty": quality_table(results)}, Console())


if __name__ == "__main__":
    typer.run(main)
