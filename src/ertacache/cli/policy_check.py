"""The last thing that ``ertacache calibrate`` does: a short check of the policy, and a verdict in plain words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ertacache.cli.console import console, say
from ertacache.cli.one_line_errors import first_line
from ertacache.cli.prompt_lines import Prompt
from ertacache.errors import ERTACacheError

if TYPE_CHECKING:
    from ertacache.evaluation.check import Check
    from ertacache.policy import Policy

USUAL = 2
"""How many prompts are checked by default."""


def checked_policy(
    pipe: Any, policy: Policy, prompts: Sequence[Prompt], arguments: Mapping[str, Any], *, seed: int, count: int
) -> Policy:
    """Check a new policy against full runs and fewer plain steps, and print what that shows.

    Prompts that calibration did not use are taken first; if there are too few, all are of its own.

    Args:
        pipe: the pipeline that it was calibrated on.
        policy: the policy.
        prompts: all that there are, those of calibration first.
        arguments: of every call.
        seed: of the first prompt; each further prompt adds 1.
        count: how many prompts to check on, 1 or more.

    Returns:
        The policy, with the result as a note; unchanged if its pictures could not be compared.
    """
    from ertacache.evaluation.check import check, full_runs_of
    from ertacache.evaluation.comparison import calls_of

    used = policy.calibration.num_prompts
    held_out = len(prompts) >= used + count
    first = used if held_out else 0
    calls = calls_of(arguments, prompts[first : first + count], seed + first)
    price, several = full_runs_of(policy, len(calls)), "s" * (len(calls) != 1)
    say(f"checking it costs {price:.3g} full runs more, on {len(calls)} prompt{several} (--check 0 leaves that out)")
    try:
        with console.status("checking"):
            found = check(pipe, policy, calls, held_out=held_out)
    except ERTACacheError as error:
        say(f"the policy could not be checked: {first_line(error)}")
        return policy
    for line in verdict(found):
        say(line)
    record = policy.calibration
    return replace(policy, calibration=replace(record, notes=(*record.notes, *verdict(found))))


def verdict(found: Check) -> list[str]:
    """What a check means, in one line; and a second one if plain steps are as good."""
    if found.is_worth_it:
        return [str(found)]
    warning = (
        f"no nearer to the full run than {found.computed} plain steps, which cost as much: use those "
        f"(num_inference_steps={found.plain_steps}), compute more steps (a smaller --speedup), or calibrate longer "
        "(--full-runs)"
    )
    return [str(found), f"warning: {warning}"]


def unchecked(policy: Policy) -> str:
    """Why a policy was not checked, and what checking it would cost."""
    from ertacache.evaluation.check import full_runs_of

    price = full_runs_of(policy, USUAL)
    return (
        f"not compared with fewer plain steps, since --full-runs limits the cost; --check {USUAL} does it for "
        f"{price:.3g} full runs beside that limit"
    )
