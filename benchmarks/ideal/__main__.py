"""Every method on the ideal denoiser, which no training made: docs/records/ideal.md.

    python -m benchmarks.ideal     # half an hour on a core, and resumable

Policies are calibrated on eight prompts and seeds and measured on twelve others, all ways side by side in one run:
fewer steps, this library's methods, and those rivals that work on a denoiser's outputs. Rivals are read at equal
operations of the denoiser, prompt by prompt, at the best of their settings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer
from matplotlib.figure import Figure
from rich.console import Console

from benchmarks.cost.measuring import COUNTS
from benchmarks.ideal.pictures import CLASSES, SIZE, pipeline
from benchmarks.keys import environment, key_of, source_digest
from benchmarks.markdown import table, write_figures
from benchmarks.rivals import roster
from benchmarks.rivals.base import Knobs, Rival
from benchmarks.rivals.curves import by_operations, qualities_at
from benchmarks.rivals.harness import Entry, entries_of, subject_of
from benchmarks.rivals.ours import ALIGNED, PAPER, UNIFORM
from benchmarks.rivals.solvers import FEWER_STEPS
from ertacache import Policy, calibrate, zoo
from ertacache.errors import PipelineError
from ertacache.evaluation.comparison import Variant, calls_of, fewer_steps, generate, started
from ertacache.evaluation.harness import measure
from ertacache.presenting.plot_style import save_figure
from ertacache.runtime.step_budget import StepBudget

WHAT = "Ideal denoiser, closed form, no trained model: one end of a scale. No stand-in for a trained model."
STEPS, GUIDANCE = 30, 4.0
SPEEDUPS = (1.5, 2.0, 3.0)
"""20, 15 and 10 of 30 steps are computed."""
CALIBRATION_PROMPTS, PROMPTS, SEED = 8, 12, 1000
SAME = 25.0
"""In dB: above it a picture shows the same as the full run's."""
MOST_PROMPTS = 50
"""What the costliest rival asks for to prepare itself."""
NAMES = {
    "uniform": "evenly spaced, output reused",
    "reuse": "evenly spaced, velocity reused",
    "taylor": "evenly spaced, Taylor",
    "offline": "the paper's offline policy",
    "paper": "the paper's policy with both corrections",
    "aligned": "aligned",
}
"""Calibrated ways, by method."""
FEWER, INSTANT = "fewer steps", "instant"
OURS = ("aligned", INSTANT)
BRIEF = ("reuse", "taylor", "offline", "aligned")
"""The methods at other sizes."""
RIVALS = tuple(rival for rival in roster.RIVALS if rival not in (ALIGNED, PAPER, UNIFORM, FEWER_STEPS))
WHOLE = 2 * SIZE - 1


@dataclass(frozen=True)
class Size:
    """How many pictures the set has, and the side of the smallest window in pixels."""

    pictures: int
    window: int

    @property
    def window_name(self) -> str:
        """For tables."""
        return "the whole picture" if self.window == WHOLE else f"from {self.window} px"


DEFAULT = Size(300, 3)
SIZES = (DEFAULT, Size(300, 5), Size(300, 9), Size(300, WHOLE), Size(100, 3), Size(700, 3))


def embedded_of(size: Size, steps: int) -> zoo.Embedded:
    """The pipeline with its prompts, by turns."""
    prompts = list(islice(cycle(CLASSES), MOST_PROMPTS))
    arguments = {"num_inference_steps": steps, "guidance_scale": GUIDANCE}
    return zoo.Embedded(pipeline(size.pictures, size.window), arguments, prompts, prompts[:PROMPTS])


def policy_of(embedded: zoo.Embedded, method: str, speedup: float, prompts: int, folder: Path) -> Policy:
    """A policy, calibrated or found calibrated."""
    path = folder / f"{method}-{speedup:g}x.safetensors"
    if not path.exists():
        calibrate(
            embedded.pipe,
            embedded.calibration_prompts[:prompts],
            speedup=speedup,
            method=method,
            full_runs=5 * prompts,
            checkpoint=folder / "full-runs",
            progress=False,
            **embedded.arguments,
        ).save(path)
    return Policy.load(path)


def our_ways(embedded: zoo.Embedded, methods: Sequence[str], prompts: int, folder: Path) -> dict[str, Variant]:
    """By step ratio and way: ``2 aligned`` and the like; fewer steps and instant policies among them."""
    steps, ways = int(embedded.arguments["num_inference_steps"]), {}
    for speedup in SPEEDUPS:
        instant = Variant("", steps, speedup=speedup)
        ways[f"{speedup:g} {FEWER}"] = fewer_steps(instant.computed_steps)
        ways[f"{speedup:g} {INSTANT}"] = instant
        for method in methods:
            policy = policy_of(embedded, method, speedup, prompts, folder)
            ways[f"{speedup:g} {method}"] = Variant("", steps, policy=policy)
    return ways


def chosen(num_steps: int, settings: Sequence[Knobs]) -> list[Knobs]:
    """Of settings that say how many steps are computed, those that compute as many as ours; of others, all."""
    wanted = {None, *(StepBudget(speedup).computed(num_steps) for speedup in SPEEDUPS)}
    return [knobs for knobs in settings if next((knobs[name] for name in COUNTS if name in knobs), None) in wanted]


def rivals_of(
    embedded: zoo.Embedded, rivals: Sequence[Rival], folder: Path
) -> tuple[dict[str, list[Entry]], dict[str, str]]:
    """The settings of each rival that attaches to this denoiser, and why the others do not."""
    subject = subject_of(embedded, "ideal", folder)
    found: dict[str, list[Entry]] = {}
    refused: dict[str, str] = {}
    for rival in rivals:
        try:
            reason = rival.refuses(subject)
            entries = entries_of(subject, [rival], choose=partial(chosen, subject.num_steps))
        except (PipelineError, AttributeError, KeyError, ValueError) as error:
            reason, entries = str(error).splitlines()[0], []
        if entries:
            found[rival.name] = entries
        else:
            refused[rival.name] = reason
    return found, refused


def measured(
    size: Size, methods: Sequence[str], rivals: Sequence[Rival], work: Path, quick: bool = False
) -> tuple[dict[str, Any], zoo.Embedded, dict[str, Variant]]:
    """PSNR by step ratio and way, a list over prompts, None of a rival that is not so fast; and what was measured."""
    embedded = embedded_of(size, 10 if quick else STEPS)
    calibration, prompts = (2, 2) if quick else (CALIBRATION_PROMPTS, PROMPTS)
    here = Path(__file__).parent
    code = [(here / name).read_text() for name in ("denoiser.py", "pipeline.py", "pictures.py")]
    folder = work / key_of(embedded, *code, source_digest(here.parent / "rivals"), *methods, len(rivals), prompts)
    folder.mkdir(parents=True, exist_ok=True)
    variants = our_ways(embedded, methods, calibration, folder)
    found, refused = rivals_of(embedded, rivals, folder)
    settings = {f"{name} {k}": entry for name, entries in found.items() for k, entry in enumerate(entries)}
    variants |= {name: entry.variant for name, entry in settings.items()}
    adaptive = [place for place, name in enumerate(variants) if name in settings and settings[name].rival.adaptive]
    full, calls = Variant("full", embedded.arguments["num_inference_steps"]), held_out(embedded, prompts)
    measures = measure(embedded.pipe, full, list(variants.values()), calls, folder / "measured", adaptive=adaptive)
    rows = dict(zip(variants, measures, strict=True))
    psnr: dict[str, dict[str, Any]] = {}
    for speedup in SPEEDUPS:
        own = {name: rows[f"{speedup:g} {name}"].psnr for name in (FEWER, *methods, INSTANT)}
        others = {
            name: qualities_at([rows[f"{name} {k}"] for k in range(len(entries))], speedup, by_operations)
            for name, entries in found.items()
        }
        psnr[f"{speedup:g}"] = own | others
    kept = {name: {"knobs": dict(entry.knobs), **asdict(rows[name])} for name, entry in settings.items()}
    steps = embedded.arguments["num_inference_steps"]
    result = {**asdict(size), "steps": steps, "psnr": psnr, "refused": refused, "settings": kept}
    return result, embedded, variants


def held_out(embedded: zoo.Embedded, prompts: int) -> list[dict[str, Any]]:
    """The held-out calls."""
    return calls_of(embedded.arguments, embedded.held_out_prompts[:prompts], SEED)


def shown(rows: Sequence[Sequence[float] | None]) -> list[str]:
    """For each way the median over prompts in dB, the best in bold, and how many of the pictures are the same one.

    A mean would say nothing: a picture that ends as the same one of the set counts up to 100 dB.
    """
    medians = [None if row is None else round(median(row), 1) for row in rows]
    best = max(value for value in medians if value is not None)
    cells = []
    for row, value in zip(rows, medians, strict=True):
        if row is None or value is None:
            cells.append("-")
            continue
        text = f"**{value:.1f}**" if value == best else f"{value:.1f}"
        cells.append(f"{text}, {sum(one >= SAME for one in row)}")
    return cells


def full_table(result: Mapping[str, Any]) -> str:
    """A row for each way, a column for each number of computed steps; see `shown`."""
    steps = result["steps"]
    heads = [f"{StepBudget(float(ratio)).computed(steps)} ({ratio}x)" for ratio in result["psnr"]]
    names = list(next(iter(result["psnr"].values())))
    columns = [shown([row[name] for name in names]) for row in result["psnr"].values()]
    rows = [[NAMES.get(name, name), *cells] for name, *cells in zip(names, *columns, strict=True)]
    return table([[f"steps computed, of {steps}", *heads], *rows])


def sizes_table(results: Sequence[Mapping[str, Any]]) -> str:
    """A row for each size and number of computed steps, a column for each way; see `shown`."""
    names = (FEWER, *BRIEF, INSTANT)
    lines = [["pictures", "window", "steps computed", *(NAMES.get(name, name) for name in names)]]
    for result in results:
        for ratio, row in result["psnr"].items():
            counted = str(StepBudget(float(ratio)).computed(STEPS))
            window = Size(result["pictures"], result["window"]).window_name
            lines.append([str(result["pictures"]), window, counted, *shown([row[name] for name in names])])
    return table(lines)


def best_other(result: Mapping[str, Any], speedup: float) -> str:
    """The best way at a step ratio that is none of `OURS`: one of `our_ways`, or one setting of a rival."""
    found = {f"{speedup:g} {name}": median(result["psnr"][f"{speedup:g}"][name]) for name in NAMES if name not in OURS}
    for name, row in result["settings"].items():
        if median(row["flops"]) <= 1 / speedup + 1e-6:
            found[name] = median(row["psnr"])
    return max(found, key=found.__getitem__)


def drawn(
    result: Mapping[str, Any], embedded: zoo.Embedded, variants: Mapping[str, Variant], prompts: int, path: Path
) -> None:
    """A row of pictures for each way at 2x, a column for each held-out prompt, in their own pixels."""
    other = best_other(result, 2.0)
    name = other.removeprefix("2 ") if other.startswith("2 ") else other.rpartition(" ")[0]
    shown = {
        f"full, {STEPS} steps": Variant("", STEPS),
        "aligned, 15 computed": variants["2 aligned"],
        f"{NAMES.get(name, name)}, 15 computed": variants[other],
        "fewer steps, 15": variants[f"2 {FEWER}"],
    }
    figure = Figure(figsize=(1.2 * prompts, 1.45 * len(shown)), layout="constrained")
    axes = figure.subplots(len(shown), prompts, squeeze=False)
    for row, (label, variant) in zip(axes, shown.items(), strict=True):
        for axis, call in zip(row, held_out(embedded, prompts), strict=True):
            picture = generate(embedded.pipe, variant, started(call)).pictures[0]
            axis.imshow(picture.permute(1, 2, 0).numpy(), interpolation="nearest")
            axis.set_axis_off()
        row[0].set_title(label, fontsize=9, loc="left")
    save_figure(figure, path, dpi=110)


def main(
    out: Annotated[Path, typer.Option(help="the folder for the figures")] = Path("benchmarks/results"),
    picture: Annotated[Path, typer.Option(help="the picture")] = Path("docs/images/ideal.png"),
    work: Annotated[Path, typer.Option(help="policies and unfinished measurements")] = Path("out/benchmark-ideal"),
    quick: Annotated[
        bool, typer.Option("--quick", help="two prompts, ten steps, the default size: a check, no figures")
    ] = False,
) -> None:
    """Measure, and write the figures and the picture."""
    torch.set_num_threads(1)
    if quick:
        print(f"{WHAT}\n\n{full_table(measured(Size(100, 3), tuple(NAMES), RIVALS, work, quick)[0])}")
        return
    results = []
    for size in SIZES:
        whole = size == DEFAULT
        result, embedded, variants = measured(size, tuple(NAMES) if whole else BRIEF, RIVALS if whole else (), work)
        results.append(result)
        print(full_table(result), flush=True)
        if whole:
            drawn(result, embedded, variants, 6, picture)
    figures = {"what": WHAT, **environment(), "prompts": PROMPTS, "calibration_prompts": CALIBRATION_PROMPTS}
    figures |= {"seed": SEED, "guidance": GUIDANCE, "results": results}
    write_figures(
        out, "ideal", figures, {"ideal": full_table(results[0]), "ideal-sizes": sizes_table(results)}, Console()
    )


if __name__ == "__main__":
    typer.run(main)
