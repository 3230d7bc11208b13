"""``ertacache calibrate``."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from ertacache.cli import options
from ertacache.cli.console import console, say
from ertacache.cli.open_pipeline import open_pipeline
from ertacache.cli.prompts_file import read_prompts
from ertacache.cli.worker_options import NumWorkers, RayAddress, loader_of, workers_of
from ertacache.errors import ArgumentError
from ertacache.output_paths import checked_folder, checked_output, kept_somewhere


def calibrate(
    model: options.Model,
    prompts: options.Prompts = None,
    out: options.PolicyOut = Path("policy.safetensors"),
    steps: Annotated[
        int | None, typer.Option(min=1, help="num_inference_steps of the calls that the policy is for.")
    ] = None,
    speedup: options.Speedup = None,
    computed_steps: options.ComputedSteps = None,
    threshold: Annotated[
        float | None, typer.Option(help="Budget: lambda of Algorithm 2 (method 'paper' and its parts).")
    ] = None,
    seconds: options.Seconds = None,
    min_psnr: options.MinPSNR = None,
    min_ssim: options.MinSSIM = None,
    min_sound: options.MinSound = None,
    frontier: Annotated[
        Path | None,
        typer.Option(help="Instead of a budget: a folder for policies from 1.2x to 5x, with a table and a plot."),
    ] = None,
    method: options.Method = "aligned",
    full_runs: Annotated[
        float | None,
        typer.Option(
            help="Cost limit of the whole calibration, in full runs. Default: 10; for a quality budget 8 per prompt."
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Use at most this many prompts. Default: 8; for a quality budget or --frontier 16."),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="A folder to keep full runs in, for another try or budget."),
    ] = None,
    settings: options.Settings = None,
    device: options.Device = "cpu",
    dtype: options.Dtype = "float32",
    seed: options.Seed = 0,
    num_workers: NumWorkers = None,
    ray: RayAddress = None,
) -> None:
    """Make a policy for a model from a few prompts."""
    lines = read_prompts(prompts, model)
    _check_outputs(out, frontier, checkpoint, prompts)
    from ertacache.calibration.budget import QUALITIES, only_budget
    from ertacache.method.named_methods import Method

    budget = _given(
        speedup=speedup,
        num_computed_steps=computed_steps,
        threshold=threshold,
        seconds=seconds,
        min_psnr=min_psnr,
        min_ssim=min_ssim,
        min_sound=min_sound,
    )
    if frontier is not None and (budget or method != "aligned" or full_runs):
        raise ArgumentError(
            "--frontier makes 'aligned' policies for all budgets",
            given=f"--frontier {frontier}, and a budget, --method or --full-runs",
            cure="Leave those options out.",
        )
    judged = frontier is not None or not QUALITIES.keys().isdisjoint(budget)
    budget = budget or {"speedup": 2.0}
    only_budget(budget)
    named, workers = Method.named(method), workers_of(num_workers, ray)
    pipe, arguments, embedded = open_pipeline(model, device, dtype, settings, steps)
    lines = lines or (embedded.calibration_prompts if embedded else [])
    lines = lines[: limit or (16 if judged else 8)]
    common: dict[str, Any] = {"seed": seed, "checkpoint": checkpoint, "workers": workers, **arguments}
    pipe = pipe if workers is None else loader_of(model, device, dtype)
    if frontier is not None:
        written = _make_frontier(pipe, lines, frontier, common)
    else:
        written = _make_policy(pipe, lines, out, {"method": named, "full_runs": full_runs, **budget, **common})
    for path in written:
        say(f"wrote {path}")


def _given(**budget: float | None) -> dict[str, Any]:
    return {name: value for name, value in budget.items() if value is not None}


def _check_outputs(out: Path, frontier: Path | None, checkpoint: Path | None, prompts: Path | None) -> None:
    if frontier is None:
        checked_output(out, besides=[prompts])
    else:
        checked_folder(frontier)
    if checkpoint is not None:
        checked_folder(checkpoint)


def _make_frontier(pipe: Any, prompts: list[str], folder: Path, arguments: Mapping[str, Any]) -> list[Path]:
    from ertacache.calibration import profile
    from ertacache.cli.frontier_folder import write_frontier
    from ertacache.presenting.tables import frontier_table

    made = profile(pipe, prompts, **arguments)
    console.print(frontier_table(made))
    return kept_somewhere(folder, partial(write_frontier, made))


def _make_policy(pipe: Any, prompts: list[str], out: Path, arguments: Mapping[str, Any]) -> list[Path]:
    from ertacache.calibration import calibrate as calibrate_policy

    policy = calibrate_policy(pipe, prompts, **arguments)
    kept_somewhere(out, policy.save)
    return [out]
