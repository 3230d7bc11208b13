"""The prompts of ``--prompts``: texts, or JSON lines that give each prompt a picture or other arguments of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ertacache.cli.call_arguments import RESERVED
from ertacache.cli.input_image import read_image
from ertacache.cli.prompts_file import read_prompts
from ertacache.errors import ArgumentError

Prompt = str | Mapping[str, Any]
"""A text, or the arguments of its call: ``prompt``, and others such as ``image``."""
_OF_ALL = {"seed", "num_inference_steps", *RESERVED} - {"prompt"}
"""Arguments that no single prompt can have."""


def read_lines(file: Path | None, model: str) -> list[Prompt]:
    """Read prompts, one per line; in a file whose name ends in ``.jsonl``, each line is a JSON object.

    An object has a ``prompt``, and may have further arguments of the call, but for those that the command gives. Its
    ``image`` is the path of a picture, relative to the file.

    Args:
        file: the file, if one is given.
        model: the model of the command.

    Raises:
        ArgumentError: as `ertacache.cli.prompts_file.read_prompts`; or if a line is no such object or has an argument
            that the command gives, a picture cannot be read, or some lines have a picture and others have none.
        OSError: if a file cannot be read.
    """
    lines = read_prompts(file, model)
    if file is None or file.suffix.lower() != ".jsonl":
        return list(lines)
    found = [_parsed(line, number, file) for number, line in enumerate(lines, 1)]
    if len({"image" in call for call in found}) > 1:
        raise ArgumentError(
            "some prompts have a picture, and others have none", given=file, cure="Give each one, or none."
        )
    return list(found)


def texts_of(lines: Sequence[Prompt]) -> list[str]:
    """The texts alone."""
    return [line if isinstance(line, str) else line["prompt"] for line in lines]


def first_image(lines: Sequence[Prompt]) -> Any:
    """The picture of the first prompt, or None if prompts have none."""
    return lines[0].get("image") if lines and isinstance(lines[0], Mapping) else None


def _parsed(line: str, number: int, file: Path) -> dict[str, Any]:
    try:
        call = json.loads(line)
    except (ValueError, RecursionError):
        call = None
    if not isinstance(call, dict) or not isinstance(call.get("prompt"), str):
        raise ArgumentError(
            f"prompt {number} is not a JSON object with a prompt",
            given=file,
            cure='Write each line like {"prompt": "a red star", "image": "star.png"}.',
        )
    taken = [name for name in call if name in _OF_ALL]
    if taken:
        raise ArgumentError(
            f"prompt {number} has {taken[0]!r}, which the command itself gives",
            given=file,
            cure="Leave it out: --steps is for all prompts, and prompt k has the seed --seed + k.",
        )
    if "image" in call:
        if not isinstance(call["image"], str):
            raise ArgumentError(f"the image of prompt {number} is not a path", given=file, cure="Give one picture.")
        call["image"] = read_image(file.parent / call["image"])
    return call
