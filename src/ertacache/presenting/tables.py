"""Comparisons, evaluations, profiles and policies as tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from ertacache.policy import Policy
from ertacache.untrusted_text import visible

if TYPE_CHECKING:  # a plain install has no metrics, but can still show a policy
    from ertacache.calibration import Profile
    from ertacache.evaluation.comparison import Row
    from ertacache.learning.learnt import Learnt
    from ertacache.presenting.ways import Way


def comparison_table(rows: Sequence[Row]) -> Table:
    """One row per variant: steps, quality against the full run, speedup; a warning below if the timings scatter.

    Args:
        rows: what `ertacache.evaluation.comparison.compare` returned: the full run first.
    """
    from ertacache.presenting.verdict import timing_note

    steps = rows[0].computed_steps
    note = timing_note((row.name, steps / row.computed_steps, row.speedup) for row in rows[1:])
    title = f"{len(rows[0].psnr)} held-out prompts" if len(rows[0].psnr) > 1 else None
    table = Table(title=title, caption=_literal(note) if note else None)
    table.add_column("")
    for name in ("steps\ncomputed", "step ratio", "PSNR, dB", "SSIM", "speedup,\ndenoising"):
        table.add_column(name, justify="right", no_wrap=True)
    for number, row in enumerate(rows):
        quality = ("", "") if number == 0 else (f"{row.mean_psnr():.1f}", f"{row.mean_ssim():.3f}")
        ratio = f"{steps / row.computed_steps:.2f}x"
        table.add_row(_literal(row.name), str(row.computed_steps), ratio, *quality, f"{row.median_speedup():.2f}x")
    return table


def evaluation_table(ways: Sequence[Way]) -> Table:
    """One row per way to generate: steps, quality, measured speedup; a warning below if the timings scatter.

    The 95 % interval is that of the mean PSNR. Speedups are medians, "speedup" is that of denoising.

    Args:
        ways: what was measured; at least one.
    """
    from ertacache.metrics import interval
    from ertacache.presenting.verdict import timing_note

    note = timing_note((way.name, way.step_ratio, way.speedup) for way in ways)
    count = len(ways[0].psnr)
    title, caption = f"{count} prompt{'' if count == 1 else 's'}", _literal(note) if note else None
    table = Table(title=title, caption=caption, box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("")
    # Broken, so that the table has room for names in 80 columns.
    for name in ("PSNR, dB", "steps", "95\N{NO-BREAK SPACE}%", "SSIM", "step ratio", "speedup", *ways[0].more):
        table.add_column(name.replace(" ", "\n"), justify="right", no_wrap=True)
    for way in ways:
        low, high = interval(way.psnr)
        cells = [
            f"{way.mean_psnr:.1f}",
            str(way.computed_steps),
            f"{low:.1f}-{high:.1f}",
            f"{fmean(way.ssim):.4f}",
            f"{way.step_ratio:.2f}x",
            f"{median(way.speedup):.2f}x",
            *way.more.values(),
        ]
        table.add_row(_literal(way.name), *cells)
    return table


def frontier_table(profile: Profile) -> Table:
    """One row per policy of a profile: steps, seconds on the machine of the calibration, expected quality.

    The 95 % interval is that of the mean PSNR. Quality is leave-one-out: each prompt is measured with weights fitted
    on the others.

    Args:
        profile: the profile.
    """
    from ertacache.metrics import interval

    on_frontier = {len(policy.computed_steps) for policy in profile.frontier()}
    table = Table(title=f"{len(profile.policies[0].calibration.psnr)} calibration prompts, each held out in turn")
    for name in ("steps computed", "step ratio", "seconds a call", "PSNR, dB", "95 %", "SSIM", ""):
        table.add_column(name, justify="right", no_wrap=True)
    for policy in profile.policies:
        record, computed = policy.calibration, len(policy.computed_steps)
        low, high = interval(record.psnr)
        table.add_row(
            f"{computed} of {policy.num_made_steps}",
            f"{policy.step_ratio:.2f}",
            f"{record.seconds:.3g}",
            f"{fmean(record.psnr):.1f}",
            f"{low:.1f}-{high:.1f}",
            f"{fmean(record.ssim):.4f}",
            "" if computed in on_frontier else "a stronger one is better",
        )
    return table


def learnt_settings(known: Mapping[str, Learnt]) -> str:
    """What a folder knows: for each setting, what it was learnt from, and how good its audited policies were.

    Args:
        known: by file name.
    """
    lines = []
    for file, learnt in known.items():
        lines.append(visible(learnt.setting))
        lines.append(f"  {learnt.generations} full generations, {learnt.samples} samples")
        steps = sorted(set(learnt.audited_steps))
        lines += [f"  {computed} steps computed: {learnt.audited(computed)}" for computed in steps]
        lines += [*([] if learnt.audits else ["  no audit yet"]), f"  {visible(file)}"]
    return "\n".join(lines)


def policy_facts(policy: Policy) -> Table:
    """Facts about a policy: its method and steps, what it was made for, what calibration cost and measured."""
    record, origin = policy.calibration, policy.origin
    table = Table(show_header=False, box=None, pad_edge=False)
    facts = {
        "method": policy.method.name,
        "steps": f"{len(policy.computed_steps)} of {policy.num_made_steps} computed, "
        f"step ratio {policy.step_ratio:.2f}",
        "schedule": f"{policy.pattern}  (● computed, ○ predicted from earlier outputs)",
        "budget": record.budget,
    }
    if record.denoiser_calls:  # else it was written by hand, or is instant or learnt
        facts["calibration"] = (
            f"{record.num_prompts} prompts, {record.denoiser_calls} denoiser calls, "
            f"{record.total_full_runs:.1f} full runs in all"
        )
    if record.error is not None:
        facts["error"] = f"{record.error:.4f} of the final latent, on the calibration prompts"
    if record.psnr:
        facts["quality"] = (
            f"PSNR {fmean(record.psnr):.1f} dB, SSIM {fmean(record.ssim):.4f} against the full run, means over "
            "the calibration prompts, each held out of the fit in turn"
        )
    if record.sound:
        facts["sound"] = f"{fmean(record.sound):.1f} dB signal to error, likewise"
    if record.seconds is not None:
        facts["time"] = f"{record.seconds:.3g} s a call, on the machine of the calibration"
    if origin is not None:
        denoisers = ", ".join(f"{name}: {d.model_class}" for name, d in origin.denoisers.items())
        facts["made for"] = f"{origin.pipeline_class} ({denoisers}), {origin.scheduler_class}"
        guidance = ", ".join(f"{name}={value:g}" for name, value in origin.guidance.items())
        facts["guidance"] = f"{guidance or 'none'}; {origin.calls_per_step} denoiser calls a step"
        facts["latent"] = " x ".join(map(str, origin.latent_shape))
    for name, value in [*facts.items(), *(("note", note) for note in record.notes)]:
        table.add_row(f"[bold]{name}[/bold]", _literal(value))
    return table


def policy_steps(policy: Policy) -> Table:
    """One row per step: noise level, computed or cached, the steps it is predicted from, their factors, the error."""
    contrasted = any(p.contrast_factors for p in policy.predictions.values())
    table = Table(
        "step", "noise level", "", "from steps", "factors", *(["contrast factors"] if contrasted else []), "error"
    )
    levels = policy.origin.noise_levels if policy.origin else ()
    cached = set(policy.cached_steps)
    newest = policy.first_step
    for step in range(policy.first_step, policy.num_inference_steps):
        prediction = policy.predictions.get(step)
        history = factors = between = ""
        if step not in cached:
            newest = step
        if prediction is not None:
            history = ", ".join(map(str, prediction.history))
            factors, between = _signed(prediction.factors), _signed(prediction.contrast_factors)
        elif step in cached and policy.method.predictor == "taylor":
            before = [i for i in policy.computed_steps if i < step][::-1][:2]
            history, factors = ", ".join(map(str, before)), "by noise level"
        elif step in cached:
            history, factors = str(newest), _signed((1.0,))
        errors = policy.calibration.step_errors
        table.add_row(
            str(step),
            f"{levels[step]:.4f}" if levels else "",
            "[dim]cached[/dim]" if step in cached else "[bold]computed[/bold]",
            history,
            factors,
            *([between] if contrasted else []),
            f"{errors[step - policy.first_step]:.4f}" if errors else "",
        )
    return table


def _signed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:+.3f}" for value in values)


def _literal(text: str) -> Text:
    """A cell that shows untrusted text literally; a plain string would be parsed as markup."""
    return Text(visible(text))
