"""Policies that a command is given: their names in tables, and whether they fit the pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ertacache.errors import ArgumentError

if TYPE_CHECKING:
    from ertacache.policy import Policy


def short_name(policy: str) -> str:
    """The name of a policy in tables: its file without the suffix, its folder, or its repository without the owner."""
    path = Path(policy)
    return path.stem if path.suffix == ".safetensors" or path.is_file() else path.resolve().name


def policy_of(name: str, any_lora: bool) -> Policy:
    """Load a policy, a file or Hub id; ``any_lora`` makes it follow calls with other LoRAs than it was calibrated with.

    Raises:
        PolicyFileError: if the file is not a policy.
    """
    from ertacache.runtime.guidance_transfer import transferred
    from ertacache.sharing import pretrained

    loaded = pretrained(name)
    return transferred(loaded, adapters="any") if any_lora else loaded


def check_uncalibrated(speedup: float | None, learn: Path | None) -> None:
    """Refuse a speedup out of range, and a folder to learn in without one.

    Raises:
        ArgumentError: if there is a folder alone.
        BudgetError: if the speedup is out of range.
    """
    from ertacache.runtime.step_budget import StepBudget

    if learn is not None and speedup is None:
        raise ArgumentError("--learn needs --speedup", given="none", cure="Pass --speedup 2, say.")
    if speedup is not None:
        StepBudget(speedup)


def check_fits(pipe: Any, policy: Policy, **watched: Any) -> None:
    """Raise before the work if the policy is not for this pipeline.

    Args:
        pipe: the pipeline.
        policy: the policy to follow.
        **watched: ``guard`` and ``draft``, as for `ertacache.accelerated`.

    Raises:
        PolicyMismatchError: if it was made for another pipeline.
    """
    from ertacache.accelerate import accelerated

    with accelerated(pipe, policy, **watched):
        pass
