"""``ertacache calibrate``."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ertacache.cli import options
from ertacache.cli.console import console, say
from ertacache.cli.input_image import read_image
from ertacache.cli.loras import Lora
from ertacache.cli.model_source import AUTO, ModelSource
from ertacache.cli.open_pipeline import open_pipeline
from ertacache.cli.policy_check import USUAL, checked_policy, unchecked
from ertacache.cli.prompt_lines import Prompt, first_image, read_lines
from ertacache.cli.worker_options import NumWorkers, RayAddress, workers_of
from ertacache.errors import ArgumentError
from ertacache.output_paths import checked_folder, checked_output, kept_somewhere

if TYPE_CHECKING:
    from ertacache.policy import Policy


def calibrate(
    model: options.Model,
    prompts: options.Prompts = None,
    out: options.PolicyOut = Path("policy.safetensors"),
    steps: Annotated[
        int | None,
        typer.Option(
            min=1, help="num_inference_steps of the calls that the policy is for. Default: the pipeline's own."
        ),
    ] = None,
    speedup: options.Speedup = None,
    computed_steps: options.ComputedSteps = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            help="Goal, for the methods offline, offline+time and paper alone: how far an output may drift "
            "before it is computed again, usually 0.02 to 0.6; less is nearer to the full run."
        ),
    ] = None,
    seconds: options.Seconds = None,
    min_psnr: options.MinPSNR = None,
    min_ssim: options.MinSSIM = None,
    min_sound: options.MinSound = None,
    frontier: Annotated[
        Path | None,
        typer.Option(
            help="Instead of a goal: a folder for policies from 1.2x to 5x, with a table and a plot of their quality."
        ),
    ] = None,
    method: options.Method = "aligned",
    full_runs: Annotated[
        float | None,
        typer.Option(
            help="The most that the whole calibration may cost, in full runs of a prompt. Default: 10; for a goal of "
            "quality 8 per prompt."
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Use at most this many prompts. Default: 8; for a goal of quality or --frontier 16."),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="A folder to keep full runs in, for another try or goal."),
    ] = None,
    check: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Afterwards, compare so many prompts with full runs and with fewer plain steps, beside --full-runs: "
            "at 2x that costs 2 full runs each. Default: 2; 0 if --full-runs is given.",
        ),
    ] = None,
    settings: options.Settings = None,
    image: options.InputImage = None,
    lora: options.Loras = None,
    device: options.Device = AUTO,
    dtype: options.Dtype = AUTO,
    offload: options.Offload = False,
    seed: options.Seed = 0,
    num_workers: NumWorkers = None,
    ray: RayAddress = None,
) -> None:
    """Make a policy for a model from a few prompts: a small file that says which denoising steps are skipped, and how.

    Exactly one goal is taken; without one, --speedup 2.
    """
    lines = read_lines(prompts, model)
    loras, picture = tuple(map(Lora.parsed, lora or [])), read_image(image) or first_image(lines)
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
    if frontier is not None and (budget or method != "aligned" or full_runs or check):
        raise ArgumentError(
            "--frontier makes 'aligned' policies for all budgets",
            given=f"--frontier {frontier}, and a budget, --method, --full-runs or --check",
            cure="Leave those options out.",
        )
    judged = frontier is not None or not QUALITIES.keys().isdisjoint(budget)
    budget = budget or {"speedup": 2.0}
    only_budget(budget)
    named, workers = Method.named(method), workers_of(num_workers, ray)
    source = ModelSource(model, device, dtype, loras, picture is not None, offload)
    opened = open_pipeline(source, settings, steps, picture)
    lines = lines or list(opened.embedded.calibration_prompts if opened.embedded else [])
    used = lines[: limit or (16 if judged else 8)]
    common: dict[str, Any] = {"seed": seed, "checkpoint": checkpoint, "workers": workers, **opened.arguments}
    pipe = opened.shared_by(workers)
    if frontier is not None:
        for path in _make_frontier(pipe, used, frontier, common):
            say(f"wrote {path}")
        return
    policy = _make_policy(pipe, used, out, {"method": named, "full_runs": full_runs, **budget, **common})
    say(f"wrote {out}")
    count = (0 if full_runs else USUAL) if check is None else check
    if count:
        policy = checked_policy(opened.pipe, policy, lines, opened.arguments, seed=seed, count=count)
        kept_somewhere(out, policy.save)
    elif check is None:
        say(unchecked(policy))


def _given(**budget: float | None) -> dict[str, Any]:
    return {name: value for name, value in budget.items() if value is not None}


def _check_outputs(out: Path, frontier: Path | None, checkpoint: Path | None, prompts: Path | None) -> None:
    if frontier is None:
        checked_output(out, besides=[prompts])
    else:
        checked_folder(frontier)
    if checkpoint is not None:
        checked_folder(checkpoint)


def _make_frontier(pipe: Any, prompts: list[Prompt], folder: Path, arguments: Mapping[str, Any]) -> list[Path]:
    from ertacache.calibration import profile
    from ertacache.cli.frontier_folder import write_frontier
    from ertacache.presenting.tables import frontier_table

    made = profile(pipe, prompts, **arguments)
    console.print(frontier_table(made))
    return kept_somewhere(folder, partial(write_frontier, made))


def _make_policy(pipe: Any, prompts: list[Prompt], out: Path, arguments: Mapping[str, Any]) -> Policy:
    from ertacache.calibration import calibrate as calibrate_policy

    policy = calibrate_policy(pipe, prompts, **arguments)
    kept_somewhere(out, policy.save)  # before it is checked, so that an interrupt costs nothing
    return policy
