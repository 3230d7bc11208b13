"""The page about an evaluation: the table, quality against cost, prompt by prompt, the worst cases, each policy."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from rich.table import Table

from ertacache.evaluation.comparison import Variant
from ertacache.evaluation.evaluate import variants_of
from ertacache.evaluation.harness import SOUND, Measured
from ertacache.policy import Policy
from ertacache.presenting.page import Case, Cases, Grid, Page, Plot, Section, write
from ertacache.presenting.policy_report import policy_section
from ertacache.presenting.quality_plots import Series, prompt_by_prompt, quality_against_cost
from ertacache.presenting.tables import evaluation_table
from ertacache.presenting.worst_cases import Selection, worst_cases


def report_comparison(
    title: str,
    lead: str,
    rows: Sequence[Series],
    table: Table,
    cases: Sequence[Case],
    policies: Mapping[str, Policy],
    step_errors: Mapping[str, Sequence[Sequence[float]]],
    path: str | os.PathLike[str],
) -> None:
    """Write a page that compares ways to generate with the full run.

    Args:
        title: the heading of the page.
        lead: what the page shows.
        rows: what was measured, without the full run. A policy's row is compared with the row after it.
        table: the same as a table for the terminal.
        cases: prompts to look at, with the full run's pictures first, under the name "full".
        policies: by the names that they have in ``rows``.
        step_errors: for each policy's name, one curve per prompt: the relative error of the latent after every step.
        path: the HTML file to write.

    Raises:
        OutputError: if it cannot be written.
    """
    sections = [Section("Quality and cost", [Grid.of(table), *_cost_plot(rows)])]
    if plots := _prompt_plots(rows, policies):
        sections.append(Section("Prompt by prompt", plots))
    if cases:
        sections.append(Section("To look at, the worst first", [Cases(cases, "full", next(iter(policies), "full"))]))
    sections += [
        policy_section(name, policy, {"prompts shown here": step_errors[name]} if step_errors.get(name) else None)
        for name, policy in policies.items()
    ]
    write(Page(title, lead, sections), path)


def _cost_plot(rows: Sequence[Series]) -> list[Plot]:
    if not rows:
        return []
    label = "Quality against cost of " + ", ".join(row.name for row in rows)
    caption = (
        "Higher is nearer to the full run, further right is faster. Bars are 95 % intervals of the mean over "
        "prompts; single prompts are faint."
    )
    return [Plot(quality_against_cost(rows), label, caption)]


def _prompt_plots(rows: Sequence[Series], policies: Mapping[str, Policy]) -> list[Plot]:
    """For each policy, its row against the one after it; nothing for a single prompt."""
    plots = []
    for ours, theirs in pairwise(rows):
        if ours.name not in policies or len(rows[0].psnr) < 2:
            continue
        nearer = sum(a > b for a, b in zip(ours.psnr, theirs.psnr, strict=True))
        label = f"{ours.name} is nearer to the full run than {theirs.name} on {nearer} of {len(ours.psnr)} prompts"
        caption = f"{label}: the points above the diagonal. The numbered points are the prompts where it does worst."
        plots.append(Plot(prompt_by_prompt(ours, theirs), label, caption))
    return plots


def _figures(row: Measured, number: int) -> str:
    """One prompt's quality, in words."""
    sound = f", sound {row.more[SOUND][number]:.1f} dB" if SOUND in row.more else ""
    return f"{row.psnr[number]:.1f} dB{sound}"


@dataclass(frozen=True)
class Evaluation:
    """What `ertacache.evaluation.evaluate.evaluate` was given, and what it returned.

    Args:
        model: the pipeline's name in the page.
        policies: by name.
        calls: the calls that were measured.
        rows: what was measured.
    """

    model: str
    policies: Mapping[str, Policy]
    calls: Sequence[Mapping[str, Any]]
    rows: Sequence[Measured]


def report_evaluation(
    pipe: Any,
    evaluation: Evaluation,
    path: str | os.PathLike[str],
    *,
    show: int = 6,
    fps: int = 16,
    on_generation: Callable[[int], None] = lambda count: None,
) -> None:
    """Write the page about an evaluation; the pictures that it shows are generated once more.

    Args:
        pipe: the pipeline.
        evaluation: what was measured.
        path: the HTML file to write.
        show: how many prompts to show, worst first by the first policy's PSNR.
        fps: of clips, frames per second.
        on_generation: called with 1 after each generation.

    Raises:
        OutputError: if the page cannot be written.
    """
    policies, rows = evaluation.policies, evaluation.rows
    full = Variant("full", next(iter(policies.values())).asked_steps)
    selection = Selection(
        rows[0].psnr,
        lambda k: {row.name: _figures(row, k) for row in rows},
        count=show,
        followed=list(policies),
        fps=fps,
    )
    cases, step_errors = worst_cases(
        pipe, full, variants_of(policies), evaluation.calls, selection, on_generation=on_generation
    )
    lead = (
        f"{evaluation.model}: {len(evaluation.calls)} prompts, each with its own seed, against the full run of "
        f"{full.num_inference_steps} steps. The baseline is fewer steps: no cache, as many plain steps as the policy "
        "computes."
    )
    table = evaluation_table(rows)
    report_comparison("What policies cost", lead, rows, table, cases, policies, step_errors, path)
