"""How well it is predicted which transfers to other steps are worse than as many plain steps: docs/records/transfer.md.

    python -m benchmarks.predictions flux wan

Policies of searched schedules, and of evenly spaced steps, whose transfers no call makes, are brought to other numbers
of steps. What is predicted of each is set beside what it does on held-out prompts. What was measured is kept, one
number of steps at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from benchmarks.keys import environment, key_of
from benchmarks.markdown import table, write_figures
from ertacache import Policy, calibrate, zoo
from ertacache.evaluation.comparison import Variant, calls_of, compare, fewer_steps
from ertacache.files import kept
from ertacache.method.named_methods import Method
from ertacache.runtime.grid_transfer import on_grid
from ertacache.runtime.schedulers import sampler_of

METHODS = {"searched": Method.named("aligned"), "evenly spaced": Method(predictor="aligned")}
SPEEDUPS = (1.5, 2.0, 3.0, 5.0)
RATIOS = (0.6, 0.8, 14 / 15, 1.2, 1.4, 5 / 3)
"""Of the steps of a call to those of calibration."""
GUIDANCE = {"flux": "true_cfg_scale", "wan": "guidance_scale"}


def policies_of(model: str, arguments: Mapping[str, Any], num_prompts: int, work: Path) -> dict[str, Policy]:
    """By schedule and step ratio; all with the Gram matrix that calibration gives those whose transfers are made."""
    embedded, made = zoo.load(model), {}
    for speedup in SPEEDUPS:
        for name, method in METHODS.items():
            path = work / f"{name.replace(' ', '-')}-{speedup:g}x.safetensors"
            if not path.exists():
                policy = calibrate(
                    embedded.pipe,
                    embedded.calibration_prompts[:num_prompts],
                    speedup=speedup,
                    method=method,
                    full_runs=5 * num_prompts,
                    checkpoint=work / "full-runs",
                    progress=False,
                    **arguments,
                )
                policy.save(path)
            made[f"{name}, {speedup:g}x"] = Policy.load(path)
    gram = made[f"searched, {SPEEDUPS[0]:g}x"].gram  # of the full runs alone, which all have in common
    return {name: replace(policy, gram=gram) for name, policy in made.items()}


def measured(
    model: str, arguments: Mapping[str, Any], steps: int, num_prompts: int, held_out: int, seed: int, work: Path
) -> dict[str, Any]:
    """PSNR of all policies at a number of steps, and of as many plain steps, with what was predicted."""
    policies, pipe = policies_of(model, arguments, num_prompts, work), zoo.load(model).pipe
    calls = calls_of(arguments, zoo.load(model).held_out_prompts[:held_out], seed)
    pipe(**{**arguments, "prompt": calls[0]["prompt"], "num_inference_steps": steps, "output_type": "latent"})
    levels = sampler_of(pipe.scheduler).noise_levels(pipe.scheduler)
    brought = {name: on_grid(policy, pipe.scheduler, levels) for name, policy in policies.items()}
    plain = sorted({len(transfer.policy.computed_steps) for transfer in brought.values()})
    variants = [Variant(name, steps, transfer.policy) for name, transfer in brought.items()]
    variants += [replace(fewer_steps(computed), name=str(computed)) for computed in plain]
    _, *rows = compare(pipe, Variant("full", steps), variants, calls)
    psnr = {row.name: row.psnr for row in rows}
    return {
        "steps": steps,
        "rows": [
            {
                "policy": name,
                "computed": (computed := len(transfer.policy.computed_steps)),
                "missed": transfer.missed,
                "missed_by_plain": transfer.missed_by_plain,
                "missed_there": transfer.missed_there,
                "refused": transfer.refusal is not None,
                "psnr": psnr[name],
                "psnr_plain": psnr[str(computed)],
            }
            for name, transfer in brought.items()
        ],
    }


def gained(row: Mapping[str, Any]) -> list[float]:
    """What a transfer has over plain steps, in dB, for each prompt."""
    return [a - b for a, b in zip(row["psnr"], row["psnr_plain"], strict=True)]


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's."""
    ranks = np.array([np.argsort(np.argsort(values)) for values in (a, b)])
    return float(np.corrcoef(ranks)[0, 1])


def ratio_of(row: Mapping[str, Any]) -> float:
    """How far a transfer is predicted to miss the full run, over how far plain steps are."""
    return float(row["missed"] / row["missed_by_plain"])


def markdown_of(results: Sequence[Mapping[str, Any]]) -> str:
    """A row for each policy, a column for each number of steps; what is refused is in bold."""
    lines = [["policy", *(f"{result['steps']} steps" for result in results)]]
    for rows in zip(*(result["rows"] for result in results), strict=True):
        cells = []
        for row in rows:
            cell = f"{fmean(gained(row)):+.1f} dB, {ratio_of(row):.2f}"
            cells.append(f"**{cell}**" if row["refused"] else cell)
        lines.append([rows[0]["policy"], *cells])
    return table(lines)


def main(
    models: Annotated[list[str] | None, typer.Argument(help="of flux, wan; by default both")] = None,
    out: Annotated[Path, typer.Option(help="the folder for the figures, as JSON")] = Path("benchmarks/results"),
    work: Annotated[Path, typer.Option(help="policies and unfinished measurements")] = Path(
        "out/benchmark-predictions"
    ),
    prompts: Annotated[int, typer.Option(help="held-out prompts")] = 4,
    calibration_prompts: Annotated[int, typer.Option(help="calibration prompts")] = 4,
    guidance: Annotated[float | None, typer.Option(help="the scale, if another than the pipeline's own")] = None,
    seed: Annotated[int, typer.Option(help="of the first held-out prompt")] = 1000,
    quick: Annotated[bool, typer.Option("--quick", help="one prompt, 10 steps for 30: a check, no figures")] = False,
) -> None:
    """Calibrate, predict, measure, write as JSON and as Markdown, for one pipeline after the other."""
    console = Console()
    if quick:
        prompts, calibration_prompts = 1, 1
    for model in models or ["flux", "wan"]:
        embedded = zoo.load(model)
        arguments = embedded.arguments | ({} if guidance is None else {GUIDANCE[model]: guidance})
        if quick:
            arguments["num_inference_steps"] //= 3
        folder = work / model / key_of(embedded, arguments, seed, prompts, calibration_prompts)
        folder.mkdir(parents=True, exist_ok=True)
        results = []
        for ratio in RATIOS:
            steps = round(ratio * arguments["num_inference_steps"])
            measure = partial(measured, model, arguments, steps, calibration_prompts, prompts, seed, folder)
            results.append(kept(folder / f"{steps}-steps.json", measure))
            console.print(model, f"{steps} steps", highlight=False)
        rows = [row for result in results for row in result["rows"]]
        result = {
            **environment(),
            "model": model,
            "arguments": arguments,
            "prompts": prompts,
            "calibration_prompts": calibration_prompts,
            "seed": seed,
            "rank_correlation": rank_correlation(
                [ratio_of(row) for row in rows], [-fmean(gained(row)) for row in rows]
            ),
            "results": results,
        }
        name = f"predictions-{model}" + ("" if guidance is None else f"-guidance-{guidance:g}")
        write_figures(out, name, result, {name: markdown_of(results)}, console)


if __name__ == "__main__":
    typer.run(main)
