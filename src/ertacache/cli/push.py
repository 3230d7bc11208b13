"""``ertacache push``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ertacache.cli import options
from ertacache.cli.console import say


def push(
    policy: options.PolicyName,
    repo: Annotated[str, typer.Argument(help="The Hugging Face Hub repository, you/name; created if it is missing.")],
    evaluation: Annotated[
        Path | None, typer.Option(help="The JSON that `ertacache evaluate` wrote about this policy; the card shows it.")
    ] = None,
    base_model: Annotated[str | None, typer.Option(help="The Hub id of the model that the policy is for.")] = None,
    private: Annotated[bool, typer.Option("--private", help="If the repository is created, make it private.")] = False,
    revision: Annotated[str | None, typer.Option(help="The branch to commit to; created if it is missing.")] = None,
) -> None:
    """Share a policy on the Hugging Face Hub, with a card that shows what it costs."""
    from ertacache.sharing import pretrained
    from ertacache.sharing import push as push_policy

    loaded = pretrained(policy)
    address = push_policy(
        loaded, repo, evaluation=evaluation, base_model=base_model, private=private or None, revision=revision
    )
    say(f"pushed to {address}", soft_wrap=True)
