"""The clips that VBench wants: of which prompts, how many, under which names, and where a folder of ours has them.

VBench's package takes one flat folder of ``{prompt}-{index}.mp4`` and finds the prompts of a dimension in a list of its
own, ``VBench_full_info.json``. A folder of ours holds::

    videos/         the clips, and nothing else: the package takes every name's ending from the first file it finds
    prompts.json    the part of the package's list that was exported, in its format
    export.json     what made the clips, so that those of two settings never mix
    results/        one folder for each dimension, see `benchmarks.vbench.runner`
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.vbench.dimensions import DIMENSIONS, VBenchError
from ertacache.files import written_whole

Entry = Mapping[str, Any]
"""One of the package's list: ``prompt_en``, ``dimension`` (several), and for some ``auxiliary_info``."""

VIDEOS, PROMPTS, EXPORT, RESULTS = "videos", "prompts.json", "export.json", "results"

SAMPLES = 5
SAMPLES_TO_FILTER = 25
"""Of temporal flickering: the package judges five clips that stand still, which a filter of its own looks for."""


@dataclass(frozen=True)
class Sample:
    """One clip to generate.

    Args:
        prompt: as the package's list has it.
        index: from 0, which of the prompt's clips.
        seed: of its noise, 0 .. 2**32 - 1.
    """

    prompt: str
    index: int
    seed: int

    @property
    def name(self) -> str:
        """The file name by which the package finds it."""
        return f"{self.prompt}-{self.index}.mp4"


def read_prompts(path: Path) -> list[Entry]:
    """Read the package's list of prompts, or a part of it.

    Raises:
        VBenchError: if there is no such file, or it holds something else.
    """
    cure = "Give the VBench_full_info.json of the package vbench."
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise VBenchError("the list of prompts cannot be read", given=f"{path}: {error}", cure=cure) from error
    if not isinstance(entries, list) or not entries or not all(_is_entry(entry) for entry in entries):
        raise VBenchError("this is no list of VBench's prompts", given=path, cure=cure)
    return entries


def _is_entry(entry: Any) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("prompt_en"), str):
        return False
    dimensions = entry.get("dimension")
    return isinstance(dimensions, list) and all(name in DIMENSIONS for name in dimensions)


def chosen(entries: Sequence[Entry], dimensions: Sequence[str], limit: int | None = None) -> list[Entry]:
    """The entries of some dimensions, in the order of the list.

    Args:
        entries: the list.
        dimensions: their names.
        limit: of each dimension only so many, the first ones.

    Raises:
        VBenchError: if the list has no prompt for one of them.
    """
    kept: set[int] = set()
    for dimension in dimensions:
        places = [place for place, entry in enumerate(entries) if dimension in entry["dimension"]]
        if not places:
            cure = "Export it first, or give the package's whole list."
            raise VBenchError("the list of prompts has none for a dimension", given=dimension, cure=cure)
        kept.update(places[:limit])
    return [entries[place] for place in sorted(kept)]


def shortened(entries: Sequence[Entry]) -> list[str]:
    """The dimensions of which a list has some prompts but not all: their scores compare with no published ones."""
    counts = {name: sum(name in entry["dimension"] for entry in entries) for name in DIMENSIONS}
    return [name for name, count in counts.items() if 0 < count < DIMENSIONS[name].prompts]


def samples_of(entries: Sequence[Entry], *, seed: int = 0, to_filter: bool = True) -> list[Sample]:
    """The clips of some entries; a prompt that stands in the list twice has them once.

    Args:
        entries: of the list.
        seed: another one gives every clip other noise.
        to_filter: 25 clips for each prompt of temporal flickering, for the package's static filter; else 5 as for all.

    Returns:
        Prompt by prompt. A clip's seed depends on ``seed``, its prompt and its index alone, so that whatever is
        exported, in whichever order and by whichever policy, starts from the same noise.
    """
    counts: dict[str, int] = {}
    for entry in entries:
        many = to_filter and "temporal_flickering" in entry["dimension"]
        prompt = entry["prompt_en"]
        counts[prompt] = max(counts.get(prompt, 0), SAMPLES_TO_FILTER if many else SAMPLES)
    return [Sample(prompt, k, _seed(seed, prompt, k)) for prompt, count in counts.items() for k in range(count)]


def _seed(seed: int, prompt: str, index: int) -> int:
    # The rule is another random seed for every clip; torch's generator on a CPU takes in 32 bits.
    digest = hashlib.sha256(f"{seed}\n{index}\n{prompt}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


def claim(folder: Path, settings: Mapping[str, Any], entries: Sequence[Entry]) -> None:
    """Note in a folder what makes its clips, and add to the prompts that they are of.

    Args:
        folder: of ours, perhaps with the clips of other prompts.
        settings: all that a clip depends on besides its prompt and index, as JSON can hold it.
        entries: what is to be exported.

    Raises:
        VBenchError: if the folder has clips that other settings made.
    """
    note, prompts = folder / EXPORT, folder / PROMPTS
    given = json.loads(json.dumps(settings))
    earlier: list[Entry] = []
    if any((folder / VIDEOS).glob("*.mp4")):  # else an export failed before its first clip, and binds nobody
        there = json.loads(note.read_text(encoding="utf-8")) if note.exists() else {}
        if there != given:
            names = [name for name in {**there, **given} if there.get(name) != given.get(name)]
            what = ", ".join(f"{name} was {there.get(name)!r} and is {given.get(name)!r}" for name in names)
            raise VBenchError("the folder has clips of other settings", given=what, cure="Export to another folder.")
        earlier = read_prompts(prompts)
    every = [*earlier, *(entry for entry in entries if entry not in earlier)]
    for path, content in ((note, given), (prompts, every)):
        with written_whole(path) as unfinished:
            Path(unfinished).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
