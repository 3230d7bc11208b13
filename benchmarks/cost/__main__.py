"""What each full run brings, beside rivals at their own cost of calibration: docs/records/cost.md.

    python -m benchmarks.cost                  # all trained pipelines; about two hours on two cores
    python -m benchmarks.cost --keep-rivals    # ours anew, beside the rivals of the results that are there
    python -m benchmarks.cost --keep-rivals --speedup 4    # of ours one step ratio, where a change touched no other

For every trained pipeline and step ratio, on held-out prompts and by a prior that has *not* seen the pipeline: an
instant policy (0 full runs), one learnt from a generation (1), calibrations with more and more; fewer steps; and rivals
at every setting, read at equal operations of the denoiser. Prompt by prompt, all ways start from the same noise and are
compared with the same full run. Rivals, of which there are many settings, have the first few of the prompts, and stand
beside ours on those. What was measured is kept.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from benchmarks.cost.measuring import SPEEDUPS, joined, measured_ours, measured_rivals, with_kept_rivals
from benchmarks.cost.tables import drawn, ours_table, rivals_table, worth, worth_table
from benchmarks.keys import environment
from benchmarks.markdown import write_figures
from ertacache import zoo


def main(
    models: Annotated[list[str] | None, typer.Argument(help="by default all that are trained")] = None,
    out: Annotated[Path, typer.Option(help="the folder for the figures")] = Path("benchmarks/results"),
    picture: Annotated[Path, typer.Option(help="the plot")] = Path("docs/images/cost.png"),
    work: Annotated[Path, typer.Option(help="unfinished measurements")] = Path("out/benchmark-cost"),
    prompts: Annotated[int, typer.Option(help="held-out prompts")] = 12,
    rivals_prompts: Annotated[int, typer.Option(help="so many of them for rivals, the first ones")] = 4,
    seed: Annotated[int, typer.Option(help="of the first held-out prompt")] = 1000,
    keep_rivals: Annotated[bool, typer.Option(help="take the rivals from the earlier results")] = False,
    speedup: Annotated[list[float] | None, typer.Option(help="with them, only these step ratios of ours anew")] = None,
) -> None:
    """Measure, and write the figures."""
    if speedup and not keep_rivals:
        raise typer.BadParameter("only with --keep-rivals: rivals are measured at all step ratios")
    torch.set_num_threads(1)
    results = []
    earlier = json.loads((out / "cost.json").read_text("utf-8"))["results"] if keep_rivals else []
    before = {result["model"]: result for result in earlier}
    for model in models or (before if keep_rivals else zoo.available()):
        if keep_rivals:
            results.append(
                with_kept_rivals(measured_ours(model, prompts, seed, work, speedup or SPEEDUPS), before[model])
            )
            print(ours_table(results), flush=True)
            continue
        rivals = measured_rivals(zoo.load(model), model, rivals_prompts, seed, work / model, SPEEDUPS)
        results.append(joined(model, measured_ours(model, prompts, seed, work), rivals))
        print(ours_table(results), flush=True)
    had = {"prompts": prompts, "rivals_prompts": rivals_prompts, "seed": seed}
    figures = {**environment(), **had, "results": results, "worth": worth(results)}
    tables = {"cost": ours_table(results), "cost-rivals": rivals_table(results), "cost-worth": worth_table(results)}
    write_figures(out, "cost", figures, tables, Console())
    drawn(results, picture)


if __name__ == "__main__":
    typer.run(main)
