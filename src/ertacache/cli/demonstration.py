"""What ``ertacache demo`` runs: a small pipeline in full, accelerated, and with fewer steps, on held-out prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor

from ertacache import zoo
from ertacache.calibration import calibrate
from ertacache.evaluation.comparison import Row, Variant, calls_of, compare, fewer_steps
from ertacache.output_paths import kept_somewhere
from ertacache.policy import Policy
from ertacache.presenting.evaluation_report import report_comparison
from ertacache.presenting.films import write_film
from ertacache.presenting.page import Case
from ertacache.presenting.pictures import contact_sheet, side_by_side
from ertacache.presenting.policy_plots import policy_plot
from ertacache.presenting.tables import comparison_table
from ertacache.presenting.worst_cases import Gallery, worst_first

PICTURES = 6
"""Largest number of columns in the picture."""
CLIPS = 4
"""Largest number of clips in the contact sheet and the film."""


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
    """Calibrate, generate held-out prompts in three ways, measure, print a table, and write pictures and plots.

    Args:
        model: one of `ertacache.zoo.NAMES`.
        speedup: the step ratio to ask for.
        method: a method's name.
        num_prompts: how many held-out prompts; their seeds are not among those of calibration.
        num_calibration_prompts: how many prompts to calibrate on.
        out: the folder to write to.
        seed: of the first held-out prompt.
        console: where to show progress and the table.

    Returns:
        The files that were written.
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
    full, fast = Variant("full", steps), Variant(policy.method.name, steps, policy=policy)
    variants = [fast, fewer_steps(len(policy.computed_steps))]
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("generating", total=3 * len(prompts))
        gallery = Gallery(full.name, [fast.name], partial(progress.advance, task))
        calls = calls_of(settings, prompts, seed)
        rows = compare(embedded.pipe, full, variants, calls, on_result=gallery.take, keep_latents=True)
    table = comparison_table(rows)
    console.print(table)
    return kept_somewhere(out, Demonstration(model, policy, prompts, rows, table, gallery).write)


@dataclass(frozen=True)
class Demonstration:
    """The results of a demo.

    Args:
        model: name of the small pipeline.
        policy: the policy that was calibrated.
        prompts: the held-out prompts.
        rows: figures of the full run, the accelerated one, and the one with fewer steps, in this order.
        table: the same as a table.
        gallery: the pictures, and the error of each step.
    """

    model: str
    policy: Policy
    prompts: Sequence[str]
    rows: Sequence[Row]
    table: Table
    gallery: Gallery

    def write(self, folder: Path) -> list[Path]:
        """Write pictures or clips, the plot, the policy and the page; returns the files."""
        full, ours, theirs = self.rows
        are_clips = self.gallery.pictures[0][full.name].ndim == 4
        names = self._write_clips(folder) if are_clips else self._write_pictures(folder)
        errors = self.gallery.step_errors
        policy_plot(self.policy, folder / "policy.png", {"held-out prompts": errors[ours.name]})
        report_comparison(
            f"The small {self.model} pipeline, {self.policy.step_ratio:.3g}x",
            f"{len(self.prompts)} prompts that neither training nor calibration saw: all {full.computed_steps} steps, "
            f"{len(self.policy.computed_steps)} of them computed by the method {ours.name}, and as many plain steps.",
            [ours, theirs],
            self.table,
            self._cases(),
            {ours.name: self.policy},
            errors,
            folder / "report.html",
        )
        self.policy.save(folder / "policy.safetensors")  # again: the folder may be another one
        return [folder / name for name in (*names, "policy.png", "policy.safetensors", "report.html")]

    def _write_pictures(self, folder: Path) -> list[str]:
        columns = self._columns(PICTURES, "steps computed")
        side_by_side(columns, self.prompts[:PICTURES], folder / "pictures.png")
        return ["pictures.png"]

    def _write_clips(self, folder: Path) -> list[str]:
        columns = self._columns(CLIPS, "steps")
        contact_sheet(columns, self.prompts[:CLIPS], folder / "pictures.png")
        write_film(columns, folder / "clips.mp4")
        return ["pictures.png", "clips.mp4"]

    def _columns(self, count: int, unit: str) -> dict[str, list[Tensor]]:
        """The first pictures of each way to generate, by its label."""
        pictures = self.gallery.pictures[:count]
        return {f"{row.name}\n{row.computed_steps} {unit}": [ways[row.name] for ways in pictures] for row in self.rows}

    def _cases(self) -> list[Case]:
        """The prompts as the page shows them, worst first."""
        _, *compared = self.rows
        return [
            Case(
                self.prompts[k],
                note,
                self.gallery.pictures[k],
                {row.name: f"{row.psnr[k]:.1f} dB" for row in compared},
            )
            for k, note in worst_first(compared[0].psnr, len(self.prompts))
        ]
