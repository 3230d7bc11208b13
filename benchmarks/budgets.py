"""Whether budgets are met, and profiles are right, on held-out prompts and seeds.

    python -m benchmarks.budgets flux wan

Each trial draws calibration prompts at random, makes one policy for each of three budgets, and runs each policy on as
many held-out prompts, drawn at random too. Then comes one profile: its predictions against held-out prompts. An
interrupted run resumes. Time is measured, so run nothing else meanwhile.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean, median
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks.held_out import measured_on_held_out
from benchmarks.keys import environment, key_of, source_digest
from benchmarks.markdown import Rows, table, with_interval, write_figures
from ertacache import Policy, Profile, calibrate, profile, zoo
from ertacache.calibration.make_profile import RATIOS
from ertacache.evaluation.comparison import Variant, calls_of, generate, started
from ertacache.files import kept
from ertacache.metrics import psnr

SPEEDUPS = (1.5, 2.0, 2.5, 3.0, 4.0)
FRACTIONS = (0.7, 0.6, 0.5, 0.4, 0.3)
"""Budgets of time, as fractions of a full call's seconds on this machine."""
QUALITIES = (40.0, 45.0, 50.0, 55.0, 60.0)
"""Budgets of quality, in dB."""


Trial = dict[str, dict[str, Any]]
"""For each budget: the goal, and the result of its policy on each held-out prompt."""


def asked_of(trial: int, full_seconds: float) -> dict[str, float]:
    """The budgets of a trial, from mild to hard and again."""
    k = trial % len(SPEEDUPS)
    return {"speedup": SPEEDUPS[k], "seconds": FRACTIONS[k] * full_seconds, "min_psnr": QUALITIES[k]}


def trial_of(embedded: zoo.Embedded, trial: int, num_prompts: int, work: Path, console: Console) -> Trial:
    """Calibrate for each budget, and generate held-out prompts in full and by each policy."""
    pipe, draw = embedded.pipe, random.Random(trial)
    steps = embedded.arguments["num_inference_steps"]
    prompts = draw.sample(list(embedded.calibration_prompts), num_prompts)
    held_out = draw.sample(list(embedded.held_out_prompts), num_prompts)
    calls = calls_of(embedded.arguments, held_out, 10_000 * (trial + 1))
    full = Variant("full", steps)
    warm = [generate(pipe, full, started(calls[0])).call_seconds for _ in range(4)]
    policies: dict[str, Policy] = {}
    rows: Trial = {}
    for name, value in asked_of(trial, median(warm[1:])).items():
        console.print(f"trial {trial}: {name}={value:.3g}", style="dim", highlight=False)
        arguments: dict[str, Any] = {name: value, **embedded.arguments}
        policies[name] = calibrate(
            pipe,
            prompts,
            seed=100 * trial,
            progress=False,
            checkpoint=work / f"full-runs-{trial}",
            **arguments,
        )
        rows[name] = {"asked": value, "step_ratio": policies[name].step_ratio, "psnr": [], "speedup": [], "seconds": []}
        rows[name]["full_runs"] = policies[name].calibration.full_runs
    for call in calls:
        reference = generate(pipe, full, started(call))
        for name, policy in policies.items():
            result = generate(pipe, Variant(name, steps, policy=policy), started(call))
            rows[name]["psnr"].append(psnr(result.pictures, reference.pictures))
            rows[name]["speedup"].append(reference.loop_seconds / result.loop_seconds)
            rows[name]["seconds"].append(result.call_seconds)
    return rows


def met(name: str, row: Mapping[str, Any]) -> bool:
    """Whether a policy keeps on held-out prompts what its budget promises."""
    if name == "seconds":
        return bool(median(row["seconds"]) <= row["asked"])
    return bool((row["step_ratio"] if name == "speedup" else fmean(row["psnr"])) >= row["asked"])


def trials_table(trials: Sequence[Trial]) -> str:
    """A line for each trial, what was asked and what was got, in bold where it was missed, and how often it was met."""
    got: dict[str, Callable[[dict[str, Any]], str]] = {
        "speedup": lambda row: f"{row['step_ratio']:.2f}x, on the clock {median(row['speedup']):.2f}x",
        "seconds": lambda row: f"{median(row['seconds']):.3f} s",
        "min_psnr": lambda row: f"{with_interval(row['psnr'])} dB at {row['step_ratio']:.2f}x",
    }
    written: dict[str, Callable[[float], str]] = {
        "speedup": lambda value: f"{value:g}x",
        "seconds": lambda value: f"{value:.3f} s",
        "min_psnr": lambda value: f"{value:g} dB",
    }
    lines = [["trial", *(cell for name in got for cell in (f"`{name}=`", "held out"))]]
    for number, rows in enumerate(trials):
        cells = []
        for name in got:
            told = got[name](rows[name])
            cells += [written[name](rows[name]["asked"]), told if met(name, rows[name]) else f"**{told}**"]
        lines.append([str(number + 1), *cells])
    counts = [f"{sum(met(name, rows[name]) for rows in trials)} of {len(trials)}" for name in got]
    lines.append(["met", *(cell for count in counts for cell in ("", count))])
    return table(lines)


def predicted_of(
    embedded: zoo.Embedded,
    ratios: Sequence[float],
    num_prompts: int,
    held_out: int,
    seed: int,
    work: Path,
    console: Console,
) -> dict[str, Any]:
    """One profile, and each of its policies on held-out prompts."""
    path = work / "profile.safetensors"
    if not path.exists():
        prompts = embedded.calibration_prompts[:num_prompts]
        profile(embedded.pipe, prompts, ratios=ratios, checkpoint=work / "profile", **embedded.arguments).save(path)
    policies = Profile.load(path).policies
    steps = embedded.arguments["num_inference_steps"]
    variants = [Variant(f"{policy.step_ratio:.2f}x", steps, policy=policy) for policy in policies]
    rows = measured_on_held_out(embedded, variants, held_out, seed, work / "predicted", console)
    return {
        "full_runs": policies[-1].calibration.full_runs,
        "rows": [
            {"step_ratio": policy.step_ratio, "predicted": policy.calibration.psnr, "measured": row.psnr}
            for policy, row in zip(policies, rows, strict=True)
        ],
    }


def predicted_table(predicted: dict[str, Any]) -> str:
    """Predicted and measured PSNR of each policy, and how far they are apart."""
    rows = predicted["rows"]
    apart = [fmean(row["predicted"]) - fmean(row["measured"]) for row in rows]
    lines: Rows = [
        ["step ratio", *(f"{row['step_ratio']:.2f}x" for row in rows), "median distance"],
        ["predicted, dB", *(with_interval(row["predicted"]) for row in rows), ""],
        ["held out, dB", *(with_interval(row["measured"]) for row in rows), ""],
        ["predicted - held out", *(f"{x:+.1f}" for x in apart), f"{median(map(abs, apart)):.1f} dB"],
    ]
    return table(list(zip(*lines, strict=True)))


def main(
    models: Annotated[list[str] | None, typer.Argument(help=f"of {', '.join(zoo.NAMES)}; by default all here")] = None,
    out: Annotated[Path, typer.Option(help="the folder for the figures, as JSON")] = Path("benchmarks/results"),
    work: Annotated[Path, typer.Option(help="policies and unfinished measurements")] = Path("out/benchmark-budgets"),
    trials: Annotated[int, typer.Option(min=1, help="how many")] = 10,
    prompts: Annotated[int, typer.Option(min=12, help="calibration prompts, and held-out ones, of each trial")] = 16,
    profile_prompts: Annotated[int, typer.Option(min=12, help="calibration prompts of the profile")] = 32,
    profile_held_out: Annotated[int, typer.Option(min=2, help="held-out prompts of the profile")] = 64,
    seed: Annotated[int, typer.Option(help="of the first held-out prompt of the profile")] = 1000,
    quick: Annotated[bool, typer.Option("--quick", help="one trial, twelve prompts, eight steps: a check")] = False,
) -> None:
    """Calibrate, measure, and write the figures as JSON and as Markdown, for one pipeline after the other."""
    console = Console()
    for model in models or zoo.available():
        embedded = zoo.load(model)
        ratios: Sequence[float] = RATIOS
        if quick:
            trials, prompts, profile_prompts, profile_held_out, ratios = 1, 12, 12, 12, (1.5, 2.0)
            embedded.arguments["num_inference_steps"] = 8
        folder = work / model / key_of(embedded, seed, prompts, profile_prompts, source_digest(Path(__file__).parent))
        folder.mkdir(parents=True, exist_ok=True)

        found = [
            kept(folder / f"trial-{k}.json", partial(trial_of, embedded, k, prompts, folder, console))
            for k in range(trials)
        ]
        predicted = predicted_of(embedded, ratios, profile_prompts, profile_held_out, seed, folder, console)
        counts = {"prompts": prompts, "profile_prompts": profile_prompts, "profile_held_out": profile_held_out}
        setting = {"model": model, "arguments": embedded.arguments, **counts, "seed": seed}
        result = {**environment(), **setting, "trials": found, "profile": predicted}
        tables = {f"budgets-{model}": trials_table(found), f"predicted-{model}": predicted_table(predicted)}
        write_figures(out, f"budgets-{model}", result, tables, console)


if __name__ == "__main__":
    typer.run(main)
