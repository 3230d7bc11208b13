"""Measure ours by full runs, and rivals at all their settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.keys import key_of, source_digest
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
RIVALS_CODE = Path(__file__).parents[1] / "rivals"
COUNTS = ("num_computed_steps", "num_inference_steps", "k", "count")
"""What rivals call the number of steps that they compute."""
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


def our_ways(
    embedded: zoo.Embedded, model: str, work: Path, speedups: Sequence[float] = SPEEDUPS
) -> dict[str, Variant]:
    """By step ratio and full runs: ``2 10`` and the like; and fewer steps."""
    steps, ways = int(embedded.arguments["num_inference_steps"]), {}
    for speedup in speedups:
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


def measured_ours(
    model: str, prompts: int, seed: int, work: Path, speedups: Sequence[float] = SPEEDUPS
) -> dict[str, Any]:
    """PSNR of ours and of fewer steps: by name, a list over prompts; and what each calibration cost."""
    embedded = zoo.load(model)
    folder = work / model / key_of(embedded, source_digest(RIVALS_CODE), seed, "ours")
    ways = our_ways(embedded, model, folder, speedups)
    kept = folder / "-".join(["measured", *(f"{speedup:g}x" for speedup in speedups)])
    rows = _measured(embedded, list(ways.values()), prompts, seed, kept)
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
    code = source_digest(RIVALS_CODE)  # of this library only the pipelines and metrics matter
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

    Step ratios that were not measured anew are those of the earlier results.

    Raises:
        RuntimeError: if fewer steps differ, so that the pipeline, prompts or machine are others.
    """
    found: dict[str, dict[str, Any]] = {}
    for ratio, row in before["psnr"].items():
        if f"{ratio} {FEWER}" not in ours["psnr"]:
            found[ratio] = row
            continue
        own = {name: ours["psnr"][f"{ratio} {name}"] for name in (FEWER, *map(str, (0, 1, *TOTALS)))}
        check_same(before["model"], own[FEWER], row[FEWER])
        found[ratio] = {**row, **own}
    return {
        "model": before["model"],
        "psnr": found,
        "full_runs": before["full_runs"] | ours["full_runs"],
        "prompts_used": before["prompts_used"] | ours["prompts_used"],
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
