"""The demo: a small pipeline in full, accelerated, and with fewer steps, on prompts that nothing was fitted to."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from ertacache import zoo
from ertacache.calibration import calibrate
from ertacache.evaluation.comparison import Variant, calls_of, compare, fewer_steps
from ertacache.evaluation.plots import contact_sheet, policy_plot, side_by_side, write_clip
from ertacache.output_paths import kept_somewhere
from ertacache.report import report_comparison
from ertacache.report.evaluation import Gallery, worst_first
from ertacache.report.page import Case
from ertacache.tables import comparison_table

PICTURES = 6
"""How many columns the picture has at most."""
CLIPS = 4
"""How many clips the contact sheet and the film show at most."""


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
) -> list[Path]:
    """Calibrate, generate held-out prompts in three ways, measure, print a table, and write a picture and a plot.

    Args:
        model: one of `ertacache.zoo.NAMES`.
        speedup: the step ratio to ask for.
        method: a method's name.
        num_prompts: how many held-out prompts, each with a seed that calibration did not see.
        num_calibration_prompts: how many prompts to calibrate on.
        out: the folder to write to.
        seed: of the first held-out prompt.
        console: where to show progress and the table.

    Returns:
        What was written.
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
    kept_somewhere(out / "policy.safetensors", policy.save)

    prompts = embedded.held_out_prompts[:num_prompts]
    full, fast, fewer = (
        Variant("full", steps),
        Variant(policy.method.name, steps, policy=policy),
        fewer_steps(len(policy.computed_steps)),
    )
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("generating", total=3 * len(prompts))
        gallery = Gallery(full.name, [fast.name], partial(progress.advance, task))

        calls = calls_of(settings, prompts, seed)
        rows = compare(embedded.pipe, full, [fast, fewer], calls, on_result=gallery.take, keep_latents=True)

    table = comparison_table(rows)
    console.print(table)
    shown = {
        f"{row.name}\n{row.computed_steps} steps computed": [ways[row.name] for ways in gallery.pictures[:PICTURES]]
        for row in rows
    }
    _, ours, theirs = rows
    cases = [
        Case(prompts[k], note, gallery.pictures[k], {row.name: f"{row.psnr[k]:.1f} dB" for row in (ours, theirs)})
        for k, note in worst_first(ours.psnr, len(prompts))
    ]

    def write(folder: Path) -> list[Path]:
        if gallery.pictures[0][full.name].ndim == 4:  # clips
            labels = {label.replace(" computed", ""): clips[:CLIPS] for label, clips in shown.items()}
            contact_sheet(labels, prompts[:CLIPS], folder / "pictures.png")
            write_clip(labels, folder / "clips.mp4")
            names = ["pictures.png", "clips.mp4"]
        else:
            side_by_side(shown, prompts[:PICTURES], folder / "pictures.png")
            names = ["pictures.png"]
        policy_plot(policy, folder / "policy.png", {"held-out prompts": gallery.step_errors[fast.name]})
        report_comparison(
            f"The small {model} pipeline, {policy.step_ratio:.3g}x",
            f"{len(prompts)} prompts that neither training nor calibration saw: all {steps} steps, "
            f"{fast.computed_steps} of them computed by the method {fast.name}, and as many plain steps.",
            [ours, theirs],
            table,
            cases,
            {fast.name: policy},
            gallery.step_errors,
            folder / "report.html",
        )
        policy.save(folder / "policy.safetensors")  # again: the folder may be another one
        return [folder / name for name in (*names, "policy.png", "policy.safetensors", "report.html")]

    return kept_somewhere(out, write)
