"""Reading the file of ``--prompts``."""

from __future__ import annotations

from pathlib import Path

from ertacache.errors import ArgumentError
from ertacache.untrusted_text import decoded

MAX_BYTES = 1 << 28
"""Size limit of the file."""


def read_prompts(file: Path | None, model: str) -> list[str]:
    """Read prompts, one per line; empty lines are skipped.

    Args:
        file: the text file, if one is given.
        model: the model of the command.

    Returns:
        The prompts. Without a file: an empty list for a small pipeline (``zoo:...``), which has its own.

    Raises:
        ArgumentError: if there are no prompts, or the file is not text.
        OSError: if the file cannot be read.
    """
    if file is None:
        if model.startswith("zoo:"):
            return []
        raise ArgumentError("no prompts are given", given=model, cure="Pass --prompts FILE with one prompt per line.")
    with file.open("rb") as opened:
        content = opened.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:  # a device such as /dev/zero never ends
        raise ArgumentError("the file is too large", given=file, cure="Give a text file with one prompt per line.")
    prompts = [line.strip() for line in decoded(content, str(file)).splitlines() if line.strip()]
    if not prompts:
        raise ArgumentError("the file holds no prompts", given=file, cure="Write one prompt per line.")
    return prompts
