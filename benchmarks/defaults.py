"""Every pipeline at its own model's defaults, beside every rival, from 1.3x to 5x: docs/records/defaults.md.

    python -m benchmarks.defaults                      # all settings; hours on a core, and resumable
    python -m benchmarks.defaults "wan, 50 steps, shift 3"    # some; the others' figures stay in the file
    python -m benchmarks.defaults --keep-rivals        # ours anew, beside the rivals of the results that are there

The settings are those of the model cards and of diffusers' pipelines: steps, guidance and shift; and 20 or 25 steps,
which is what people use. Ours are the three rungs: an instant policy by a prior that has not seen the pipeline, one
learnt from a generation, and two calibrated, with ten full runs and with eighty. Prompt by prompt, all ways start from
the same noise and are compared with the same full run, on prompts and seeds that calibration never saw.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from benchmarks.cost.measuring import FEWER, RIVALS, calibrated, check_same, following, learnt, measured_rivals
from benchmarks.keys import environment, key_of
from benchmarks.markdown import table, write_figures
from benchmarks.rivals.curves import by_operations, qualities_at
from ertacache import Policy, zoo
from ertacache.evaluation.comparison import Variant, calls_of, fewer_steps
from ertacache.evaluation.harness import measure
from ertacache.runtime.instant import Instant
from ertacache.runtime.step_budget import StepBudget

SPEEDUPS = (1.3, 1.5, 2.0, 3.0, 4.0, 5.0)
CALIBRATED = {"calibrated": 10, "calibrated, 80": 80}
RUNGS = {"instant": 0, "learnt": 1, **CALIBRATED}
"""Ours, with the full runs that each asks for."""
MARGINS = {2.0: 3.0, 3.0: 4.0}
"""How many dB the longest calibration should be above the best of all others, by step ratio."""


@dataclass(frozen=True)
class Default:
    """What a model is run with.

    Args:
        model: the small pipeline of its class.
        arguments: of every call.
        source: who says so.
        scheduler: options of the scheduler that differ from the small pipeline's.
    """

    model: str
    arguments: Mapping[str, Any]
    source: str
    scheduler: Mapping[str, Any] = field(default_factory=dict)

    def load(self) -> zoo.Embedded:
        """The small pipeline at these settings."""
        embedded = zoo.load(self.model)
        embedded.arguments.update(self.arguments)
        if self.scheduler:
            pipe = embedded.pipe
            pipe.scheduler = type(pipe.scheduler).from_config({**pipe.scheduler.config, **self.scheduler})
        return embedded


_FLUX = "FLUX.1-dev: guidance 3.5, here true guidance, shift as at 1024 pixels; {}"
_SHIFT = {"shift": 3.16}
_WAN = "Wan 2.1: guidance 5, {}"
_COGVIDEOX = {"guidance_scale": 6.0, "use_dynamic_cfg": True}
DEFAULTS: dict[str, Default] = {
    "emoji, 30 steps": Default("emoji", {}, "its own: 30 steps without a shift, guidance 8"),
    "emoji, 28 steps": Default(
        "emoji", {"num_inference_steps": 28, "true_cfg_scale": 3.5}, _FLUX.format("28 steps, diffusers"), _SHIFT
    ),
    "emoji, 50 steps": Default(
        "emoji", {"num_inference_steps": 50, "true_cfg_scale": 3.5}, _FLUX.format("50 steps, model card"), _SHIFT
    ),
    "emoji, 20 steps": Default(
        "emoji", {"num_inference_steps": 20, "true_cfg_scale": 3.5}, _FLUX.format("20 steps"), _SHIFT
    ),
    "flux, 28 steps": Default(
        "flux", {"num_inference_steps": 28, "true_cfg_scale": 3.5}, _FLUX.format("28 steps, diffusers"), _SHIFT
    ),
    "wan, 50 steps, shift 3": Default(
        "wan", {"num_inference_steps": 50, "guidance_scale": 5.0}, _WAN.format("50 steps, shift 3 for 480p")
    ),
    "wan, 50 steps, shift 5": Default(
        "wan",
        {"num_inference_steps": 50, "guidance_scale": 5.0},
        _WAN.format("50 steps, shift 5 for 720p"),
        {"flow_shift": 5.0},
    ),
    "wan, 25 steps, shift 5": Default(
        "wan", {"num_inference_steps": 25, "guidance_scale": 5.0}, _WAN.format("25 steps"), {"flow_shift": 5.0}
    ),
    "cogvideox, 50 steps": Default(
        "cogvideox", {"num_inference_steps": 50, **_COGVIDEOX}, "CogVideoX: 50 steps, guidance 6, dynamic"
    ),
    "cogvideox, 25 steps": Default("cogvideox", {"num_inference_steps": 25, **_COGVIDEOX}, "CogVideoX, 25 steps"),
    "opensora, 30 steps": Default(
        "opensora", {"num_inference_steps": 30, "guidance_scale": 7.0}, "Open-Sora 1.2: 30 steps, guidance 7"
    ),
}


def our_ways(embedded: zoo.Embedded, model: str, work: Path) -> dict[tuple[float, str], Variant]:
    """Our three rungs and fewer steps, by step ratio and name."""
    steps, ways = int(embedded.arguments["num_inference_steps"]), {}
    for speedup in SPEEDUPS:
        budget = StepBudget(speedup)
        computed = budget.computed(steps)
        taught = learnt(embedded, model, speedup, work / f"learnt-{speedup:g}x")
        ways[speedup, FEWER] = fewer_steps(computed)
        ways[speedup, "instant"] = Variant("", steps, around=partial(following, Instant(budget, without=model)))
        ways[speedup, "learnt"] = Variant("", steps, around=partial(following, taught))
        for rung, full_runs in CALIBRATED.items():
            path = work / f"{speedup:g}x-{full_runs}.safetensors"
            if not path.exists():
                calibrated(embedded, model, computed, full_runs, work / "full-runs").save(path)
            ways[speedup, rung] = Variant("", steps, Policy.load(path))
    return ways


def measured(
    name: str, prompts: int, seed: int, work: Path, before: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[str, Any]:
    """One setting: by step ratio and way a list of PSNR in dB over prompts, None where a rival is not that fast.

    Args:
        name: of `DEFAULTS`.
        prompts: held-out ones.
        seed: of the first of them.
        work: what was measured is kept here.
        before: earlier figures by step ratio and way, to take the rivals from; None to measure them too.

    Raises:
        RuntimeError: if fewer steps differ from the earlier figures.
    """
    default = DEFAULTS[name]
    embedded = default.load()
    steps = embedded.arguments["num_inference_steps"]
    folder = work / name.replace(", ", "-").replace(" ", "-")
    settings = None if before else measured_rivals(embedded, default.model, prompts, seed, folder, SPEEDUPS)
    own = folder / key_of(embedded, seed, "ours")
    ways = our_ways(embedded, default.model, own)
    calls = calls_of(embedded.arguments, embedded.held_out_prompts[:prompts], seed)
    rows = measure(embedded.pipe, Variant("full", steps), list(ways.values()), calls, own / f"measured-{len(ways)}")
    psnr: dict[str, dict[str, Any]] = {f"{speedup:g}": {} for speedup in SPEEDUPS}
    for (speedup, way), row in zip(ways, rows, strict=True):
        psnr[f"{speedup:g}"][way] = row.psnr
    for speedup, (ratio, found) in zip(SPEEDUPS, psnr.items(), strict=True):
        if before:
            check_same(name, found[FEWER], before[ratio][FEWER])
        for rival in (each.name for each in RIVALS):
            tried = settings and settings.get(rival)
            found[rival] = before[ratio][rival] if before else tried and qualities_at(tried, speedup, by_operations)
    return {"name": name, "settings": dict(embedded.arguments), "source": default.source, "psnr": psnr}


def means(row: Mapping[str, Any]) -> dict[str, float]:
    """The mean PSNR of each way that is fast enough."""
    return {way: fmean(values) for way, values in row.items() if values}


def best_rival(found: Mapping[str, float], full_runs: float) -> tuple[str, float]:
    """The best of fewer steps and of the rivals that cost at most so many full runs."""
    costs = {FEWER: 0} | {rival.name: cost for rival, cost in RIVALS.items()}
    allowed = {way: value for way, value in found.items() if way in costs and costs[way] <= full_runs}
    return max(allowed.items(), key=lambda way: way[1])


def quality_table(results: Sequence[Mapping[str, Any]]) -> str:
    """A row for each setting and ratio: fewer steps, the best rival of each cost, our rungs; the best in bold."""
    heads = ["fewer steps", "best rival, 0 full runs", "instant", "learnt, 1", "best, 10", "calibrated, 10"]
    heads += ["best, any", "calibrated, 80"]
    lines = [["pipeline at its defaults", "step ratio", *heads]]
    for result in results:
        for ratio, row in result["psnr"].items():
            found = means(row)
            best = max(found.values())
            cells = [(f"{found[FEWER]:.1f}", found[FEWER])]
            for rung, cost in RUNGS.items():
                rival, value = best_rival(found, float("inf") if cost == max(RUNGS.values()) else cost)
                if rung != "learnt":
                    cells.append((f"{value:.1f} {rival}", value))
                cells.append((f"{found[rung]:.1f}", found[rung]))
            shown = [f"**{text}**" if value == best else text for text, value in cells]
            lines.append([result["name"], f"{ratio}x", *shown])
    return table(lines)


def verdict(results: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Which of the aims are missed, and by how much: each line one setting, ratio and rung."""
    below, close = [], []
    for result in results:
        for ratio, row in result["psnr"].items():
            found = means(row)
            for rung, cost in RUNGS.items():
                rival, value = best_rival(found, cost)
                if found[rung] < value:
                    below.append(f"{result['name']}, {ratio}x: {rung} {value - found[rung]:.1f} dB below {rival}")
            rival, value = best_rival(found, float("inf"))
            margin = MARGINS.get(float(ratio))
            longest = found[max(RUNGS, key=lambda rung: RUNGS[rung])]
            if margin is not None and longest < value + margin:
                close.append(f"{result['name']}, {ratio}x: {longest - value:+.1f} dB over {rival}")
    return {"below a rival of the same cost or less": below, "less than 3 dB (2x) or 4 dB (3x) over the best": close}


def main(
    names: Annotated[list[str] | None, typer.Argument(help=f"of {'; '.join(DEFAULTS)}; by default all")] = None,
    out: Annotated[Path, typer.Option(help="the folder for the figures")] = Path("benchmarks/results"),
    work: Annotated[Path, typer.Option(help="unfinished measurements")] = Path("out/benchmark-defaults"),
    prompts: Annotated[int, typer.Option(help="held-out prompts")] = 6,
    seed: Annotated[int, typer.Option(help="of the first held-out prompt")] = 1000,
    keep_rivals: Annotated[bool, typer.Option(help="take the rivals from the earlier results")] = False,
) -> None:
    """Measure, and write the figures."""
    torch.set_num_threads(1)
    before = {result["name"]: result["psnr"] for result in earlier(out / "defaults.json")} if keep_rivals else {}
    for name in names or before or DEFAULTS:
        result = {
            **measured(name, prompts, seed, work, before.get(name)),
            "prompts": prompts,
            "seed": seed,
            **environment(),
        }
        print(quality_table([result]), flush=True)
        results = with_earlier(result, out / "defaults.json")
        missed = verdict(results)
        write_figures(
            out, "defaults", {"results": results, "missed": missed}, {"defaults": quality_table(results)}, Console()
        )
    for aim, lines in missed.items():
        print(f"{aim}: {len(lines)}", *lines, sep="\n  ", flush=True)


def earlier(path: Path) -> list[dict[str, Any]]:
    """The results of a file, one for each setting that was measured; none if there is no file."""
    return json.loads(path.read_text(encoding="utf-8"))["results"] if path.exists() else []


def with_earlier(result: Mapping[str, Any], path: Path) -> list[Mapping[str, Any]]:
    """One setting's result, with those of the other settings in a file, in the order of `DEFAULTS`."""
    by_name = {one["name"]: one for one in earlier(path)} | {result["name"]: result}
    return [by_name[name] for name in DEFAULTS if name in by_name]


if __name__ == "__main__":
    typer.run(main)
