"""The demo: a small pipeline in full, accelerated, and with fewer steps, on prompts that nothing was fitted to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor

from ertacache import zoo
from ertacache.calibration import calibrate
from ertacache.evaluation.comparison import Result, Row, Variant, compare, fewer_steps
from ertacache.evaluation.plots import contact_sheet, policy_plot, side_by_side, write_clip
from ertacache.tables import comparison_table

PICTURES = 6
"""How many columns the picture has at most."""
CLIPS = 4
"""How many clips the contact sheet and the film show at most."""


@dataclass(frozen=True)
class Demonstration:
    """What the demo leaves.

    Args:
        rows: the comparison.
        table: the same, to print.
        files: what was written.
    """

    rows: list[Row]
    table: Table
    files: list[Path]


def run(
    *,
    model: str = "flux",
    speedup: float,
    method: str,
    num_prompts: int,
    num_calibration_prompts: int,
    out: Path,
    seed: int,
    console: Console,
) -> Demonstration:
    """Calibrate, generate held-out prompts in three ways, measure, and write a picture and a plot.

    Args:
        model: one of `ertacache.zoo.NAMES`.
        speedup: the step ratio to ask for.
        method: a method's name.
        num_prompts: how many held-out prompts, each with a seed that calibration did not see.
        num_calibration_prompts: how many prompts to calibrate on.
        out: the folder to write to.
        seed: of the first held-out prompt.
        console: where to show progress.
    """
    embedded = zoo.load(model)
    settings = dict(embedded.arguments)
    steps = settings.pop("num_inference_steps")
    policy = calibrate(
        embedded.pipe,
        embedded.calibration_prompts[:num_calibration_prompts],
        num_inference_steps=steps,
        speedup=speedup,
        method=method,
        **settings,
    )
    out.mkdir(parents=True, exist_ok=True)
    policy.save(out / "policy.safetensors")

    prompts = embedded.held_out_prompts[:num_prompts]
    full, fast, fewer = (
        Variant("full", steps),
        Variant(policy.method.name, steps, policy=policy),
        fewer_steps(len(policy.computed_steps)),
    )
    pictures: dict[str, list[Tensor]] = {full.name: [], fast.name: [], fewer.name: []}
    reference: list[Tensor] = []
    errors: list[list[float]] = []

    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("generating", total=3 * len(prompts))

        def keep(number: int, name: str, result: Result) -> None:
            progress.advance(task)
            if number < PICTURES:
                pictures[name].append(result.pictures[0])
            if name == full.name:
                reference[:] = result.latents
            elif name == fast.name:
                pairs = zip(result.latents, reference, strict=True)
                errors.append([float((a - b).norm() / b.norm()) for a, b in pairs])

        calls = [{**settings, "prompt": prompt, "seed": seed + k} for k, prompt in enumerate(prompts)]
        rows = compare(embedded.pipe, full, [fast, fewer], calls, on_result=keep, keep_latents=True)

    labels = {f"{row.name}\n{row.computed_steps} steps computed": pictures[row.name] for row in rows}
    if pictures[full.name][0].ndim == 4:  # clips
        labels = {label.replace(" computed", ""): clips[:CLIPS] for label, clips in labels.items()}
        contact_sheet(labels, prompts[:CLIPS], out / "pictures.png")
        write_clip(labels, out / "clips.mp4")
        names = ["pictures.png", "clips.mp4"]
    else:
        side_by_side(labels, prompts[:PICTURES], out / "pictures.png")
        names = ["pictures.png"]
    policy_plot(policy, out / "policy.png", {"held-out prompts": errors})
    files = [out / name for name in (*names, "policy.png", "policy.safetensors")]
    return Demonstration(rows, comparison_table(rows), files)
