"""What each full run brings, beside rivals at their own cost of calibration: docs/records/cost.md.

    python -m benchmarks.cost                  # all trained pipelines; about two hours on two cores
    python -m benchmarks.cost --keep-rivals    # ours anew, beside the rivals of the results that are there

For every trained pipeline and step ratio, on held-out prompts and by a prior that has *not* seen the pipeline: an
instant policy (0 full runs), one learnt from a generation (1), calibrations with more and more; fewer steps; and rivals
at every setting, read at equal operations of the denoiser. Prompt by prompt, all ways start from the same noise and are
compared with the same full run. Rivals, of which there are many settings, have the first few of the prompts, and stand
beside ours on those. What was measured is kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import torch
import typer
from matplotlib.figure import Figure
from rich.console import Console

from benchmarks.keys import environment, key_of, source_digest
from benchmarks.markdown import table, write_figures
from benchmarks.rivals.base import Knobs, Rival
from benchmarks.rivals.budcache import BUDCACHE
from benchmarks.rivals.cache_dit import DB_CACHE_TAYLOR
from benchmarks.rivals.curves import by_operations, qualities_at
from benchmarks.rivals.diffusers_caches import MAG_CACHE, SEA_CACHE, TAYLOR_SEER, TAYLOR_SEER_LITE
from benchmarks.rivals.dpcache import DPCACHE
from benchmarks.rivals.easycache import EASYCACHE
from benchmarks.rivals.harness import entries_of, subject_of
from benchmarks.rivals.l2p import L2P_CACHE
from benchmarks.rivals.lemica import LEMICA
from benchmarks.rivals.meancache import MEANCACHE
from benchmarks.rivals.ours import UNIFORM
from benchmarks.rivals.sencache import SENCACHE
from benchmarks.rivals.solvers import DPM_SOLVER, FEWER_STEPS
from benchmarks.rivals.spectrum import SPECTRUM
from ertacache import zoo
from ertacache.acceleration import switch_off, switch_on
from ertacache.calibration.announcement import Workload
from ertacache.calibration.budget import StepsBudget
from ertacache.calibration.full_runs import open_session
from ertacache.calibration.options import CalibrationOptions
from ertacache.calibration.plan import Plan
from ertacache.calibration.policy_for_budget import solve
from ertacache.evaluation.comparison import Variant, calls_of, fewer_steps, started
from ertacache.evaluation.harness import Measured, measure
from ertacache.learning import Learner
from ertacache.method.named_methods import Method
from ertacache.metrics import MAX_PSNR
from ertacache.policy import Policy
from ertacache.presenting.plot_style import COMPUTED, save_figure
from ertacache.runtime.identity import circumstances_of
from ertacache.runtime.instant import Instant
from ertacache.runtime.pipeline_key import digest_of, pipeline_key
from ertacache.runtime.policy_source import PolicySource
from ertacache.runtime.step_budget import StepBudget
from ertacache.watching.watched import WatchedAcceleration

SPEEDUPS = (1.5, 2.0, 3.0, 4.0)
TOTALS = (2, 4, 10, 20, 40, 80)
CALIBRATION_PROMPTS = 16
RIVALS: Mapping[Rival, int] = {
    UNIFORM: 0,
    DPM_SOLVER: 0,
    TAYLOR_SEER: 0,
    TAYLOR_SEER_LITE: 0,
    SEA_CACHE: 0,
    EASYCACHE: 0,
    DB_CACHE_TAYLOR: 0,
    SPECTRUM: 0,
    MAG_CACHE: 1,
    DPCACHE: 10,
    SENCACHE: 16,
    L2P_CACHE: 50,
    BUDCACHE: 126,
    MEANCACHE: 250,
    LEMICA: 387,
}
"""Each rival with the full runs that it asks for before the first generation."""
FEWER = FEWER_STEPS.name
COUNTS = ("num_computed_steps", "num_inference_steps", "k", "count")
"""What rivals call the number of steps that they compute."""
MARKERS = ("s", "^", "v", "D", "P", "X", "<", ">", "*", "h", "p", "d", "H", "8", "1")
SAME = 0.1
"""How many dB fewer steps may differ between the two parts of the measurement."""
_SO_MANY_STEPS = 0.01  # of the full run's operations: settings nearer than that compute as many steps


@contextmanager
def following(source: PolicySource, pipe: Any) -> Iterator[None]:
    """The pipeline, with policies from this source."""
    acceleration = WatchedAcceleration(source)
    switch_on(pipe, acceleration)
    try:
        yield
    finally:
        switch_off(pipe, acceleration)


def calibrated(embedded: zoo.Embedded, model: str, computed: int, total: float, folder: Path) -> Policy:
    """As `ertacache.calibrate` makes it, but for a prior without this pipeline."""
    arguments, prompts = dict(embedded.arguments), embedded.calibration_prompts[:CALIBRATION_PROMPTS]
    steps = int(arguments.pop("num_inference_steps"))
    budget, method = StepsBudget(asked=f"num_computed_steps={computed}", computed=computed), Method.named("aligned")
    plan = Plan.of(budget, method, len(prompts), steps, total)
    options = CalibrationOptions(steps, checkpoint=folder, call_arguments=arguments)
    workload = Workload(plan.full_runs, traced_steps=2 * computed, without=model)
    with open_session(embedded.pipe, prompts[: plan.num_prompts], options, workload) as session:
        return session.with_origin(solve(session, method, plan.limiting(budget)))


def learnt(embedded: zoo.Embedded, model: str, speedup: float, folder: Path) -> Learner:
    """What one generation of a calibration prompt taught."""
    learner, steps = Learner(StepBudget(speedup), folder, without=model), embedded.arguments["num_inference_steps"]
    (first,) = calls_of(embedded.arguments, embedded.calibration_prompts[:1], 0)
    if not any(folder.glob("*.safetensors")):
        with following(learner, embedded.pipe):
            embedded.pipe(**started(first), num_inference_steps=steps, output_type="latent")
    return learner


def our_ways(embedded: zoo.Embedded, model: str, work: Path) -> dict[str, Variant]:
    """By step ratio and full runs: ``2 10`` and the like; and fewer steps."""
    steps, ways = int(embedded.arguments["num_inference_steps"]), {}
    for speedup in SPEEDUPS:
        budget = StepBudget(speedup)
        computed = budget.computed(steps)
        sources: dict[int, PolicySource] = {
            0: Instant(budget, without=model),
            1: learnt(embedded, model, speedup, work / f"learnt-{speedup:g}x"),
        }
        ways[f"{speedup:g} {FEWER}"] = fewer_steps(computed)
        for total, source in sources.items():
            ways[f"{speedup:g} {total}"] = Variant("", steps, around=partial(following, source))
        for total in TOTALS:
            path = work / f"{speedup:g}x-{total}.safetensors"
            if not path.exists():
                calibrated(embedded, model, computed, total, work / "full-runs").save(path)
            ways[f"{speedup:g} {total}"] = Variant("", steps, Policy.load(path))
    return ways


def measured_ours(model: str, prompts: int, seed: int, work: Path) -> dict[str, Any]:
    """PSNR of ours and of fewer steps: by name, a list over prompts; and what each calibration cost."""
    embedded = zoo.load(model)
    folder = work / model / key_of(embedded, source_digest(Path(__file__).parent / "rivals"), seed, "ours")
    ways = our_ways(embedded, model, folder)
    rows = _measured(embedded, list(ways.values()), prompts, seed, folder / "measured")
    found = {name: row.psnr for name, row in zip(ways, rows, strict=True)}
    if max(max(values) for values in found.values()) >= MAX_PSNR:
        raise RuntimeError(f"{model}: a generation ran in full: {found}")
    costs = {name: way.policy.calibration.total_full_runs for name, way in ways.items() if way.policy is not None}
    used = {name: way.policy.calibration.num_prompts for name, way in ways.items() if way.policy is not None}
    return {"psnr": found, "full_runs": costs, "prompts_used": used}


def measured_rivals(
    embedded: zoo.Embedded, model: str, prompts: int, seed: int, work: Path, speedups: Sequence[float]
) -> dict[str, list[Measured]]:
    """Every setting of each rival and of fewer steps, measured.

    Args:
        embedded: the pipeline at its settings.
        model: its name.
        prompts: held-out ones.
        seed: of the first of them.
        work: what was measured is kept here.
        speedups: where a knob is how many steps are computed, those of these step ratios and the next two are tried.
    """
    circumstances = circumstances_of(embedded.pipe, (), embedded.arguments)
    code = source_digest(Path(__file__).parent / "rivals")  # of this library only the pipelines and metrics matter
    key = digest_of([embedded.arguments, pipeline_key(embedded.pipe, circumstances), code, seed])
    folder = work / f"rivals-{key}"
    subject = subject_of(embedded, model, folder)
    entries = entries_of(subject, [FEWER_STEPS, *RIVALS], choose=partial(near, subject.num_steps, speedups))
    adaptive = [place for place, entry in enumerate(entries) if entry.rival.adaptive]
    variants = [entry.variant for entry in entries]
    rows = _measured(embedded, variants, prompts, seed, folder / "measured", adaptive)
    found: dict[str, list[Measured]] = {}
    for entry, row in zip(entries, rows, strict=True):
        found.setdefault(entry.rival.name, []).append(row)
    return found


def near(num_steps: int, speedups: Sequence[float], settings: Sequence[Knobs]) -> list[Knobs]:
    """Of settings that say how many steps are computed, those that compute as many as ours, and the next two."""
    wanted = {StepBudget(speedup).computed(num_steps) for speedup in speedups}
    wanted |= {max(2, round(num_steps / (max(speedups) + more))) for more in (0, 1)}
    counts = [next((knobs[name] for name in COUNTS if name in knobs), None) for knobs in settings]
    return [knobs for knobs, count in zip(settings, counts, strict=True) if count is None or count in wanted]


def _measured(
    embedded: zoo.Embedded,
    variants: Sequence[Variant],
    prompts: int,
    seed: int,
    folder: Path,
    adaptive: Sequence[int] = (),
) -> list[Measured]:
    full = Variant("full", embedded.arguments["num_inference_steps"])
    calls = calls_of(embedded.arguments, embedded.held_out_prompts[:prompts], seed)
    return measure(embedded.pipe, full, variants, calls, folder, adaptive=adaptive)


def check_same(name: str, psnr: Sequence[float], earlier: Sequence[float]) -> None:
    """Raise `RuntimeError` unless fewer steps are as in earlier results: on other prompts, rivals cannot be kept.

    Of two numbers of prompts, the first ones that both have are compared.
    """
    apart = max(abs(x - y) for x, y in zip(psnr, earlier, strict=False))
    if apart > SAME:
        raise RuntimeError(f"{name}: fewer steps differ by {apart:.2f} dB from the earlier results: measure all anew")


def with_kept_rivals(ours: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """One pipeline's figures, with rivals from earlier results on the same prompts: they do not depend on this library.

    Raises:
        RuntimeError: if fewer steps differ, so that the pipeline, prompts or machine are others.
    """
    found: dict[str, dict[str, Any]] = {}
    for ratio, row in before["psnr"].items():
        own = {name: ours["psnr"][f"{ratio} {name}"] for name in (FEWER, *map(str, (0, 1, *TOTALS)))}
        check_same(before["model"], own[FEWER], row[FEWER])
        found[ratio] = {**row, **own}
    return {
        "model": before["model"],
        "psnr": found,
        "full_runs": ours["full_runs"],
        "prompts_used": ours["prompts_used"],
    }


def joined(model: str, ours: Mapping[str, Any], settings: Mapping[str, Sequence[Measured]]) -> dict[str, Any]:
    """One pipeline's figures: PSNR by ratio and way, a list over prompts; None where a rival is not that fast."""
    found: dict[str, dict[str, Any]] = {}
    for speedup in SPEEDUPS:
        row = {name: ours["psnr"][f"{speedup:g} {name}"] for name in (FEWER, *map(str, (0, 1, *TOTALS)))}
        for rival in RIVALS:
            if rival.name in settings:
                row[rival.name] = qualities_at(settings[rival.name], speedup, by_operations)
        same = [other.psnr for other in settings[FEWER] if abs(other.flops[0] - 1 / speedup) < _SO_MANY_STEPS]
        apart = max((abs(x - y) for psnr in same for x, y in zip(row[FEWER], psnr, strict=False)), default=0.0)
        if apart > SAME:
            raise RuntimeError(f"{model}: fewer steps differs by {apart:.2f} dB between the two parts")
        found[f"{speedup:g}"] = row
    return {"model": model, "psnr": found, "full_runs": ours["full_runs"], "prompts_used": ours["prompts_used"]}


def paired(row: Mapping[str, Sequence[float] | None]) -> dict[str, float | None]:
    """Mean PSNR in dB of each way, over the prompts that all of them had: the first ones. None for none."""
    had = min(len(values) for values in row.values() if values)
    return {name: fmean(values[:had]) if values else None for name, values in row.items()}


def ours_table(results: Sequence[Mapping[str, Any]]) -> str:
    """A row for each pipeline and ratio: fewer steps, and ours by full runs."""
    names = ["0", "1", *map(str, TOTALS)]
    lines = [["pipeline", "step ratio", "fewer steps", "instant: 0", "learnt: 1", *names[2:]]]
    for result in results:
        for speedup, psnr in result["psnr"].items():
            lines.append([result["model"], f"{speedup}x", *(f"{fmean(psnr[name]):.1f}" for name in (FEWER, *names))])
    return table(lines)


def rivals_table(results: Sequence[Mapping[str, Any]]) -> str:
    """A row for each way and its cost, a column for each pipeline and ratio; the best of each cost or less in bold."""
    ratios = [f"{speedup:g}" for speedup in SPEEDUPS[:3]]
    places = [(result, ratio) for result in results for ratio in ratios]
    ways = {"ERTACache, instant": ("0", 0), "ERTACache, learnt": ("1", 1), "ERTACache, calibrated": ("10", 10)}
    seen = {name for result, ratio in places for name in result["psnr"][ratio]}
    rivals = {rival.name: (rival.name, cost) for rival, cost in RIVALS.items() if rival.name in seen}
    ways |= {FEWER: (FEWER, 0)} | rivals
    lines = [["", "full runs", *(f"{result['model']} {ratio}x" for result, ratio in places)]]
    means = [paired(result["psnr"][ratio]) for result, ratio in places]
    for name, (key, cost) in sorted(ways.items(), key=lambda way: way[1][1]):
        cells = []
        for row in means:
            value = row.get(key)
            rest = [row.get(other) for other, at_most in ways.values() if at_most <= cost]
            best = value is not None and value >= max(v for v in rest if v is not None)
            shown = "-" if value is None else f"{value:.1f}"
            cells.append(f"**{shown}**" if best else shown)
        lines.append([name, str(cost), *cells])
    return table(lines)


def drawn(results: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Quality against full runs, a panel for each pipeline at 2x and 3x, rivals as points at their cost."""
    figure = Figure(figsize=(3.1 * len(results), 5.6), layout="constrained")
    axes = figure.subplots(2, len(results), squeeze=False, sharex=True)
    totals = (0, 1, *TOTALS)
    for column, result in enumerate(results):
        for row, ratio in enumerate(("2", "3")):
            axis, psnr = axes[row][column], paired(result["psnr"][ratio])
            axis.plot(totals, [psnr[str(total)] for total in totals], "o-", color=COMPUTED, label="ERTACache")
            axis.axhline(psnr[FEWER], color="black", linestyle=":", label=FEWER)
            for number, (rival, cost) in enumerate(RIVALS.items()):
                value, look = psnr.get(rival.name), {"color": f"C{number % 10}", "alpha": 0.8}
                if value is not None:
                    axis.plot(cost, value, MARKERS[number], label=rival.name, **look)
            axis.set_xscale("symlog", linthresh=1)
            axis.set_xticks([0, 1, 2, 4, 10, 20, 40, 80], ["0", "1", "2", "4", "10", "20", "40", "80"], fontsize=8)
            axis.minorticks_off()
            axis.set_title(f"{result['model']}, {ratio}x", fontsize=10)
    for axis in axes[:, 0]:
        axis.set_ylabel("PSNR against the full run, dB", fontsize=9)
    for axis in axes[1]:
        axis.set_xlabel("full runs before acceleration", fontsize=9)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=8, frameon=False)
    save_figure(figure, path, dpi=110)


def worth(results: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """By step ratio and full runs: how many dB the most expensive calibration brings over these, in the mean."""
    most = str(max(TOTALS))
    return {
        f"{speedup:g}": {
            str(total): round(
                fmean(
                    fmean(result["psnr"][f"{speedup:g}"][most]) - fmean(result["psnr"][f"{speedup:g}"][str(total)])
                    for result in results
                ),
                2,
            )
            for total in (1, *TOTALS[:-1])
        }
        for speedup in SPEEDUPS
    }


def worth_table(results: Sequence[Mapping[str, Any]]) -> str:
    """A row for each step ratio, a column for each number of full runs."""
    found = worth(results)
    totals = list(next(iter(found.values())))
    rows = [[f"{ratio}x", *(f"{values[total]:.1f}" for total in totals)] for ratio, values in found.items()]
    return table([["step ratio", *totals], *rows])


def main(
    models: Annotated[list[str] | None, typer.Argument(help="by default all that are trained")] = None,
    out: Annotated[Path, typer.Option(help="the folder for the figures")] = Path("benchmarks/results"),
    picture: Annotated[Path, typer.Option(help="the plot")] = Path("docs/images/cost.png"),
    work: Annotated[Path, typer.Option(help="unfinished measurements")] = Path("out/benchmark-cost"),
    prompts: Annotated[int, typer.Option(help="held-out prompts")] = 12,
    rivals_prompts: Annotated[int, typer.Option(help="so many of them for rivals, the first ones")] = 4,
    seed: Annotated[int, typer.Option(help="of the first held-out prompt")] = 1000,
    keep_rivals: Annotated[bool, typer.Option(help="take the rivals from the earlier results")] = False,
) -> None:
    """Measure, and write the figures."""
    torch.set_num_threads(1)
    results = []
    earlier = json.loads((out / "cost.json").read_text("utf-8"))["results"] if keep_rivals else []
    before = {result["model"]: result for result in earlier}
    for model in models or (before if keep_rivals else zoo.available()):
        if keep_rivals:
            results.append(with_kept_rivals(measured_ours(model, prompts, seed, work), before[model]))
            print(ours_table(results), flush=True)
            continue
        rivals = measured_rivals(zoo.load(model), model, rivals_prompts, seed, work / model, SPEEDUPS)
        results.append(joined(model, measured_ours(model, prompts, seed, work), rivals))
        print(ours_table(results), flush=True)
    had = {"prompts": prompts, "rivals_prompts": rivals_prompts, "seed": seed}
    figures = {**environment(), **had, "results": results, "worth": worth(results)}
    tables = {"cost": ours_table(results), "cost-rivals": rivals_table(results), "cost-worth": worth_table(results)}
    write_figures(out, "cost", figures, tables, Console())
    drawn(results, picture)


if __name__ == "__main__":
    typer.run(main)
