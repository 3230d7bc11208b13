"""A policy as part of a report: what it was made for, its schedule, the error per step, its factors."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from ertacache.evaluation.plots import policy_figure
from ertacache.policy import Policy
from ertacache.report.page import Grid, Page, Plot, Section, write
from ertacache.tables import policy_facts, policy_steps


def policy_section(
    name: str, policy: Policy, measured: Mapping[str, Sequence[Sequence[float]]] | None = None
) -> Section:
    """What there is to show about a policy.

    Args:
        name: how the page calls it.
        policy: the policy.
        measured: for each label, one curve a prompt: the relative error of the latent after every step.
    """
    shown = {**measured} if measured else {}
    if policy.calibration.step_errors:
        shown["calibration prompts, together"] = [policy.calibration.step_errors]
    computed = ", ".join(map(str, policy.computed_steps))
    plot = Plot(
        policy_figure(policy, shown),
        f"Schedule of {name}: steps {computed} are computed. Above it the error of the latent after every step.",
        "Lines are medians over prompts, bands the range between the quartiles. Vertical lines are computed steps.",
    )
    return Section(f"The policy {name}", [Grid.of(policy_facts(policy)), plot, Grid.of(policy_steps(policy))])


def report_policy(policy: Policy, name: str, path: str | os.PathLike[str]) -> None:
    """Write a page about a policy alone, as ``ertacache inspect`` does.

    Args:
        policy: the policy.
        name: how the page calls it.
        path: the HTML file to write.
    """
    lead = (
        f"{len(policy.computed_steps)} of {policy.num_made_steps} steps run the denoiser, by the method "
        f"{policy.method.name}. Errors are those that calibration measured."
    )
    write(Page(f"Policy {name}", lead, [policy_section(name, policy)]), path)
