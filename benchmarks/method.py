"""Every method at every budget on the small trained pipelines, side by side in one run: docs/records/pipelines.md.

    python -m benchmarks.method flux wan cogvideox opensora

Held-out prompts and seeds that neither training nor calibration saw; PSNR and SSIM against the full run. An
interrupted run goes on from what it had measured.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.held_out import measured_on_held_out
from benchmarks.keys import environment, key_of
from benchmarks.markdown import table, write_figures
from ertacache import Policy, calibrate, zoo
from ertacache.evaluation.comparison import Variant, fewer_steps, fewer_steps_on_subgrid
from ertacache.method.named_methods import Method

NAMES = ("uniform", "offline", "offline+time", "paper", "taylor", "aligned")
METHODS: dict[str, Method] = {name: Method.named(name) for name in NAMES}
LEVELS: dict[str, Method] = {
    "reuse, output": Method(level="output"),
    "reuse, velocity": Method(),
    "reuse, hidden": Method(level="hidden"),
    "offline, output": Method(schedule="offline", level="output"),
    "offline, hidden": Method(schedule="offline", level="hidden"),
    "paper, output": Method.named("paper"),
    "paper, hidden": Method(schedule="offline", level="hidden", timestep_adjustment=True, rectification="channel"),
    "taylor, velocity": Method.named("taylor"),
    "taylor, hidden": Method(predictor="taylor", level="hidden"),
    "aligned, hidden": Method(schedule="search", predictor="aligned", level="hidden"),
    "aligned": Method.named("aligned"),
}
"""What can be cached, compared at equal computed steps: ``--levels``."""
SPEEDUPS = (1.5, 2.0, 3.0, 4.0)


def policies_for(
    embedded: zoo.Embedded, methods: dict[str, Method], speedups: Sequence[float], num_prompts: int, folder: Path
) -> dict[tuple[float, str], Policy]:
    """Calibrate every method at every budget, or find it calibrated in ``folder``."""
    found = {}
    for speedup in speedups:
        for name, method in methods.items():
            path = folder / f"{name}-{speedup:g}x.safetensors"
            if not path.exists():
                calibrate(
                    embedded.pipe,
                    embedded.calibration_prompts[:num_prompts],
                    speedup=speedup,
                    method=method,
                    full_runs=5 * num_prompts,
                    checkpoint=folder / "full-runs",
                    **embedded.arguments,
                ).save(path)
            found[speedup, name] = Policy.load(path)
    return found


def measured(
    embedded: zoo.Embedded,
    policies: dict[tuple[float, str], Policy],
    num_prompts: int,
    seed: int,
    folder: Path,
    console: Console,
) -> dict[str, dict[str, dict[str, Any]]]:
    """PSNR, SSIM, speedup for each budget and variant, a list over prompts each."""
    steps = embedded.arguments["num_inference_steps"]
    named: list[tuple[float, Variant]] = []
    for speedup in sorted({speedup for speedup, _ in policies}):
        aligned = policies[speedup, "aligned"]
        named += [(speedup, fewer_steps(len(aligned.computed_steps))), (speedup, fewer_steps_on_subgrid(aligned))]
        named += [(at, Variant(name, steps, policy=policy)) for (at, name), policy in policies.items() if at == speedup]
    rows = measured_on_held_out(embedded, [variant for _, variant in named], num_prompts, seed, folder, console)
    budgets: dict[str, dict[str, dict[str, Any]]] = {}
    for (speedup, variant), row in zip(named, rows, strict=True):
        columns = {"psnr": row.psnr, "ssim": row.ssim, "speedup": row.speedup}
        budgets.setdefault(f"{speedup:g}", {})[variant.name] = {"computed_steps": variant.computed_steps, **columns}
    return budgets


def table_of(budgets: dict[str, dict[str, dict[str, Any]]]) -> Table:
    """One row for each variant, and for each budget its steps, PSNR, SSIM and measured speedup."""
    shown = Table(title="PSNR, dB / SSIM / measured speedup of denoising")
    shown.add_column("")
    for budget, rows in budgets.items():
        steps = rows["aligned"]["computed_steps"]
        shown.add_column(f"{budget}x ({steps} steps)", justify="right")
    for label in next(iter(budgets.values())):
        cells = []
        for rows in budgets.values():
            row = rows[label]
            cells.append(f"{np.mean(row['psnr']):.1f} / {np.mean(row['ssim']):.3f} / {np.median(row['speedup']):.2f}x")
        shown.add_row(label, *cells)
    return shown


def markdown_of(budgets: dict[str, dict[str, dict[str, Any]]], num_steps: int, *, timed: bool) -> str:
    """The same as Markdown, the best PSNR and SSIM of each column in bold; ``timed`` adds speedups."""
    steps = [rows["aligned"]["computed_steps"] for rows in budgets.values()]
    heads = [f"{s} ({b}x)" for s, b in zip(steps, budgets, strict=True)]
    lines = [[f"steps computed, of {num_steps}", *heads]]

    def figures(rows: dict[str, dict[str, Any]], key: str, form: str) -> dict[str, str]:
        texts = {label: format(np.mean(row[key]), form) for label, row in rows.items()}
        best = max(texts.values(), key=float)
        return {label: f"**{text}**" if text == best else text for label, text in texts.items()}

    columns = [(rows, figures(rows, "psnr", ".1f"), figures(rows, "ssim", ".3f")) for rows in budgets.values()]
    for label in next(iter(budgets.values())):
        cells = []
        for rows, psnr, ssim in columns:
            time = f", {np.median(rows[label]['speedup']):.2f}x" if timed else ""
            cells.append(f"{psnr[label]} dB, {ssim[label]}{time}")
        lines.append([label, *cells])
    return table(lines)


def main(
    models: Annotated[list[str] | None, typer.Argument(help=f"of {', '.join(zoo.NAMES)}; by default all here")] = None,
    out: Annotated[Path, typer.Option(help="the folder for the figures, as JSON")] = Path("benchmarks/results"),
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="an argument of every call")
    ] = None,
    suffix: Annotated[str, typer.Option(help="of the files' names, for other settings")] = "",
    work: Annotated[Path, typer.Option(help="policies and unfinished measurements")] = Path("out/benchmark-method"),
    prompts: Annotated[int, typer.Option(help="held-out prompts")] = 32,
    calibration_prompts: Annotated[int, typer.Option(help="calibration prompts")] = 16,
    speedup: Annotated[list[float] | None, typer.Option(help="a budget; by default 1.5, 2, 3 and 4")] = None,
    seed: Annotated[int, typer.Option(help="of the first held-out prompt")] = 1000,
    levels: Annotated[bool, typer.Option("--levels", help="compare what is cached: output, velocity, hidden")] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="two prompts, one budget, ten steps: a check, no figures")
    ] = False,
) -> None:
    """Calibrate, measure, print the table, write it as JSON and as Markdown, for one pipeline after the other."""
    changed = {name: json.loads(value) for name, value in (text.split("=", 1) for text in settings or [])}
    budgets = tuple(speedup or SPEEDUPS)
    for model in models or zoo.available():
        one(model, out, changed, suffix, work / model, prompts, calibration_prompts, budgets, seed, levels, quick)


def one(
    model: str,
    out: Path,
    changed: dict[str, Any],
    suffix: str,
    work: Path,
    prompts: int,
    calibration_prompts: int,
    speedups: Sequence[float],
    seed: int,
    levels: bool,
    quick: bool,
) -> None:
    """The same for one pipeline."""
    console = Console()
    embedded = zoo.load(model)
    embedded.arguments.update(changed)
    if quick:
        prompts, calibration_prompts, speedups = 2, 2, (2.0,)
        embedded.arguments["num_inference_steps"] = 10
    work = work / key_of(embedded, seed, calibration_prompts, *speedups)
    kind = "levels" if levels else "method"
    (work / kind).mkdir(parents=True, exist_ok=True)
    policies = policies_for(embedded, LEVELS if levels else METHODS, speedups, calibration_prompts, work)
    budgets = measured(embedded, policies, prompts, seed, work / kind, console)
    console.print(table_of(budgets))
    result = {
        **environment(),
        "model": model,
        "settings": embedded.arguments,
        "prompts": prompts,
        "calibration_prompts": calibration_prompts,
        "seed": seed,
        "budgets": budgets,
        "policies": {
            f"{method} {speedup:g}x": {
                "computed_steps": policy.computed_steps,
                "full_runs_per_prompt": policy.calibration.full_runs,
                "denoiser_calls": policy.calibration.denoiser_calls,
                "notes": policy.calibration.notes,
            }
            for (speedup, method), policy in policies.items()
        },
    }
    name = f"{kind}-{model}{suffix}"
    text = markdown_of(budgets, embedded.arguments["num_inference_steps"], timed=levels)
    write_figures(out, name, result, {name: text}, console)


if __name__ == "__main__":
    typer.run(main)
