"""What a policy loses in a setting that it was not calibrated in, against one that was: docs/records/transfer.md.

    python -m benchmarks.transfer flux wan

A policy calibrated in the pipeline's own setting is used with other numbers of steps, noise schedules, sizes and
guidance, and with an adapter. Beside it stand a policy calibrated in that setting, on the same prompts and for the same
step ratio, and fewer steps. Each is compared with the full run in that setting, on held-out prompts. Finished settings
are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import torch
import typer
from peft import LoraConfig
from rich.console import Console

from benchmarks.keys import environment, key_of
from benchmarks.markdown import table, with_interval, write_figures
from ertacache import Policy, calibrate, transferred, zoo
from ertacache.evaluation.comparison import Result, Variant, calls_of, compare, fewer_steps
from ertacache.files import kept
from ertacache.runtime.grid_transfer import on_grid, refusal
from ertacache.runtime.policy_checks import grid_difference
from ertacache.runtime.policy_for_call import at_near_guidance

SPEEDUPS = (2.0, 3.0)
ADAPTER_SIZE = 0.1
"""The norm of an adapter's change of a weight matrix, over the matrix's."""


def _as_given(policy: Policy) -> Policy:
    return policy


def _unchecked(policy: Policy) -> Policy:
    return replace(policy, origin=None)


def _nothing(pipe: Any) -> None:
    return None


@dataclass(frozen=True)
class Setting:
    """A setting to use a policy in.

    Args:
        name: how the table calls it.
        arguments: of the call, where they are not the pipeline's own.
        prepare: what changes the pipeline.
        admit: what a policy of the pipeline's own setting needs to be taken here, where the noise levels are the same.
        done: what a call does with such a policy then, unless it transfers it.
    """

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    prepare: Callable[[Any], None] = _nothing
    admit: Callable[[Policy], Policy] = _as_given
    done: str = "followed"


def guided(name: str, scale: float) -> Setting:
    """Other guidance."""
    changed: dict[str, Any] = {name: scale}
    return Setting(
        f"guidance {scale:g}",
        changed,
        admit=lambda policy: transferred(policy, **changed),
        done="refused, unless by `transferred`",
    )


def add_adapter(pipe: Any) -> None:
    """A LoRA of random directions on the attention of the denoiser."""
    model, generator = pipe.transformer, torch.Generator().manual_seed(0)
    model.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=["to_q", "to_k", "to_v"]))
    for layer in model.modules():
        if not hasattr(layer, "lora_A"):
            continue
        down, up = (part["default"].weight.data for part in (layer.lora_A, layer.lora_B))
        for matrix in (down, up):
            matrix.copy_(torch.randn(matrix.shape, generator=generator))
        up.mul_(ADAPTER_SIZE * layer.base_layer.weight.data.norm() / (up @ down).norm())


def shift_by(shift: float) -> Callable[[Any], None]:
    """The scheduler with another shift."""

    def change(pipe: Any) -> None:
        name = "flow_shift" if "flow_shift" in pipe.scheduler.config else "shift"
        pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, **{name: shift})

    return change


def settings_of(model: str) -> list[Setting]:
    """For one embedded pipeline, its own setting first."""
    size = {"flux": (128, 64), "wan": (64, 32)}[model]
    found = [Setting("its own"), *(Setting(f"{steps} steps", {"num_inference_steps": steps}) for steps in (20, 50))]
    found += [Setting("shift 2", prepare=shift_by(2.0)), Setting("shift 5", prepare=shift_by(5.0))]
    found += [Setting(f"{s} x {s} pixels", {"height": s, "width": s}) for s in size]
    found += [Setting(f"{frames} frames", {"num_frames": frames}) for frames in ((9, 25) if model == "wan" else ())]
    found += [
        guided({"flux": "true_cfg_scale", "wan": "guidance_scale"}[model], scale) for scale in (2.0, 3.0, 5.0, 7.0)
    ]
    return [*found, Setting("a LoRA", prepare=add_adapter, admit=_unchecked, done="refused")]


def policy_in(model: str, setting: Setting, speedup: float, num_prompts: int, work: Path, quick: bool) -> Policy:
    """Calibrated in a setting, or found calibrated."""
    path = work / f"{setting.name.replace(' ', '-')}-{speedup:g}x.safetensors"
    if not path.exists():
        embedded, arguments = _opened(model, setting, quick)
        calibrate(
            embedded.pipe,
            embedded.calibration_prompts[:num_prompts],
            speedup=speedup,
            full_runs=5 * num_prompts,
            checkpoint=work / "full-runs",
            progress=False,
            **arguments,
        ).save(path)
    return Policy.load(path)


def _opened(model: str, setting: Setting, quick: bool) -> tuple[zoo.Embedded, dict[str, Any]]:
    embedded = zoo.load(model)
    setting.prepare(embedded.pipe)
    arguments = embedded.arguments | dict(setting.arguments)
    if quick:
        arguments["num_inference_steps"] = arguments["num_inference_steps"] * 2 // 5
    return embedded, arguments


def measured(
    model: str, setting: Setting, speedup: float, num_prompts: int, held_out: int, seed: int, work: Path, quick: bool
) -> dict[str, Any]:
    """PSNR of both policies and of fewer steps, a list over prompts each."""
    own = policy_in(model, settings_of(model)[0], speedup, num_prompts, work, quick)
    calibrated = policy_in(model, setting, speedup, num_prompts, work, quick)
    assert calibrated.origin is not None  # calibrate() always says where a policy comes from
    levels = calibrated.origin.noise_levels
    embedded, arguments = _opened(model, setting, quick)
    if grid_difference(own, levels):
        transfer = on_grid(own, embedded.pipe.scheduler, levels)
        brought, reason = transfer.policy, refusal(own, levels) or transfer.refusal
        done = f"refused: {reason}" if reason else "transferred"
    else:
        unasked = at_near_guidance(own, calibrated.origin.guidance) is not None
        brought, done = setting.admit(own), "transferred" if unasked else setting.done
    steps = arguments["num_inference_steps"]
    variants = [Variant("calibrated", steps, calibrated), Variant("transferred", steps, brought)]
    variants.append(fewer_steps(len(calibrated.computed_steps)))
    notes: list[str] = []
    _, *rows = compare(
        embedded.pipe,
        Variant("full", steps),
        variants,
        calls_of(arguments, embedded.held_out_prompts[:held_out], seed),
        on_result=lambda number, name, result: notes.extend(_new_notes(result, notes)),
    )
    return {
        "setting": setting.name,
        "done": done,
        "speedup": speedup,
        "steps": steps,
        "computed_steps": {row.name: row.computed_steps for row in rows},
        "psnr": {row.name: row.psnr for row in rows},
        "calibration_notes": calibrated.calibration.notes,
        "notes": notes,
    }


def _new_notes(result: Result, known: Sequence[str]) -> list[str]:
    return [note for note in result.report.notes if note not in known] if result.report else []


def markdown_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table of docs/records/transfer.md, a row for each setting and step ratio."""
    lines = [
        ["used at", "computed", "fewer steps", "calibrated there", "transferred", "lost, dB (95 % interval)", "a call"]
    ]
    for row in rows:
        psnr, computed = row["psnr"], row["computed_steps"]
        lost = [a - b for a, b in zip(psnr["calibrated"], psnr["transferred"], strict=True)]
        counted = f"{computed['transferred']} of {row['steps']}"
        if computed["transferred"] != computed["calibrated"]:
            counted += f" ({computed['calibrated']} where calibrated there)"
        means = [f"{fmean(psnr[name]):.1f} dB" for name in ("fewer steps", "calibrated", "transferred")]
        lines.append([row["setting"], counted, *means, with_interval(lost), row["done"]])
    return table(lines)


def main(
    models: Annotated[list[str] | None, typer.Argument(help="of flux, wan; by default both")] = None,
    out: Annotated[Path, typer.Option(help="the folder for the figures, as JSON")] = Path("benchmarks/results"),
    work: Annotated[Path, typer.Option(help="policies and unfinished measurements")] = Path("out/benchmark-transfer"),
    prompts: Annotated[int, typer.Option(help="held-out prompts")] = 8,
    calibration_prompts: Annotated[int, typer.Option(help="calibration prompts")] = 12,
    speedup: Annotated[list[float] | None, typer.Option(help="a step ratio; by default 2 and 3")] = None,
    only: Annotated[list[str] | None, typer.Option(help="a setting, by its name in the table")] = None,
    seed: Annotated[int, typer.Option(help="of the first held-out prompt")] = 1000,
    quick: Annotated[bool, typer.Option("--quick", help="two prompts, 12 steps for 30: a check, no figures")] = False,
) -> None:
    """Calibrate, measure, write as JSON and as Markdown, for one pipeline after the other."""
    console = Console()
    if quick:
        prompts, calibration_prompts = 2, 2
    for model in models or ["flux", "wan"]:
        embedded = zoo.load(model)
        folder = work / model / key_of(embedded, seed, prompts, calibration_prompts, quick)
        folder.mkdir(parents=True, exist_ok=True)
        rows = []
        for setting in settings_of(model):
            if only and setting.name not in only:
                continue
            for ratio in speedup or SPEEDUPS:
                path = folder / f"{setting.name.replace(' ', '-')}-{ratio:g}x.json"
                measure = partial(measured, model, setting, ratio, calibration_prompts, prompts, seed, folder, quick)
                rows.append(kept(path, measure))
                psnr = {name: f"{fmean(values):.2f}" for name, values in rows[-1]["psnr"].items()}
                console.print(model, setting.name, f"{ratio:g}x", psnr, highlight=False)
        result = {
            **environment(),
            "model": model,
            "arguments": embedded.arguments,
            "prompts": prompts,
            "calibration_prompts": calibration_prompts,
            "seed": seed,
            "rows": rows,
        }
        name = f"transfer-{model}"
        write_figures(out, name, result, {name: markdown_of(rows)}, console)


if __name__ == "__main__":
    typer.run(main)
