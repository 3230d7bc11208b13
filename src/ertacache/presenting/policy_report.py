"""The page about a policy, and the section about one in other pages: facts, schedule, errors, factors."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from ertacache.policy import Policy
from ertacache.presenting.page import Grid, Page, Plot, Section, write
from ertacache.presenting.policy_plots import policy_figure
from ertacache.presenting.tables import policy_facts, policy_steps


def policy_section(
    name: str, policy: Policy, measured: Mapping[str, Sequence[Sequence[float]]] | None = None
) -> Section:
    """The section of a page about one policy.

    Args:
        name: the policy's name in the page.
        policy: the policy.
        measured: for each label, one curve per prompt: the relative error of the latent after every step.
    """
    curves = {**measured} if measured else {}
    if policy.calibration.step_errors:
        curves["calibration prompts, together"] = [policy.calibration.step_errors]
    computed = ", ".join(map(str, policy.computed_steps))
    plot = Plot(
        policy_figure(policy, curves),
        f"Schedule of {name}: steps {computed} are computed. Above it the error of the latent after every step.",
        "Lines are medians over prompts, bands the range between the quartiles. Vertical lines are computed steps.",
    )
    return Section(f"The policy {name}", [Grid.of(policy_facts(policy)), plot, Grid.of(policy_steps(policy))])


def report_policy(policy: Policy, name: str, path: str | os.PathLike[str]) -> None:
    """Write a page about one policy, as ``ertacache inspect --report`` does.

    Args:
        policy: the policy.
        name: the policy's name in the page.
        path: the HTML file to write.

    Raises:
        OutputError: if it cannot be written.
    """
    lead = (
        f"{len(policy.computed_steps)} of {policy.num_made_steps} steps run the denoiser, with the method "
        f"{policy.method.name}. Errors are those measured in calibration."
    )
    write(Page(f"Policy {name}", lead, [policy_section(name, policy)]), path)
