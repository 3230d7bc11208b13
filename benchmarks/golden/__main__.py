"""Is one schedule for all prompts the limit, and how far is ours from the best? docs/records/golden-path.md.

    python -m benchmarks.golden flux     # or emoji; less than half an hour of a core, and resumable

All schedules of a budget that compute the first step are generated with the real denoiser, on held-out prompts and on
those of the calibration, by three predictions (`benchmarks.golden.exhaustion.METHODS`). The reference is the full run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console

from benchmarks.golden.choice import CHOOSERS, NEAR, Table, agreement, chosen_by_few, described
from benchmarks.golden.exhaustion import CALIBRATION, HELD_OUT, Exhaustion
from benchmarks.golden.tree import Computed, all_schedules, cached_of, computed_of, evaluations
from benchmarks.keys import environment, key_of
from benchmarks.markdown import table, write_figures
from benchmarks.schedules.baselines import algorithm_2
from ertacache import Policy, calibrate, zoo
from ertacache.calibration.announcement import RECORDINGS
from ertacache.calibration.full_runs import Session, open_session
from ertacache.calibration.gram import gram_of
from ertacache.calibration.options import CalibrationOptions
from ertacache.evaluation.comparison import Variant, calls_of, generate, started
from ertacache.files import kept
from ertacache.method.schedule import Schedule, evenly_spaced
from ertacache.method.shortest_path import edges, shortest_path
from ertacache.method.surrogate import ORDER
from ertacache.metrics import psnr, ssim

LABELS = {"reuse": "reuse", "recordings": "`aligned` from recordings", "fitted": "`aligned`"}
"""The predictions in tables."""
ORACLE, CHOSEN, OURS, EVEN = "best shared", "best on calibration prompts", "our search", "evenly spaced"
MEDIAN = "median of all schedules"


def chosen_schedules(session: Session, computed: int, folder: Path, embedded: zoo.Embedded) -> dict[str, Schedule]:
    """The cached steps that each way chooses from the calibration prompts, without the table of all schedules."""
    loops = session.loops
    steps, surrogate = loops.setting.num_steps, loops.surrogate
    costs = edges(gram_of(loops.recordings, steps), np.diagonal(surrogate.response).tolist())
    everyone = [cached_of(schedule, steps) for schedule in all_schedules(steps, computed)]
    full_runs = {OURS: 5.0 * len(loops.calls), f"{OURS}, default cost": None}
    ours = {name: searched(embedded, len(loops.calls), computed, folder, cost) for name, cost in full_runs.items()}
    found = {
        **{name: policy.cached_steps for name, policy in ours.items()},
        "best by recordings alone": min(everyone, key=surrogate.error),
        "shortest path": shortest_path(costs, computed, (), minimax=False),
        "Algorithm 2": algorithm_2(loops, computed),
        EVEN: evenly_spaced(steps, computed, ()),
    }
    return {
        name: cached for name, cached in found.items() if len(cached) == steps - computed
    }  # a threshold may skip it


def searched(embedded: zoo.Embedded, prompts: int, computed: int, folder: Path, full_runs: float | None) -> Policy:
    """Our policy of this budget, calibrated or found calibrated."""
    path = folder / f"ours-{full_runs or 'default'}.safetensors"
    if not path.exists():
        chosen = embedded.calibration_prompts[:prompts]
        limits: dict[str, Any] = {"num_computed_steps": computed, "full_runs": full_runs, "progress": False}
        calibrate(embedded.pipe, chosen, **limits, **embedded.arguments).save(path)
    return Policy.load(path)


def result_of(
    by_kind: Mapping[str, Mapping[str, Table]], schedules: Sequence[Computed], chosen: Mapping[str, Schedule]
) -> dict[str, Any]:
    """What the tables of one method say."""
    own, seen = by_kind[HELD_OUT], by_kind[CALIBRATION]
    means, judges = own["psnr"].mean(0), len(own["psnr"])
    everyone = np.concatenate([own["psnr"], seen["psnr"]])
    steps = 1 + max(map(max, schedules))
    places = {ORACLE: int(means.argmax()), CHOSEN: int(seen["psnr"].mean(0).argmax())}
    places |= {name: schedules.index(computed_of(cached, steps)) for name, cached in chosen.items()}
    places[MEDIAN] = int(np.argsort(means)[len(means) // 2])
    return {
        "rows": {
            name: {"computed_steps": schedules[place], **described(own["psnr"], own["ssim"], place)}
            for name, place in places.items()
        },
        "own_best": float(own["psnr"].max(1).mean()),
        "near_best": {f"{near:g}": int((means >= means.max() - near).sum()) for near in NEAR},
        "chosen_by": {str(n): chosen_by_few(everyone, n, judges) for n in CHOOSERS if n + judges <= len(everyone)},
        "agreement": agreement(own["psnr"], own["ssim"]),
        "farthest_from_the_pipeline": max(float(kind["apart"].max(initial=0)) for kind in by_kind.values()),
    }


def followed(embedded: zoo.Embedded, policy: Policy, calls: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """PSNR and SSIM of the pipeline with a policy, by prompt."""
    steps = embedded.arguments["num_inference_steps"]
    found: dict[str, list[float]] = {"psnr": [], "ssim": []}
    for call in calls:
        full, ours = (
            generate(embedded.pipe, variant, started(call)).pictures
            for variant in (Variant("full", steps), Variant("ours", steps, policy=policy))
        )
        found["psnr"].append(psnr(ours, full))
        found["ssim"].append(ssim(ours, full))
    return found


def markdown_of(methods: Mapping[str, Mapping[str, Any]], total: int) -> str:
    """A row for each prediction and way to choose the schedule."""
    head = ["prediction", "schedule", "PSNR, dB", "SSIM", "below best shared", "below own best", "within 1 dB"]
    lines = [[*head, f"rank of {total:,}"]]
    for name, result in methods.items():
        for way, row in result["rows"].items():
            gaps = [f"{row['below_best_shared']:.2f}", f"{row['below_own_best']:.2f}", f"{row['within']['1']:.0%}"]
            lines.append([LABELS[name], way, f"{row['psnr']:.2f}", f"{row['ssim']:.4f}", *gaps, f"{row['rank']:,}"])
    return table(lines)


def few_of(methods: Mapping[str, Mapping[str, Any]]) -> str:
    """A row for each method and number of prompts that choose."""
    lines = [["prediction", "prompts that choose", "below best shared, dB", *(f"within {near:g} dB" for near in NEAR)]]
    for name, result in methods.items():
        for number, row in result["chosen_by"].items():
            lines.append([LABELS[name], number, f"{row['gap']:.2f}", *(f"{row[f'{near:g}']:.0%}" for near in NEAR)])
    return table(lines)


def main(
    model: Annotated[str, typer.Argument(help="a small pipeline of FLUX's class")] = "flux",
    out: Annotated[Path, typer.Option(help="the folder for the figures")] = Path("benchmarks/results"),
    work: Annotated[Path, typer.Option(help="unfinished measurements")] = Path("out/benchmark-golden"),
    steps: Annotated[int, typer.Option(help="steps of every run")] = 10,
    computed: Annotated[int, typer.Option(help="of them, those computed")] = 5,
    prompts: Annotated[int, typer.Option(help="held-out prompts")] = 16,
    calibration_prompts: Annotated[int, typer.Option(help="calibration prompts")] = 8,
    seed: Annotated[int, typer.Option(help="of the first held-out prompt")] = 1000,
    quick: Annotated[bool, typer.Option("--quick", help="two prompts, three of six steps: a check")] = False,
) -> None:
    """Generate every schedule, and write the figures."""
    torch.set_num_threads(1)
    if quick:
        steps, computed, prompts, calibration_prompts = 6, 3, 2, 2
    embedded = zoo.load(model)
    embedded.arguments["num_inference_steps"] = steps
    folder = work / model / key_of(embedded, computed, calibration_prompts, seed)
    calls = {
        HELD_OUT: calls_of(embedded.arguments, embedded.held_out_prompts[:prompts], seed),
        CALIBRATION: calls_of(embedded.arguments, embedded.calibration_prompts[:calibration_prompts], 0),
    }
    arguments = {name: value for name, value in embedded.arguments.items() if name != "num_inference_steps"}
    options = CalibrationOptions(steps, checkpoint=folder / "full-runs", call_arguments=arguments)
    with open_session(
        embedded.pipe, embedded.calibration_prompts[:calibration_prompts], options, RECORDINGS
    ) as session:
        chosen = chosen_schedules(session, computed, folder, embedded)
        surrogate = session.loops.surrogate
    solve, checked = partial(surrogate.solved, order=ORDER), (chosen[OURS], chosen[EVEN])
    exhaustion = Exhaustion(embedded.pipe, steps, computed, calls, solve, checked, folder)
    schedules = exhaustion.schedules
    methods = {name: result_of(by_kind, schedules, chosen) for name, by_kind in exhaustion.tables().items()}
    ours = searched(embedded, calibration_prompts, computed, folder, 5.0 * calibration_prompts)
    calibrated = kept(folder / f"calibrated-{prompts}.json", partial(followed, embedded, ours, calls[HELD_OUT]))
    result = {
        **environment(),
        "model": model,
        "settings": embedded.arguments,
        "computed_steps": computed,
        "schedules": len(schedules),
        "outputs_per_prompt": evaluations(steps, computed),
        "prompts": prompts,
        "calibration_prompts": calibration_prompts,
        "seed": seed,
        "methods": methods,
        "our_policy_as_calibrated": {"taylor_kept": ours.calibration.taylor_kept, **calibrated},
    }
    name = f"golden-{model}"
    pages = {name: markdown_of(methods, len(schedules)), f"{name}-few": few_of(methods)}
    write_figures(out, name, result, pages, Console())


if __name__ == "__main__":
    typer.run(main)
