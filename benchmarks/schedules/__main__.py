"""The search against other ways to choose the computed steps, at equal numbers of them, on held-out prompts.

    python -m benchmarks.schedules flux wan cogvideox opensora

Each other schedule is measured twice: with plain reuse, as its authors have it, and with the aligned prediction fitted
on it, to separate the gain of the schedule from that of the prediction. All is measured in one run, with the same
prompts, seeds and latents. An interrupted run resumes. Several processes, each with some `--ratio`, may share one
`--work` folder; a last one for all ratios then finds everything there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean, median
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from benchmarks.held_out import measured_on_held_out
from benchmarks.keys import environment, key_of, source_digest
from benchmarks.markdown import table, with_interval, write_figures
from benchmarks.schedules.baselines import Schedule, algorithm_2, annealed
from ertacache import Policy, calibrate, zoo
from ertacache.calibration.announcement import Workload
from ertacache.calibration.budget import StepsBudget
from ertacache.calibration.full_runs import Session, open_session
from ertacache.calibration.gram import gram_of
from ertacache.calibration.loop_runner import ClosedLoops
from ertacache.calibration.make_policy import policy_of
from ertacache.calibration.options import CalibrationOptions
from ertacache.evaluation.comparison import Variant, fewer_steps
from ertacache.evaluation.harness import Measured
from ertacache.files import written_whole
from ertacache.method.named_methods import Method
from ertacache.method.schedule import evenly_spaced
from ertacache.method.shortest_path import edges, shortest_path

RATIOS = (1.5, 2.0, 3.0, 4.0, 5.0)
OURS = "ERTACache, search"
CHOICES = ("evenly spaced", "Algorithm 2", "shortest path", "shortest path, minimax", "annealing")
WAYS = ("reuse", "aligned")
OTHERS = {
    "as they are": (f"{CHOICES[0]}, aligned", *(f"{name}, reuse" for name in CHOICES)),
    "with our weights": tuple(f"{name}, aligned" for name in CHOICES),
}
"""The two groups that ours is compared with: evenly spaced steps with fitted weights and the others' schedules with
their authors' prediction; and all schedules with our weights, fitted on them."""


def schedules(session: Session, computed: int, ours: Policy) -> dict[str, Callable[[], Schedule]]:
    """The schedule of each way; annealing gets as many denoiser calls as ours took."""
    loops, setting = session.loops, session.loops.setting

    def path(minimax: bool) -> Schedule:
        costs = edges(gram_of(loops.recordings, setting.num_steps), np.diagonal(loops.surrogate.response).tolist())
        return shortest_path(costs, computed, setting.forced, minimax=minimax)

    def annealing() -> Schedule:
        alone = ClosedLoops(
            loops.pipe, loops.calls[:1], loops.recordings[:1], setting, loops.surrogate, lambda number: None
        )
        return annealed(alone, computed, ours.calibration.denoiser_calls - session.loops.full_run)

    return {
        "evenly spaced": lambda: evenly_spaced(setting.num_steps, computed, setting.forced),
        "Algorithm 2": lambda: algorithm_2(loops, computed),
        "shortest path": lambda: path(False),
        "shortest path, minimax": lambda: path(True),
        "annealing": annealing,
    }


def fitted(session: Session, computed: int, way: str, choose: Callable[[], Schedule], beside: Policy | None) -> Policy:
    """A schedule with one way to predict its cached steps; ``beside`` has the schedule already."""
    cached = beside.cached_steps if beside else choose()
    method = Method() if way == "reuse" else Method(predictor="aligned")
    budget = StepsBudget(asked=f"num_computed_steps={computed}", computed=computed)
    fit = session.loops.judged(cached, method)
    return session.with_origin(policy_of(session.loops, method, budget, fit))


def policies_for(
    embedded: zoo.Embedded, ratios: Sequence[float], prompts: Sequence[str], work: Path, console: Console
) -> dict[tuple[int, str], Policy]:
    """Every policy, by its number of computed steps and its name, or as found in ``work``."""
    arguments = dict(embedded.arguments)
    steps = arguments.pop("num_inference_steps")
    options = CalibrationOptions(steps, checkpoint=work / "full-runs", call_arguments=arguments)
    found: dict[tuple[int, str], Policy] = {}

    def kept(computed: int, name: str, make: Callable[[], Policy]) -> Policy:
        path = work / f"{computed}-{name}.safetensors"
        if not path.exists():
            console.print(f"{computed} steps: {name}", style="dim")
            make().save(path)
        found[computed, name] = Policy.load(path)
        return found[computed, name]

    with open_session(embedded.pipe, prompts, options, Workload()) as session:
        for ratio in ratios:
            computed = int(steps / ratio + 1e-9)
            ours = kept(
                computed,
                OURS,
                partial(
                    calibrate,
                    embedded.pipe,
                    prompts,
                    num_computed_steps=computed,
                    full_runs=5 * len(prompts),
                    **options.keywords(),
                ),
            )
            for name, choose in schedules(session, computed, ours).items():
                for way in WAYS:
                    beside = found.get((computed, f"{name}, {WAYS[0]}"))
                    kept(computed, f"{name}, {way}", partial(fitted, session, computed, way, choose, beside))
    return found


def measured(
    embedded: zoo.Embedded,
    policies: dict[tuple[int, str], Policy],
    num_prompts: int,
    seed: int,
    work: Path,
    console: Console,
) -> list[tuple[int, Measured]]:
    """All policies, and fewer steps, on held-out prompts."""
    steps = embedded.arguments["num_inference_steps"]
    rows = []
    for computed in dict.fromkeys(n for n, _ in policies):
        variants = [Variant(name, steps, policy=policy) for (n, name), policy in policies.items() if n == computed]
        variants.append(fewer_steps(computed))
        folder = work / f"{computed}-of-{num_prompts}-prompts"
        folder.mkdir(exist_ok=True)
        rows += [
            (computed, row) for row in measured_on_held_out(embedded, variants, num_prompts, seed, folder, console)
        ]
    return rows


def markdown_of(result: dict[str, Any]) -> str:
    """The tables of one pipeline: PSNR of every way, and our lead over the best of the others."""
    steps, counts = result["arguments"]["num_inference_steps"], result["computed_steps"]
    rows = _psnr_of(result)
    names = [OURS, *(f"{name}, {way}" for way in WAYS[::-1] for name in CHOICES), "fewer steps"]
    lines = [[f"steps computed, of {steps}", *map(str, counts)]]
    best = {n: max(names, key=lambda name: fmean(rows[n, name])) for n in counts}
    for name in names:
        cells = [
            f"**{fmean(rows[n, name]):.1f}**" if name == best[n] else f"{fmean(rows[n, name]):.1f}" for n in counts
        ]
        lines.append([name, *cells])
    leads = [["lead over the best of the others", *map(str, counts)]]
    for name, others in OTHERS.items():
        leads.append([name, *(with_interval(lead(rows, n, others)) for n in counts)])
    return table(lines) + "\n\n" + table(leads)


def _psnr_of(result: Mapping[str, Any]) -> dict[tuple[int, str], list[float]]:
    """Over prompts, by number of computed steps and way."""
    return {(row["computed_steps"], row["name"]): row["psnr"] for row in result["rows"]}


def lead(rows: Mapping[tuple[int, str], Sequence[float]], computed: int, others: Sequence[str]) -> list[float]:
    """Prompt by prompt, our PSNR less that of the way among the others which is best in the mean."""
    other = max(others, key=lambda name: fmean(rows[computed, name]))
    return [ours - theirs for ours, theirs in zip(rows[computed, OURS], rows[computed, other], strict=True)]


def summary_of(results: Sequence[Mapping[str, Any]]) -> str:
    """Our mean leads on every pipeline that was measured, and their median over pipelines and numbers of steps.

    Then the same over each other schedule alone, with our weights: what it would be to settle on it beforehand.
    """
    found: dict[str, list[float]] = {}
    lines = [["", "pipeline", *(f"{ratio:g}x" for ratio in RATIOS), "median"]]
    for name, others in OTHERS.items():
        for result in results:
            rows = _psnr_of(result)
            means = [fmean(lead(rows, n, others)) for n in result["computed_steps"]]
            found.setdefault(name, []).extend(means)
            lines.append([name, result["model"], *(f"{mean:+.1f}" for mean in means), f"{median(means):+.1f}"])
        lines.append([name, "all", *[""] * len(RATIOS), f"**{median(found[name]):+.1f}**"])
    for choice in CHOICES:
        alone: list[list[float]] = []
        for result in results:
            rows = _psnr_of(result)
            alone.append([fmean(lead(rows, n, [f"{choice}, aligned"])) for n in result["computed_steps"]])
        middle = median(mean for row in alone for mean in row)
        each = [f"{fmean(column):+.1f}" for column in zip(*alone, strict=True)]
        lines.append([f"{choice}, with our weights", "mean of all", *each, f"{middle:+.1f}"])
    return table(lines)


def main(
    models: Annotated[list[str] | None, typer.Argument(help=f"of {', '.join(zoo.NAMES)}; by default all here")] = None,
    out: Annotated[Path, typer.Option(help="the folder for the figures, as JSON")] = Path("benchmarks/results"),
    work: Annotated[Path, typer.Option(help="policies and unfinished measurements")] = Path("out/benchmark-schedules"),
    ratio: Annotated[list[float] | None, typer.Option(help="steps over computed steps; repeatable")] = None,
    prompts: Annotated[int, typer.Option(help="held-out prompts")] = 16,
    calibration_prompts: Annotated[int, typer.Option(help="calibration prompts")] = 16,
    seed: Annotated[int, typer.Option(help="of the first held-out prompt")] = 1000,
    quick: Annotated[bool, typer.Option("--quick", help="two prompts, one point, ten steps: a check")] = False,
) -> None:
    """Calibrate, measure, and write the figures as JSON and as Markdown, for one pipeline after the other."""
    console = Console()
    for model in models or zoo.available():
        embedded = zoo.load(model)
        ratios: Sequence[float] = ratio or RATIOS
        if quick:
            prompts, calibration_prompts, ratios = 2, 2, (2.0,)
            embedded.arguments["num_inference_steps"] = 10
        key = key_of(embedded, seed, calibration_prompts, source_digest(Path(__file__).parent))
        folder = work / model / key
        folder.mkdir(parents=True, exist_ok=True)
        chosen = embedded.calibration_prompts[:calibration_prompts]
        policies = policies_for(embedded, ratios, chosen, folder, console)
        rows = measured(embedded, policies, prompts, seed, folder, console)
        result = {
            **environment(),
            "model": model,
            "arguments": embedded.arguments,
            "prompts": prompts,
            "calibration_prompts": calibration_prompts,
            "seed": seed,
            "computed_steps": list(dict.fromkeys(n for n, _ in policies)),
            "rows": [
                {"computed_steps": n, "name": row.name, "psnr": row.psnr, "ssim": row.ssim, "speedup": row.speedup}
                for n, row in rows
            ],
            "policies": {
                f"{n} {name}": {
                    "computed_steps": policy.computed_steps,
                    "full_runs_per_prompt": policy.calibration.full_runs,
                    "error": policy.calibration.error,
                }
                for (n, name), policy in policies.items()
            },
        }
        name = f"schedules-{model}" if ratios == RATIOS else f"some-schedules-{model}"
        write_figures(out, name, result, {name: markdown_of(result)}, console)
    measured_too = [json.loads(path.read_text()) for path in sorted(out.glob("schedules-*.json"))]
    if measured_too:
        with written_whole(out / "schedules.md") as unfinished:
            Path(unfinished).write_text(summary_of(measured_too) + "\n")


if __name__ == "__main__":
    typer.run(main)
