"""What policies cost, as a page: the table, quality against cost, prompt by prompt, the worst cases to look at."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from rich.table import Table
from torch import Tensor

from ertacache.evaluation.comparison import Result, Variant, compare
from ertacache.evaluation.evaluate import variants_of
from ertacache.evaluation.measuring import Measured
from ertacache.policy import Policy
from ertacache.report.figures import Series, prompt_by_prompt, quality_against_cost
from ertacache.report.page import Case, Cases, Grid, Page, Plot, Section, write
from ertacache.report.policies import policy_section
from ertacache.tables import evaluation_table

StepErrors = dict[str, list[list[float]]]
"""For each policy's name, one curve a prompt: the relative error of the latent after every step."""


def worst_first(psnr: Sequence[float], count: int) -> list[tuple[int, str]]:
    """Which prompts to show: the worst ones, and where there is room the median and the best.

    >>> worst_first([30.0, 10.0, 20.0, 40.0, 50.0], 4)
    [(1, 'the worst of 5'), (2, '2nd worst of 5'), (0, 'the median of 5'), (4, 'the best of 5')]

    Args:
        psnr: of all prompts, in dB.
        count: how many to show at most.

    Returns:
        Position and a note for each, the worst first.
    """
    order = sorted(range(len(psnr)), key=psnr.__getitem__)
    notes = {k: f"{_ordinal(rank)} of {len(psnr)}" for rank, k in enumerate(order, 1)}
    if len(order) > 1:
        notes[order[-1]] = f"the best of {len(psnr)}"
    if len(order) <= count:
        return list(notes.items())
    if count < 3:
        return [(k, notes[k]) for k in order[:count]]
    chosen = [(k, notes[k]) for k in order[: count - 2]]
    middle = order[max(len(order) // 2, count - 2)]
    return [*chosen, (middle, f"the median of {len(psnr)}"), (order[-1], notes[order[-1]])]


def _ordinal(rank: int) -> str:
    if rank == 1:
        return "the worst"
    ending = {1: "st", 2: "nd", 3: "rd"}.get(rank % 10 if rank % 100 not in (11, 12, 13) else 0, "th")
    return f"{rank}{ending} worst"


class Gallery:
    """Takes in results as `ertacache.evaluation.comparison.compare` hands them out.

    Args:
        full: the name of the full run.
        followed: the names of those whose latents are compared with the full run's, step by step.
        on_generation: told of each.
    """

    def __init__(
        self, full: str, followed: Sequence[str] = (), on_generation: Callable[[int], None] = lambda count: None
    ) -> None:
        self.full, self.followed, self.on_generation = full, followed, on_generation
        self.pictures: list[dict[str, Tensor]] = []
        self.step_errors: StepErrors = {name: [] for name in followed}
        self._reference: list[Tensor] = []

    def take(self, number: int, name: str, result: Result) -> None:
        """One result; the full run's comes first for every prompt."""
        if name == self.full:
            self.pictures.append({})
            self._reference = result.latents
        self.pictures[number][name] = result.pictures[0]
        if name in self.followed and result.latents:
            pairs = zip(result.latents, self._reference, strict=True)
            self.step_errors[name].append([float((a - b).norm() / b.norm()) for a, b in pairs])
        self.on_generation(1)


def worst_cases(
    pipe: Any,
    full: Variant,
    variants: Sequence[Variant],
    calls: Sequence[Mapping[str, Any]],
    psnr: Sequence[float],
    figures: Callable[[int], Mapping[str, str]],
    *,
    show: int,
    followed: Sequence[str] = (),
    fps: int = 8,
    on_generation: Callable[[int], None] = lambda count: None,
) -> tuple[list[Case], StepErrors]:
    """Generate once more what is worst, and some others, to be looked at.

    Args:
        pipe: the pipeline.
        full: the reference.
        variants: the ways to generate.
        calls: all that were measured.
        psnr: by which they are ordered, in dB.
        figures: given a call's position, what is written beside each way's name.
        show: how many calls at most.
        followed: the names of the variants whose errors per step are wanted too.
        fps: of clips, frames a second.
        on_generation: told how many generations were made.
    """
    chosen = worst_first(psnr, show)
    gallery = Gallery(full.name, followed, on_generation)
    if chosen:
        shown = [calls[k] for k, _ in chosen]
        compare(pipe, full, variants, shown, on_result=gallery.take, keep_latents=bool(followed))
    cases = [
        Case(str(calls[k].get("prompt", f"call {k + 1}")), f"prompt {k + 1}, {note}", pictures, figures(k), fps)
        for (k, note), pictures in zip(chosen, gallery.pictures, strict=True)
    ]
    return cases, gallery.step_errors


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
    """Write a page about ways to generate and the full run.

    Args:
        title: of the page.
        lead: what it is.
        rows: what was measured, the full run not among them, the first one to be judged.
        table: the same, as the terminal shows it.
        cases: to look at, the full run's pictures first, under the name "full".
        policies: by name; ``rows`` of these names are theirs.
        step_errors: for each policy's name, one curve a prompt.
        path: the HTML file to write.
    """
    parts: list[str | Grid | Plot | Cases] = [Grid.of(table)]
    if rows:
        parts.append(
            Plot(
                quality_against_cost(rows),
                "Quality against cost of " + ", ".join(row.name for row in rows),
                "Higher is nearer to the full run, further right is faster. Bars are 95 % intervals of the mean over "
                "prompts; single prompts are faint.",
            )
        )
    sections = [Section("Quality and cost", parts)]
    pairs = [(ours, theirs) for ours, theirs in pairwise(rows) if ours.name in policies]
    if pairs and len(rows[0].psnr) > 1:
        plots: list[str | Grid | Plot | Cases] = []
        for ours, theirs in pairs:
            nearer = sum(a > b for a, b in zip(ours.psnr, theirs.psnr, strict=True))
            told = f"{ours.name} is nearer to the full run than {theirs.name} on {nearer} of {len(ours.psnr)} prompts"
            caption = f"{told}: the points above the diagonal. Numbers are those of the prompts where it does worst."
            plots.append(Plot(prompt_by_prompt(ours, theirs), told, caption))
        sections.append(Section("Prompt by prompt", plots))
    if cases:
        sections.append(Section("To look at, the worst first", [Cases(cases, "full", next(iter(policies), "full"))]))
    sections += [
        policy_section(name, policy, {"prompts shown here": step_errors[name]} if step_errors.get(name) else None)
        for name, policy in policies.items()
    ]
    write(Page(title, lead, sections), path)


def report_evaluation(
    pipe: Any,
    policies: Mapping[str, Policy],
    calls: Sequence[Mapping[str, Any]],
    rows: Sequence[Measured],
    path: str | os.PathLike[str],
    *,
    model: str,
    show: int = 6,
    fps: int = 16,
    on_generation: Callable[[int], None] = lambda count: None,
) -> None:
    """Write the page about an evaluation; what it shows is generated once more.

    Args:
        pipe: the pipeline.
        policies: as they were evaluated, by name.
        calls: likewise.
        rows: what `ertacache.evaluation.evaluate.evaluate` measured.
        path: the HTML file to write.
        model: how the page calls the pipeline.
        show: how many prompts to show, the first policy's worst first.
        fps: of clips, frames a second.
        on_generation: told how many generations were made.
    """
    full = Variant("full", next(iter(policies.values())).num_inference_steps)
    cases, step_errors = worst_cases(
        pipe,
        full,
        variants_of(policies),
        calls,
        rows[0].psnr,
        lambda k: {row.name: f"{row.psnr[k]:.1f} dB" for row in rows},
        show=show,
        followed=list(policies),
        fps=fps,
        on_generation=on_generation,
    )
    lead = (
        f"{model}: {len(calls)} prompts with seeds of their own, against the full run of {full.num_inference_steps} "
        "steps. Fewer steps are the null hypothesis: no cache, as many plain steps as the policy computes."
    )
    table = evaluation_table(rows)
    report_comparison("What policies cost", lead, rows, table, cases, policies, step_errors, path)
