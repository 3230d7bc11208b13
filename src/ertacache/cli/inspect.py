"""``ertacache inspect``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from ertacache.cli import options
from ertacache.cli.console import console, say
from ertacache.cli.policy_arguments import short_name
from ertacache.errors import ArgumentError
from ertacache.output_paths import checked_output, kept_somewhere


def inspect(
    policy: options.PolicyName,
    plot: Annotated[Path | None, typer.Option(help="Also plot the schedule and the error per step, as PNG.")] = None,
    report: Annotated[Path | None, typer.Option(help="Also write everything as one HTML page.")] = None,
    coefficients: Annotated[
        bool,
        typer.Option(
            "--coefficients",
            help="Also list every step: its noise level, and from which outputs, with which factors, it is predicted.",
        ),
    ] = False,
) -> None:
    """Show what a policy does and what was measured of it; or what a folder of learnt settings knows."""
    if is_learnt(policy):
        if plot or report:
            raise ArgumentError(
                "a folder of learnt settings has no plot and no page",
                given=f"{policy}, and --{'plot' if plot else 'report'}",
                cure="Leave it out; both are for one policy.",
            )
        show_learnt(policy)
        return
    if plot is not None:
        from ertacache.presenting.plot_style import plot_suffixes
        from ertacache.presenting.policy_plots import policy_plot

        checked_output(plot, plot_suffixes(), besides=[policy])
    if report is not None:
        checked_output(report, besides=[policy, plot])
    from ertacache.presenting.tables import policy_facts, policy_steps
    from ertacache.sharing import pretrained

    loaded = pretrained(policy)
    console.print(policy_facts(loaded))
    if coefficients:
        console.print(policy_steps(loaded))
    if plot is not None:
        kept_somewhere(plot, partial(policy_plot, loaded))
        say(f"wrote {plot}")
    if report is not None:
        from ertacache.presenting.policy_report import report_policy

        report_policy(loaded, short_name(policy), report)
        say(f"wrote {report}")


def is_learnt(name: str) -> bool:
    """Whether this is a folder of learnt settings."""
    if not Path(name).is_dir():
        return False
    from ertacache.learning.learnt import LearntFolder

    return bool(LearntFolder(Path(name)).files())


def show_learnt(name: str) -> None:
    """Print what a folder of learnt settings knows.

    Raises:
        ArgumentError: if none of its files can be read.
    """
    from ertacache.learning.learnt import LearntFolder
    from ertacache.presenting.tables import learnt_settings

    known = LearntFolder(Path(name)).all()
    if not known:
        raise ArgumentError(
            "nothing in this folder can be read", given=name, cure="Delete it; it is learnt anew from generations."
        )
    say(learnt_settings(known), soft_wrap=True)
