"""The page about a policy, and the section about one in other pages: facts, schedule, errors, factors."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ertacache.policy import Policy
from ertacache.presenting.page import Folded, Grid, Page, Plot, Section, write
from ertacache.presenting.policy_plots import BAND_FROM, policy_figure
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
    curves = dict(measured or {})
    if policy.calibration.step_errors:
        curves["calibration prompts, together"] = [policy.calibration.step_errors]
    computed = ", ".join(map(str, policy.computed_steps))
    plot = Plot(
        policy_figure(policy, curves),
        f"Schedule of {name}: steps {computed} are computed."
        + (" Above it the error of the latent after every step." if curves else ""),
        _reading(curves),
    )
    factors = Folded("Step by step: noise levels, factors, errors", Grid.of(policy_steps(policy)))
    return Section(_title(name, policy), [Grid.of(policy_facts(policy)), plot, factors])


def _title(name: str, policy: Policy) -> str:
    return f"{name}: {len(policy.computed_steps)} of {policy.num_made_steps} steps"


def _reading(curves: Mapping[str, Sequence[Sequence[float]]]) -> str:
    """How to read the plot: only what is drawn in it."""
    most = max((len(lines) for lines in curves.values()), default=0)
    told = []
    if most > 1:
        told.append("Lines over several prompts are medians.")
    if most >= BAND_FROM:
        told.append("Bands are the range between the quartiles.")
    return " ".join([*told, "Vertical lines are computed steps."])


def report_policy(policy: Policy, name: str, path: str | os.PathLike[str]) -> None:
    """Write a page about one policy, as ``ertacache inspect --report`` does.

    Args:
        policy: the policy.
        name: the policy's name in the page.
        path: the HTML file to write.

    Raises:
        OutputError: if it cannot be written.
    """
    computed = f"{len(policy.computed_steps)} of {policy.num_made_steps} steps run the denoiser"
    lead = f"{computed}, with the method {policy.method.name}." + (
        " Errors are those measured in calibration." if policy.calibration.step_errors else ""
    )
    section = replace(policy_section(name, policy), title="Schedule and errors")
    write(Page(_title(name, policy), lead, [section]), path)
