"""The page about an evaluation: a verdict, pictures in a row, the table, the worst cases, plots, each policy."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ertacache.evaluation.comparison import Variant
from ertacache.evaluation.evaluate import variants_of
from ertacache.evaluation.harness import SOUND, Measured
from ertacache.evaluation.uncalibrated import Judged, followed
from ertacache.policy import Policy
from ertacache.presenting.differences import visible_gain
from ertacache.presenting.page import Case, Cases, Grid, Page, Plot, Section, Sheet, write
from ertacache.presenting.policy_report import policy_section
from ertacache.presenting.quality_plots import prompt_by_prompt, quality_against_cost
from ertacache.presenting.tables import evaluation_table
from ertacache.presenting.verdict import verdict
from ertacache.presenting.ways import Way, baseline_of, page_names, ways_of
from ertacache.presenting.worst_cases import Selection, worst_cases

FULL = "full"
"""The name of the full run in a page."""


@dataclass(frozen=True)
class Comparison:
    """Ways to generate, compared with the full run.

    Args:
        title: the heading of the page.
        lead: what the page shows.
        ways: what was measured, without the full run; at least one. Each policy's own way has the policy's name.
        policies: by name.
        cases: prompts to look at, worst first for `ranking`'s policy, with the full run's pictures first, under the
            name `FULL`.
        step_errors: for each policy's name, one curve per prompt: the relative error of the latent after every step.
    """

    title: str
    lead: str
    ways: Sequence[Way]
    policies: Mapping[str, Policy]
    cases: Sequence[Case]
    step_errors: Mapping[str, Sequence[Sequence[float]]]

    @property
    def own(self) -> list[Way]:
        """The policies' own ways."""
        return [way for way in self.ways if not way.beside]

    @property
    def pairs(self) -> list[tuple[Way, Way]]:
        """Each policy's own way with the plain steps that it is compared with, if there are any."""
        found = [(way, baseline_of(way, self.ways)) for way in self.own]
        return [(way, plain) for way, plain in found if plain is not None]


def ranking(ways: Sequence[Way]) -> Way:
    """The way by whose PSNR prompts are ranked: of the policies, the one that computes the fewest steps."""
    return min((way for way in ways if not way.beside), key=lambda way: way.computed_steps)


def report_comparison(comparison: Comparison, path: str | os.PathLike[str]) -> None:
    """Write a page that compares ways to generate with the full run.

    Args:
        comparison: what to show.
        path: the HTML file to write.

    Raises:
        OutputError: if it cannot be written.
    """
    ways, pictures = comparison.ways, _picture_sections(comparison)
    sections = [
        *pictures[:1],
        Section("Figures", [Grid.of(evaluation_table(ways), stacked=True)]),
        *pictures[1:],
        Section("Quality and cost", [_cost_plot(ways), *_prompt_plots(comparison)]),
    ]
    for name, policy in comparison.policies.items():
        errors = comparison.step_errors.get(name)
        sections.append(policy_section(name, policy, {"prompts shown here": errors} if errors else None))
    sentences = [verdict(way, ways) for way in comparison.own]
    if len(sentences) > 1:
        sentences = [f"{way.name}: {sentence}" for way, sentence in zip(comparison.own, sentences, strict=True)]
    write(Page(comparison.title, comparison.lead, sections, sentences), path)


def _picture_sections(comparison: Comparison) -> list[Section]:
    """The pictures in a row, and the worst cases; nothing without pictures."""
    cases, ways = comparison.cases, comparison.ways
    if not cases:
        return []
    worst = ranking(ways)
    gain = visible_gain([case.pictures for case in cases], FULL)
    plain = [way.name for _, way in comparison.pairs]
    names = list(dict.fromkeys([FULL, *(way.name for way in comparison.own), *plain]))
    steps = {way.name: f"{way.computed_steps} steps, " for way in comparison.own}
    middle = next((case for case in cases if ", the median" in case.note), cases[len(cases) // 2])
    figures = {name: steps.get(name, "") + middle.figures.get(name, "") for name in names[1:]}
    baseline = baseline_of(worst, ways)
    rival = baseline.name if baseline else FULL
    panels = list(dict.fromkeys([FULL, worst.name, rival]))
    count = len(worst.psnr)
    told = f"Of {count} prompts, those on which {worst.name} is farthest from the full run by PSNR, the worst first."
    if count == 1:
        told = "There is one prompt only."
    return [
        Section("At a glance", [Sheet(middle, names, gain, figures)]),
        Section(f"Where {worst.name} is worst", [told, Cases(cases, rival, worst.name, panels, gain)]),
    ]


def _cost_plot(ways: Sequence[Way]) -> Plot:
    label = "Quality against cost of " + ", ".join(way.name for way in ways)
    caption = (
        "Higher is nearer to the full run, further right computes fewer steps; ways of one ratio stand side by side. "
        "Bars are 95 % intervals of the mean over prompts; single prompts are faint."
    )
    return Plot(quality_against_cost(ways), label, caption)


def _prompt_plots(comparison: Comparison) -> list[Plot]:
    """For each policy, its prompts against plain steps; nothing for a single prompt."""
    plots = []
    for ours, theirs in comparison.pairs:
        if len(ours.psnr) < 2:
            continue
        nearer = sum(a > b for a, b in zip(ours.psnr, theirs.psnr, strict=True))
        label = f"{ours.name} is nearer to the full run than {theirs.name} on {nearer} of {len(ours.psnr)} prompts"
        numbered = " The numbered points are the prompts where it does worst." if len(ours.psnr) > 3 else ""
        plots.append(Plot(prompt_by_prompt(ours, theirs), label, f"{label}: the points above the diagonal.{numbered}"))
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
    policies: Mapping[str, Judged]
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
        show: how many prompts to show, worst first by the PSNR of the policy that computes the fewest steps.
        fps: of clips, frames per second.
        on_generation: called with 1 after each generation.

    Raises:
        OutputError: if the page cannot be written.
    """
    policies, rows = evaluation.policies, evaluation.rows
    names, ways = page_names(policies), ways_of(policies, rows)
    shown = {name: followed(judged) for name, judged in policies.items()}
    full = Variant(FULL, next(iter(shown.values())).asked_steps)
    selection = Selection(
        ranking(ways).psnr,
        lambda k: {names[row.name]: _figures(row, k) for row in rows},
        count=show,
        followed=list(policies),
        fps=fps,
    )
    variants = [replace(variant, name=names[variant.name]) for variant in variants_of(policies)]
    cases, step_errors = worst_cases(pipe, full, variants, evaluation.calls, selection, on_generation=on_generation)
    count = len(evaluation.calls)
    lead = (
        f"{evaluation.model}, {count} prompt{'' if count == 1 else 's'}, each with its own seed, against the full run "
        f"of {full.num_inference_steps} steps. Plain steps: as many as the policy computes, without a cache"
    )
    if any(variant.noise_levels for variant in variants):
        lead += "; 'same levels': at the noise levels of the steps that it computes"
    report_comparison(Comparison("What policies cost", f"{lead}.", ways, shown, cases, step_errors), path)
