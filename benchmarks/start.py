"""What a user gets before any calibration: instant policies, and one generation learnt from: docs/start.md.

    python -m benchmarks.start

For every trained pipeline and step ratio, on held-out prompts, in one run: fewer steps; evenly spaced Taylor, which
needs nothing either; an instant policy by a prior that has *not* seen this pipeline; a policy learnt from one full
generation; and one calibrated on four prompts. What was measured is kept, one pipeline at a time.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from benchmarks.keys import environment
from benchmarks.markdown import table, write_figures
from ertacache import calibrate, zoo
from ertacache.acceleration import switch_off, switch_on
from ertacache.evaluation.comparison import Variant, calls_of, compare, fewer_steps, started
from ertacache.files import kept
from ertacache.learning import Learner
from ertacache.method.named_methods import Method
from ertacache.method.schedule import evenly_spaced
from ertacache.metrics import MAX_PSNR
from ertacache.policy import Policy
from ertacache.runtime.instant import Instant
from ertacache.runtime.policy_source import PolicySource
from ertacache.runtime.step_budget import StepBudget
from ertacache.watching.watched import WatchedAcceleration

SPEEDUPS = (1.5, 2.0, 3.0)
CALIBRATION_PROMPTS = 4
NAMES = ("fewer steps", "taylor, evenly spaced", "instant", "learnt, 1 generation", "calibrated, 4 prompts")


@contextmanager
def following(source: PolicySource, pipe: Any) -> Iterator[None]:
    """The pipeline, with policies from this source."""
    acceleration = WatchedAcceleration(source)
    switch_on(pipe, acceleration)
    try:
        yield
    finally:
        switch_off(pipe, acceleration)


def measured(model: str, num_prompts: int, seed: int, work: Path) -> dict[str, Any]:
    """PSNR against the full run by step ratio and name, a list over prompts each, and what calibration cost."""
    embedded = zoo.load(model)
    pipe, steps = embedded.pipe, int(embedded.arguments["num_inference_steps"])
    calls = calls_of(embedded.arguments, embedded.held_out_prompts[:num_prompts], seed)
    variants, cost = [], {}
    for speedup in SPEEDUPS:
        budget, folder = StepBudget(speedup), work / model / f"learnt-{speedup:g}x"
        computed = budget.computed(steps)
        shutil.rmtree(folder, ignore_errors=True)
        (first,) = calls_of(embedded.arguments, embedded.calibration_prompts[:1], 0)
        with following(Learner(budget, folder, without=model), pipe):
            pipe(**started(first), num_inference_steps=steps)
        policy = calibrate(
            pipe,
            embedded.calibration_prompts[:CALIBRATION_PROMPTS],
            speedup=speedup,
            checkpoint=work / model / "full-runs",
            progress=False,
            **embedded.arguments,
        )
        cost[f"{speedup:g}"] = policy.calibration.full_runs * CALIBRATION_PROMPTS

        def by(source: PolicySource) -> Any:
            return partial(following, source)

        ways: dict[str, Variant] = {
            "fewer steps": fewer_steps(computed),
            "taylor, evenly spaced": Variant(
                "", steps, Policy(steps, evenly_spaced(steps, computed, ()), Method.named("taylor"))
            ),
            "instant": Variant("", steps, around=by(Instant(budget, without=model))),
            "learnt, 1 generation": Variant("", steps, around=by(Learner(budget, folder, without=model))),
            "calibrated, 4 prompts": Variant("", steps, policy),
        }
        variants += [replace(ways[name], name=f"{speedup:g} {name}") for name in NAMES]
    _, *rows = compare(pipe, Variant("full", steps), variants, calls)
    found: dict[str, dict[str, list[float]]] = {f"{speedup:g}": {} for speedup in SPEEDUPS}
    for row in rows:
        ratio, _, name = row.name.partition(" ")
        found[ratio][name] = row.psnr
        if max(row.psnr) >= MAX_PSNR:
            raise RuntimeError(f"{model}, {row.name}: a generation ran in full: {row.psnr}")
    return {"model": model, "steps": steps, "psnr": found, "calibration_full_runs": cost, **environment()}


def markdown_of(results: list[Mapping[str, Any]]) -> str:
    """A row for each pipeline and ratio, a column for each way; the mean PSNR in dB."""
    lines = [["pipeline", "step ratio", *NAMES, "full runs of the last"]]
    for result in results:
        for speedup, psnr in result["psnr"].items():
            means = [f"{sum(psnr[name]) / len(psnr[name]):.1f}" for name in NAMES]
            lines.append([result["model"], f"{speedup}x", *means, f"{result['calibration_full_runs'][speedup]:.0f}"])
    return table(lines)


def main(
    models: Annotated[list[str] | None, typer.Argument(help="by default all that are trained")] = None,
    out: Annotated[Path, typer.Option(help="the folder for the figures")] = Path("benchmarks/results"),
    work: Annotated[Path, typer.Option(help="unfinished measurements")] = Path("out/benchmark-start"),
    prompts: Annotated[int, typer.Option(help="held-out prompts")] = 8,
    seed: Annotated[int, typer.Option(help="of the first held-out prompt")] = 1000,
) -> None:
    """Measure, and write the figures."""
    torch.set_num_threads(1)
    results = []
    for model in models or zoo.available():
        path = work / f"{model}-{prompts}-{seed}.json"
        results.append(kept(path, partial(measured, model, prompts, seed, work)))
        print(markdown_of(results), flush=True)
    write_figures(out, "start", {"results": results}, {"start": markdown_of(results)}, Console())


if __name__ == "__main__":
    typer.run(main)
