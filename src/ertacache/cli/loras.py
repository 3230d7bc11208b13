"""LoRAs from ``--lora PATH_OR_REPO[:SCALE]``: parsed, and loaded into a pipeline as diffusers does it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from ertacache.cli.one_line_errors import first_line
from ertacache.errors import ArgumentError
from ertacache.memory_errors import full_memory
from ertacache.untrusted_text import typed


@dataclass(frozen=True)
class Lora:
    """A LoRA and its strength.

    Args:
        place: a file of safetensors, a folder that holds one, or a Hub id.
        scale: its strength.
    """

    place: str
    scale: float = 1.0

    @classmethod
    def parsed(cls, text: str) -> Lora:
        """Read ``PATH_OR_REPO[:SCALE]``.

        >>> Lora.parsed("you/style:0.8"), Lora.parsed("style.safetensors")
        (Lora(place='you/style', scale=0.8), Lora(place='style.safetensors', scale=1.0))
        """
        place, colon, scale = typed(text).rpartition(":")
        try:
            found = cls(place, float(scale)) if colon else cls(scale)
        except ValueError:
            found = cls(text)  # the colon is a part of the path
        if not found.place or not isfinite(found.scale):
            raise ArgumentError(
                "--lora takes PATH_OR_REPO or PATH_OR_REPO:SCALE", given=text, cure="Give it like --lora you/style:0.8."
            )
        return found

    @property
    def name(self) -> str:
        """The name of its adapter, which policies record: the same for the same file name, wherever that is."""
        path = Path(self.place)
        return re.sub(r"\W", "_", path.stem if path.suffix == ".safetensors" else path.name) or "lora"


def load_loras(pipe: Any, loras: Sequence[Lora]) -> None:
    """Load LoRAs into a pipeline, and set their strengths.

    Args:
        pipe: a pipeline of diffusers.
        loras: which, of different names.

    Raises:
        ArgumentError: if the pipeline takes none, two have one name, or one cannot be loaded or is for another model.
    """
    if not loras:
        return
    names = [lora.name for lora in loras]
    if len(set(names)) < len(names):
        raise ArgumentError("two LoRAs have the same name", given=", ".join(names), cure="Rename a file.")
    if not hasattr(pipe, "load_lora_weights"):
        raise ArgumentError("this pipeline takes no LoRA", given=type(pipe).__name__, cure="Leave --lora out.")
    for lora in loras:
        _load(pipe, lora)
    pipe.set_adapters(names, [lora.scale for lora in loras])


def _load(pipe: Any, lora: Lora) -> None:
    from ertacache import zoo

    path = Path(lora.place)
    place = {"weight_name": path.name} if path.is_file() else {}
    try:
        with zoo.quiet():
            pipe.load_lora_weights(str(path.parent) if place else lora.place, adapter_name=lora.name, **place)
    except Exception as error:  # a file may hold anything
        if full_memory(error):
            raise
        raise ArgumentError(
            f"the LoRA cannot be loaded: {first_line(error)}",
            given=f"--lora {lora.place}",
            cure="Give a file of safetensors, a folder or a Hub id with one for this model, and pip install peft.",
        ) from error
    if not any(lora.name in adapters for adapters in pipe.get_list_adapters().values()):
        raise ArgumentError(
            "the LoRA holds nothing for this pipeline", given=f"--lora {lora.place}", cure="Give one for this model."
        )
