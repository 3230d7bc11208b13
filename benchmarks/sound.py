"""Clip and sound: every method that predicts several latents, on the small LTX-2-type pipeline: docs/records/sound.md.

    python -m benchmarks.sound     # half an hour on a core, and resumable

Held-out prompts and seeds. The clip's PSNR, the sound's signal-to-error ratio and log-mel distance are against the full
run. The report plays clips and sounds, the worst prompts first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from benchmarks.keys import environment, key_of
from benchmarks.markdown import table, write_figures
from ertacache import Policy, calibrate, zoo
from ertacache.evaluation.comparison import Variant, calls_of, fewer_steps
from ertacache.evaluation.harness import LOG_MEL, SOUND, Measured, measure
from ertacache.presenting.evaluation_report import Evaluation, report_evaluation

SPEEDUPS = (1.5, 2.0, 3.0)
METHODS = ("uniform", "reuse", "taylor", "aligned")
NUM_PROMPTS = 8
NAMES = {"fewer": "fewer steps", "instant": "instant", **{name: name for name in METHODS}}


def policies_of(embedded: zoo.Embedded, speedup: float, folder: Path) -> dict[str, Policy]:
    """A policy of each method, calibrated or found calibrated."""
    found = {}
    for name in METHODS:
        path = folder / f"{name}-{speedup:g}.safetensors"
        if not path.exists():
            prompts = embedded.calibration_prompts[:NUM_PROMPTS]
            calibrate(embedded.pipe, prompts, speedup=speedup, method=name, **embedded.arguments).save(path)
        found[name] = Policy.load(path)
    return found


def ways(embedded: zoo.Embedded, speedup: float, policies: Mapping[str, Policy]) -> list[Variant]:
    """Fewer steps, an instant policy, and each method."""
    steps = embedded.arguments["num_inference_steps"]
    plain = fewer_steps(len(policies["aligned"].computed_steps)).num_inference_steps
    others = [Variant(f"{speedup:g}x fewer", plain), Variant(f"{speedup:g}x instant", steps, speedup=speedup)]
    return [*others, *(Variant(f"{speedup:g}x {name}", steps, policy=policy) for name, policy in policies.items())]


def rows_of(measured: Sequence[Measured]) -> list[list[str]]:
    """A row for each ratio and way; the best of a ratio in bold."""
    lines = [["step ratio", "", "clip: PSNR, dB", "SSIM", "sound: signal to error, dB", "log-mel distance, dB"]]
    for speedup in SPEEDUPS:
        of_ratio = {key: next(row for row in measured if row.name == f"{speedup:g}x {key}") for key in NAMES}
        values = {
            key: [fmean(row.psnr), fmean(row.ssim), fmean(row.more[SOUND]), -fmean(row.more[LOG_MEL])]
            for key, row in of_ratio.items()
        }
        for key, own in values.items():
            cells = []
            for place, (value, form) in enumerate(zip(own, (".1f", ".4f", ".1f", ".2f"), strict=True)):
                text = f"{abs(value):{form}}" if place == 3 else f"{value:{form}}"
                best = value == max(other[place] for other in values.values())
                cells.append(f"**{text}**" if best else text)
            lines.append([f"{speedup:g}x", NAMES[key], *cells])
    return lines


def main(
    model: Annotated[str, typer.Option(help="the small pipeline")] = "ltx2",
    out: Annotated[Path, typer.Option(help="the folder for the figures")] = Path("benchmarks/results"),
    report: Annotated[Path, typer.Option(help="the page with clips and sounds")] = Path("out/sound.html"),
    work: Annotated[Path, typer.Option(help="unfinished measurements")] = Path("out/benchmark-sound"),
    prompts: Annotated[int, typer.Option(help="held-out prompts")] = 12,
    seed: Annotated[int, typer.Option(help="of the first held-out prompt")] = 1000,
) -> None:
    """Measure, and write the figures and the page."""
    torch.set_num_threads(1)
    embedded = zoo.load(model)
    folder = work / key_of(embedded, prompts, seed)
    policies = {speedup: policies_of(embedded, speedup, folder) for speedup in SPEEDUPS}
    variants = [way for speedup in SPEEDUPS for way in ways(embedded, speedup, policies[speedup])]
    calls = calls_of(embedded.arguments, embedded.held_out_prompts[:prompts], seed)
    full = Variant("full", embedded.arguments["num_inference_steps"])
    rows = measure(embedded.pipe, full, variants, calls, folder / "measured")
    notes = {f"{speedup:g}x": found["aligned"].calibration.notes for speedup, found in policies.items()}
    figures: dict[str, Any] = {**environment(), "prompts": prompts, "seed": seed, "notes": notes}
    figures["rows"] = [asdict(row) for row in rows]
    write_figures(out, "sound", figures, {"sound": table(rows_of(rows))}, Console())
    shown = {f"aligned {speedup:g}x": policies[speedup]["aligned"] for speedup in SPEEDUPS}
    measured = [next(row for row in rows if row.name == f"{speedup:g}x aligned") for speedup in SPEEDUPS]
    renamed = [Measured(**{**asdict(row), "name": name}) for name, row in zip(shown, measured, strict=True)]
    rate = round(embedded.arguments.get("frame_rate", 8))
    report_evaluation(embedded.pipe, Evaluation(model, shown, calls, renamed), report, fps=rate)


if __name__ == "__main__":
    typer.run(main)
