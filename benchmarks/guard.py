"""Whether the guard tells bad generations from good ones: ROC curves on the small trained pipelines.

    python -m benchmarks.guard flux wan [--prompts 16] [--seed 9000] [--quick]

There are equally many generations of every kind: held-out prompts, prompts unlike those of calibration, other
guidance, noise on the weights, a random LoRA. The signals are the drift of computed steps, which is free, and drafts:
another run of six of thirty steps, and one by the policy of the other budget. A picture is bad if its PSNR against the
full run of the same model and call is more than 5 dB under the median of the calibration prompts (leave-one-out). An
interrupted run resumes.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean, median
from typing import Annotated, Any

import numpy as np
import torch
import typer
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import nn

from benchmarks.keys import environment, key_of
from benchmarks.markdown import table, write_figures
from ertacache import Draft, Policy, accelerated, calibrate, draft, zoo
from ertacache.calibration.announcement import Workload
from ertacache.calibration.full_runs import open_session
from ertacache.calibration.options import CalibrationOptions
from ertacache.evaluation.comparison import Variant, generate, started
from ertacache.files import kept
from ertacache.metrics import psnr
from ertacache.runtime.denoisers import denoisers_of
from ertacache.watching.drift_score import is_outside
from ertacache.watching.guard import Guard

SPEEDUPS = (2.0, 3.0)  # each one's policy also makes drafts of the other's runs
TOLD_BY = ("drift", "draft", "other")
"""The signals: drift; a draft of a fifth of the steps; a draft by the policy of the other budget."""
WORSE = 5.0
"""A picture counts as bad if its PSNR is this many dB under the median of calibration."""
UNLIKE = (
    "",
    "ein großer roter Stern auf grünem Grund",
    "xq zzv plorf 88 kkw",
    "a photograph of a lighthouse in a storm",
    "a red star and a blue circle and a green cross and a yellow ring and a white heart and a black square",
    "большой красный круг в центре",
    "striped striped striped striped on on on",
    "portrait of an old man, oil on canvas",
    "紫色の小さな星",
    "!!! ??? ### @@@",
    "une grande croix bleue à gauche",
    "the",
    "a fox in a birch forest at dawn",
    "asdf qwer zxcv uiop hjkl",
    "one hundred tiny stars of every color, all over a checkered striped dotted background",
    "nothing at all",
)
"""Prompts unlike those of calibration: empty, in other languages, gibberish, too long, about other things."""
SCALES = (2.0, 3.0, 6.0, 9.0)
"""Guidance scales; calibration uses 4."""
NOISES = (0.05, 0.1, 0.2, 0.4)
"""Noise added to every weight matrix, in units of its standard deviation."""
LORAS = (0.1, 0.2, 0.4, 0.8)
"""The norm of the change that a LoRA of rank 4 makes to an attention or feed-forward matrix, over the matrix's."""
RANK = 4

Array = NDArray[np.float64]
Change = Callable[[nn.Module], None]


@dataclass(frozen=True)
class Case:
    """One generation.

    Args:
        kind: of generations.
        detail: what of its kind.
        call: the arguments, with a seed.
        change: what is done to the denoisers, if anything.
    """

    kind: str
    detail: str
    call: Mapping[str, Any]
    change: Change | None = None


def noise(strength: float, seed: int) -> Change:
    """Gaussian noise on every weight matrix."""

    def change(module: nn.Module) -> None:
        generator = torch.Generator().manual_seed(seed)
        for weight in module.parameters():
            if weight.ndim > 1:
                weight.add_(torch.randn(weight.shape, generator=generator) * weight.std() * strength)

    return change


def lora(strength: float, seed: int) -> Change:
    """What a merged LoRA with random factors adds."""

    def change(module: nn.Module) -> None:
        generator = torch.Generator().manual_seed(seed)
        for name, weight in module.named_parameters():
            if weight.ndim == 2 and ("attn" in name or "ff" in name):
                up = torch.randn(weight.shape[0], RANK, generator=generator)
                added = up @ torch.randn(RANK, weight.shape[1], generator=generator)
                weight.add_(added * (strength * weight.norm() / added.norm()))

    return change


@contextmanager
def changed(pipe: Any, change: Change | None) -> Iterator[None]:
    """The pipeline with its denoisers changed, and as it was afterwards."""
    if change is None:
        yield
        return
    modules = list(denoisers_of(pipe).values())
    own = [copy.deepcopy(module.state_dict()) for module in modules]
    try:
        for module in modules:
            change(module)
        yield
    finally:
        for module, weights in zip(modules, own, strict=True):
            module.load_state_dict(weights)


def cases_of(embedded: zoo.Embedded, each: int, seed: int) -> list[Case]:
    """All generations, ``each`` of every kind; no prompt or seed is calibration's."""
    common, prompts = embedded.arguments, embedded.held_out_prompts
    guidance = next(name for name in ("true_cfg_scale", "guidance_scale") if name in common)
    cases: list[Case] = []

    def add(kind: str, detail: str, prompt: str, change: Change | None = None, scale: float | None = None) -> None:
        more: dict[str, Any] = {} if scale is None else {guidance: scale}
        call = {**common, **more, "prompt": prompt, "seed": seed + len(cases), "output_type": "pt"}
        cases.append(Case(kind, detail, call, change))

    for k in range(each):
        add("held out", "", prompts[k])
    for k in range(each):
        add("unlike", UNLIKE[k % len(UNLIKE)], UNLIKE[k % len(UNLIKE)])
    for k in range(each):
        scale = SCALES[k % len(SCALES)]
        add("guidance", f"{scale:g}", prompts[each + k], scale=scale)
    for k in range(each):
        strength = NOISES[k % len(NOISES)]
        add("noise", f"{strength:g}", prompts[k], noise(strength, k))
    for k in range(each):
        strength = LORAS[k % len(LORAS)]
        add("LoRA", f"{strength:g}", prompts[each + k], lora(strength, k))
    return cases


def calibrated(embedded: zoo.Embedded, speedup: float, prompts: Sequence[str], folder: Path) -> tuple[Policy, float]:
    """A policy, and the median PSNR of its calibration's prompts, each by weights that were fitted without it."""
    path = folder / f"{speedup:g}x.safetensors"
    if not path.exists():
        calibrate(
            embedded.pipe,
            prompts,
            speedup=speedup,
            full_runs=5 * len(prompts),
            checkpoint=folder / "full-runs",
            **embedded.arguments,
        ).save(path)
    policy = Policy.load(path)

    def judged() -> list[float]:
        call = dict(embedded.arguments)
        options = CalibrationOptions(
            call.pop("num_inference_steps"), progress=True, checkpoint=folder / "full-runs", call_arguments=call
        )
        with open_session(embedded.pipe, prompts, options, Workload(full_runs=2)) as session:
            session.loops.judge_pictures()
            fit = session.loops.judged(policy.cached_steps, policy.method)
        assert fit.quality is not None  # there is a judge
        return list(fit.quality.psnr)

    return policy, median(kept(folder / f"{speedup:g}x.json", judged))


def drafts_of(
    embedded: zoo.Embedded, policies: Mapping[float, Policy], prompts: Sequence[str], folder: Path
) -> dict[float, dict[str, Draft]]:
    """What each policy's runs are compared with: one policy of a fifth of the steps for all, and each other's."""
    found: dict[float, dict[str, Draft]] = {}
    common = {name: value for name, value in embedded.arguments.items() if name != "num_inference_steps"}
    shortest: Policy | None = None
    for (speedup, policy), other in zip(policies.items(), reversed([*policies.values()]), strict=True):
        found[speedup] = {}
        for name, by in (("draft", shortest), ("other", other)):
            path = folder / f"{name}-{speedup:g}x.safetensors"
            if not path.exists():
                draft(embedded.pipe, policy, prompts, by=by, checkpoint=folder / "full-runs", **common).save(path)
            found[speedup][name] = Draft.load(path)
        shortest = found[speedup]["draft"].policy
    return found


def generation(
    pipe: Any, case: Case, policies: Mapping[float, Policy], drafts: Mapping[float, Mapping[str, Draft]]
) -> dict[str, Any]:
    """One case in full and by each policy: PSNR, scores, and where the guard acts, what computing the rest gives."""
    found: dict[str, Any] = {"kind": case.kind, "detail": case.detail}
    steps = case.call["num_inference_steps"]
    with changed(pipe, case.change):
        full = generate(pipe, Variant("full", steps), started(case.call)).pictures
        for speedup, policy in policies.items():
            unbound = replace(policy, origin=None)  # another model and other guidance would be refused
            watched = Variant("report", steps, policy=unbound, guard="report")
            row: dict[str, Any] = {}
            for name, own in drafts[speedup].items():
                own = replace(own, policy=replace(own.policy, origin=None), of=unbound.fingerprint)
                result = generate(pipe, replace(watched, draft=own), started(case.call))
                assert result.report is not None  # there is a policy
                told = result.report.draft
                assert told is not None  # there is a draft
                row[name] = {"score": told.scores[0], "left": told.left[0], "distance": told.distances[0]}
            guard = result.report.guard if result.report else None
            assert guard is not None  # there is one
            row |= {"psnr": psnr(result.pictures, full), "drift": {"score": guard.scores[0], "left": guard.left[0]}}
            row["drifts"] = {str(step): drift for step, drift in guard.drifts[0].items()}
            row["acted_on"] = acted_on(policy, guard.drifts[0])
            if row["acted_on"]:
                mended = generate(pipe, replace(watched, guard="compute"), started(case.call))
                assert mended.report is not None  # as above
                row |= {"mended": psnr(mended.pictures, full), "computed": len(mended.report.computed_steps)}
            found[f"{speedup:g}"] = row
    return found


def acted_on(policy: Policy, drifts: Mapping[int, float]) -> bool:
    """Whether ``guard="compute"`` would have computed a step: the sample was outside before its last drift."""
    envelope, steps = policy.envelope, sorted(drifts)
    assert envelope is not None  # there are prompts enough
    last = max(policy.cached_steps)  # after a drift, the next one must have come before a step that is left to act on
    some = ({step: drifts[step] for step in steps[: n + 1]} for n in range(len(steps) - 1) if steps[n + 1] < last)
    return any(is_outside(envelope, own) for own in some)


def recording_share(embedded: zoo.Embedded, policy: Policy, prompt: str) -> float:
    """The processor's time for the guard of one generation, over that of a full run."""
    call = {**embedded.arguments, "prompt": prompt, "seed": 1, "output_type": "pt"}
    spent = 0.0

    def timed(self: Guard, *seen: Any) -> None:
        nonlocal spent
        start = time.thread_time()
        own(self, *seen)
        spent += time.thread_time() - start

    own, Guard.computed = Guard.computed, timed  # type: ignore[method-assign, assignment]
    try:
        with accelerated(embedded.pipe, policy, guard="report"):
            embedded.pipe(**started(call))
            spent = 0.0  # the first call was a warm-up
            embedded.pipe(**started(call))
    finally:
        Guard.computed = own  # type: ignore[method-assign]
    start = time.process_time()
    embedded.pipe(**started(call))
    return spent / (time.process_time() - start)


def roc(scores: Array, bad: NDArray[np.bool_]) -> tuple[Array, Array, float]:
    """False and true positive rates of all limits, and the area: how often a bad one scores over a good one."""
    limits = np.concatenate([[np.inf], np.sort(np.unique(scores))[::-1]])
    false = np.array([(scores[~bad] >= limit).mean() for limit in limits])
    true = np.array([(scores[bad] >= limit).mean() for limit in limits])
    pairs = scores[bad][:, None] - scores[~bad][None]
    return false, true, float((pairs > 0).mean() + (pairs == 0).mean() / 2)


def area_interval(scores: Array, bad: NDArray[np.bool_], repeats: int = 2000) -> tuple[float, float]:
    """The 95 % interval of the area over generations, by drawing them anew."""
    generator, areas = np.random.default_rng(0), []
    for _ in range(repeats):
        drawn = generator.integers(len(bad), size=len(bad))
        if 0 < bad[drawn].sum() < len(bad):
            areas.append(roc(scores[drawn], bad[drawn])[2])
    low, high = np.quantile(areas, [0.025, 0.975])
    return float(low), float(high)


def told(own: Sequence[Mapping[str, Any]], by: str) -> tuple[Array, NDArray[np.bool_]]:
    """The scores of generations of one budget, and which of them are flagged."""
    return np.array([row[by]["score"] for row in own]), np.array([row[by]["left"] for row in own])


def summary(rows: Sequence[Mapping[str, Any]], speedup: float, usual: float) -> dict[str, Any]:
    """The figures of one budget, over all kinds and for each."""
    own = [row[f"{speedup:g}"] for row in rows]
    kinds = np.array([row["kind"] for row in rows])
    bad = np.array([r["psnr"] for r in own]) < usual - WORSE
    acted = np.array([r["acted_on"] for r in own])
    found: dict[str, Any] = {"median_psnr": usual}
    for name in ("all", *dict.fromkeys(kinds.tolist())):
        here = kinds == name if name != "all" else np.ones(len(rows), bool)
        found[name] = {
            "generations": int(here.sum()),
            "bad": int(bad[here].sum()),
            "acted_on_of_bad": int((acted & bad & here).sum()),
            "acted_on_of_good": int((acted & ~bad & here).sum()),
        }
        for told_by in TOLD_BY:
            scores, flagged = told(own, told_by)
            mixed = 0 < bad[here].sum() < here.sum()
            found[name][told_by] = {
                "area": roc(scores[here], bad[here])[2] if mixed else None,
                "flagged_of_bad": int((flagged & bad & here).sum()),
                "flagged_of_good": int((flagged & ~bad & here).sum()),
            }
            if name == "all" and mixed:
                found[name][told_by]["area_interval"] = area_interval(scores, bad)
    mended = [r for r in own if r["acted_on"]]
    if mended:
        found["acted_on"] = {name: fmean(r[name] for r in mended) for name in ("psnr", "mended", "computed")}
    return found


def markdown_of(figures: Mapping[str, Any], kinds: Sequence[str], drafts: Mapping[str, Draft]) -> str:
    """The figures of one budget for the docs."""
    heads = ("ROC area", "flagged of bad", "of good")
    names = names_of(drafts)
    lines = [["", "bad", *(f"{names[told_by]}: {head}" for told_by in TOLD_BY for head in heads)]]
    for name in kinds:
        row = figures[name]
        cells = [name, f"{row['bad']} of {row['generations']}"]
        for told_by in TOLD_BY:
            own = row[told_by]
            area = "–" if own["area"] is None else f"{own['area']:.2f}"
            if "area_interval" in own:
                low, high = own["area_interval"]
                area = f"**{own['area']:.3f}** ({low:.2f} to {high:.2f})"
            good = row["generations"] - row["bad"]
            cells += [area, f"{own['flagged_of_bad']} of {row['bad']}", f"{own['flagged_of_good']} of {good}"]
        lines.append(cells)
    return table(lines)


def names_of(drafts: Mapping[str, Draft]) -> dict[str, str]:
    """What drifts and these are called in tables and plots."""
    return {"drift": "drift"} | {
        told_by: f"draft of {len(own.policy.computed_steps)} steps" for told_by, own in drafts.items()
    }


def plot(
    rows: Sequence[Mapping[str, Any]],
    usual: Mapping[float, float],
    drafts: Mapping[float, Mapping[str, Draft]],
    path: Path,
    title: str,
) -> None:
    """The curves, and the place of the limit on each."""
    figure = Figure(figsize=(4.6, 4.4), layout="constrained")
    axis = figure.subplots()
    for (speedup, median_psnr), color in zip(usual.items(), ("#1f4e79", "#b5651d"), strict=False):
        own = [row[f"{speedup:g}"] for row in rows]
        bad = np.array([r["psnr"] for r in own]) < median_psnr - WORSE
        if not 0 < bad.sum() < len(bad):
            continue
        names = names_of(drafts[speedup])
        for told_by, (style, filled) in _STYLES.items():
            scores, flagged = told(own, told_by)
            false, true, area = roc(scores, bad)
            label = f"{speedup:g}x, {names[told_by]}: {area:.2f}"
            axis.step(false, true, where="post", color=color, linestyle=style, label=label)
            axis.plot(flagged[~bad].mean(), flagged[bad].mean(), "o", color=color, fillstyle=filled)
    axis.plot([0, 1], [0, 1], color="#c0c0c0", linewidth=0.8)
    axis.set(xlabel="flagged, of the good", ylabel="flagged, of the bad", title=title, aspect="equal")
    axis.legend(loc="lower right", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


_STYLES: Mapping[str, Any] = {"drift": (":", "none"), "draft": ("-", "full"), "other": ("--", "left")}
"""Of the line, and how the place of the limit is filled."""


def main(
    models: Annotated[list[str] | None, typer.Argument(help=f"of {', '.join(zoo.NAMES)}; flux and wan if none")] = None,
    prompts: Annotated[int, typer.Option(min=1, max=32, help="generations of each kind")] = 12,
    calibration_prompts: Annotated[int, typer.Option(min=4, help="calibration prompts")] = 32,
    seed: Annotated[int, typer.Option(help="of the first generation")] = 1000,
    work: Annotated[Path, typer.Option(help="policies and unfinished measurements")] = Path("out/benchmark-guard"),
    out: Annotated[Path, typer.Option(help="folder for the figures")] = Path("benchmarks/results"),
    images: Annotated[Path, typer.Option(help="folder for the plots")] = Path("docs/images"),
    quick: Annotated[bool, typer.Option("--quick", help="one generation of each kind, ten steps: no figures")] = False,
) -> None:
    """Calibrate, generate, and write the figures as JSON and Markdown and the curves as PNG, model after model."""
    for model in models or ("flux", "wan"):
        one(model, prompts, calibration_prompts, seed, work / model, out, images, quick)


@torch.no_grad()
def one(
    model: str, each: int, num_calibration: int, seed: int, work: Path, out: Path, images: Path, quick: bool
) -> None:
    """The same for one pipeline."""
    console, embedded = Console(), zoo.load(model)
    if quick:
        each, num_calibration = 1, 4
        embedded.arguments["num_inference_steps"] = 10
    folder = work / key_of(embedded, seed, num_calibration)
    folder.mkdir(parents=True, exist_ok=True)
    of_calibration = embedded.calibration_prompts[:num_calibration]
    made = {speedup: calibrated(embedded, speedup, of_calibration, folder) for speedup in SPEEDUPS}
    policies = {speedup: policy for speedup, (policy, _) in made.items()}
    usual = {speedup: middle for speedup, (_, middle) in made.items()}
    drafts = drafts_of(embedded, policies, of_calibration, folder)
    rows = []
    for number, case in enumerate(track(cases_of(embedded, each, seed), "generating", console=console)):
        path = folder / "generations" / f"{each}-{number}.json"
        rows.append(kept(path, partial(generation, embedded.pipe, case, policies, drafts)))
    kinds = ["all", *dict.fromkeys(row["kind"] for row in rows)]
    budgets = {f"{speedup:g}": summary(rows, speedup, usual[speedup]) for speedup in SPEEDUPS}
    result = {
        **environment(),
        "model": model,
        "arguments": embedded.arguments,
        "calibration_prompts": num_calibration,
        "seed": seed,
        "kinds": kinds,
        "budgets": budgets,
        "recording_share_of_a_full_run": recording_share(embedded, policies[SPEEDUPS[0]], of_calibration[0]),
        "drafts": {
            f"{speedup:g}": {told_by: _facts_of(draft) for told_by, draft in own.items()}
            for speedup, own in drafts.items()
        },
        "rows": rows,
    }
    name = f"guard-{model}"
    tables = {
        f"{name}-{budget}x": markdown_of(figures, kinds, drafts[float(budget)]) for budget, figures in budgets.items()
    }
    write_figures(out, name, result, tables, console)
    plot(rows, usual, drafts, images / f"{name}.png", model)
    for budget, text in tables.items():
        console.print(f"{budget}\n{text}", markup=False, soft_wrap=True)
    console.print(f"recording: {result['recording_share_of_a_full_run']:.2%} of a full run's time", highlight=False)
    console.print(f"wrote {images / f'{name}.png'}", highlight=False)


def _facts_of(draft: Draft) -> dict[str, Any]:
    facts = {"mean": draft.mean, "deviation": draft.deviation, "limit": draft.limit, "full_runs": draft.full_runs}
    return {"computed_steps": draft.policy.computed_steps, **facts}


if __name__ == "__main__":
    typer.run(main)
