"""What an evaluation records of its inputs, beside the prompts and the arguments of all calls."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ertacache.cli.input_image import source_of
from ertacache.cli.loras import Lora
from ertacache.cli.prompt_lines import Prompt


def inputs_of(picture: Any, loras: Sequence[Lora], lines: Sequence[Prompt]) -> dict[str, Any]:
    """The pictures and LoRAs, as JSON takes them, so that a later reader knows what was judged.

    Args:
        picture: that of ``--image``, or None.
        loras: those of ``--lora``.
        lines: the prompts.

    Returns:
        ``image``: the picture's file name and a digest of the file, or None; ``loras``: of each where it was, its
        scale, and a digest if it was a file; ``own_arguments``: for each prompt what it alone was given, pictures
        likewise, or an empty list if none was given anything.
    """
    own = [_own(line) for line in lines]
    return {
        "image": None if picture is None else source_of(picture),
        "loras": [{"place": lora.place, "scale": lora.scale, **_digest(lora)} for lora in loras],
        "own_arguments": own if any(own) else [],
    }


def _own(line: Prompt) -> dict[str, Any]:
    given = {} if isinstance(line, str) else dict(line)
    given.pop("prompt", None)
    return {**given, "image": source_of(given["image"])} if "image" in given else given


def _digest(lora: Lora) -> Mapping[str, str]:
    path = Path(lora.place)
    if not path.is_file():
        return {}
    with path.open("rb") as file:
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest()}
