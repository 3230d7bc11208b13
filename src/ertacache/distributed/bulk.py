"""Pictures or clips for many prompts: over workers, with a manifest, going on where an earlier run stopped."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ertacache.clock import now
from ertacache.distributed.driver import CarriedWorkers
from ertacache.distributed.messages import Job
from ertacache.distributed.pool import Lost, Pool
from ertacache.errors import ERTACacheError, OutputError
from ertacache.evaluation.comparison import Result, Variant, generate, started
from ertacache.files import written_whole
from ertacache.memory_errors import full_memory
from ertacache.presenting.films import write_film
from ertacache.presenting.pictures import write_pictures
from ertacache.runtime.call_results import frame_rate_of, sampling_rate_of
from ertacache.runtime.call_signature import check_call_arguments
from ertacache.runtime.pipeline_key import digest_of

MANIFEST = "manifest.jsonl"


@dataclass(frozen=True)
class Order:
    """What is to be made.

    Args:
        prompts: one picture or clip for each.
        variant: the way to generate.
        arguments: of every call, without prompt, seed and number of steps.
        seed: prompt k gets ``seed + k``.
        recompute_flagged: whether what the guard flags is made again in full.
        fps: of clips.
        own: arguments of single prompts' calls, such as ``image``, one dict for each prompt; or none at all.
    """

    prompts: Sequence[str]
    variant: Variant
    arguments: Mapping[str, Any]
    seed: int
    recompute_flagged: bool = False
    fps: int = 16
    own: Sequence[Mapping[str, Any]] = ()

    def call(self, number: int) -> dict[str, Any]:
        """The arguments of one prompt's call, with ``seed`` in place of ``generator``."""
        own = self.own[number] if self.own else {}
        return {**self.arguments, **own, "prompt": self.prompts[number], "seed": self.seed + number}

    def check(self, pipe: Any) -> None:
        """Raise `PipelineError` if calls of the pipeline take no argument of one of these names."""
        check_call_arguments(pipe, dict.fromkeys(name for given in (self.arguments, *self.own) for name in given))

    @property
    def key(self) -> str:
        """A digest of all that pictures depend on, but the prompts and the pipeline."""
        policy = self.variant.policy
        way = [self.variant.num_inference_steps, self.variant.speedup, self.variant.guard, self.recompute_flagged]
        own = [[dict(arguments) for arguments in self.own]] if self.own else []
        return digest_of([way, policy and policy.fingerprint, dict(self.arguments), self.seed, *own])


@dataclass(frozen=True)
class Made:
    """One picture or clip, or why there is none.

    Args:
        data: the content of its file; empty if there is none.
        suffix: of the file.
        entry: what the manifest says of it.
    """

    data: bytes
    suffix: str
    entry: dict[str, Any]


def made_of(pipe: Any, order: Order, number: int) -> Made:
    """Make the picture of one prompt; an error of this one call is noted, and does not end the others."""
    call = order.call(number)
    begin = now()
    try:
        result = generate(pipe, order.variant, started(call))
        entry = _entry(result, order.variant)
        if entry.get("flagged") and order.recompute_flagged:
            full = Variant("full", order.variant.num_inference_steps)
            result = generate(pipe, full, started(call))
            entry |= {"recomputed": True, "computed_steps": full.num_inference_steps}
        entry["seconds"] = round(now() - begin, 3)
        return Made(*_file(pipe, result, frame_rate_of(call, order.fps, result.sound)), entry)
    except ERTACacheError:
        raise  # a policy that does not fit fits no prompt
    except Exception as error:
        no_room = full_memory(error)
        told = f"{type(error).__name__}: {error}" + (f" {no_room.cure}" if no_room else "")
        return Made(b"", "", {"error": told})


def _entry(result: Result, variant: Variant) -> dict[str, Any]:
    report = result.report
    entry: dict[str, Any] = {"computed_steps": variant.num_inference_steps}
    if report is not None:
        entry["computed_steps"] = len(report.computed_steps)
        if report.notes:
            entry["notes"] = list(report.notes)
    if report is not None and report.guard is not None and report.guard.scores:
        entry |= {"score": round(max(report.guard.scores), 4), "flagged": any(report.guard.left)}
    return entry


def _file(pipe: Any, result: Result, fps: int) -> tuple[bytes, str]:
    """The content of a file with a call's pictures, or its clip with sound; and the file's suffix."""
    clips = result.pictures.ndim == 5
    with TemporaryDirectory() as folder:
        path = Path(folder) / ("made.mp4" if clips else "made.png")
        if clips:
            sound = None if result.sound is None else (result.sound[0], sampling_rate_of(pipe))
            write_film({"": list(result.pictures)}, path, fps=fps, sound=sound)
        else:
            write_pictures(list(result.pictures), path)
        return path.read_bytes(), path.suffix


def make_all(pipe: Any, order: Order, *, next_item: Callable[[Any], Any]) -> None:
    """The task of a worker: make whatever the pool hands out."""
    order.check(pipe)
    number = next_item(None)
    while number is not None:
        number = next_item(made_of(pipe, order, number))


class Manifest:
    """The list of what was made, one JSON object a line, the newest last; and the folder that it stands in.

    Lines are added, never changed. A line that an interruption cut off is dropped, and its picture made again.

    Args:
        folder: the folder.
        order: what is to be made there.

    Attributes:
        entries: by the number of the prompt.

    Raises:
        OutputError: if the folder holds what was made in another way.
    """

    def __init__(self, folder: Path, order: Order) -> None:
        self.folder, self._order, self.path = folder, order, folder / MANIFEST
        self.entries: dict[int, dict[str, Any]] = {}
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            self._read(self.path.read_bytes())

    def _read(self, content: bytes) -> None:
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            os.truncate(self.path, len(whole))
        for line in whole.splitlines():
            entry = json.loads(line)
            number = entry["number"]
            known = number < len(self._order.prompts) and entry["prompt"] == self._order.prompts[number]
            if entry["order"] != self._order.key or not known:
                raise OutputError(
                    "this folder holds pictures that were made in another way, or of other prompts",
                    given=f"{self.path}, prompt {number}",
                    cure="Give another folder.",
                )
            self.entries[number] = entry

    def left(self) -> list[int]:
        """The numbers of the prompts that have no picture yet."""
        return [number for number in range(len(self._order.prompts)) if not self._is_made(number)]

    def _is_made(self, number: int) -> bool:
        entry = self.entries.get(number)
        return entry is not None and "file" in entry and (self.folder / entry["file"]).is_file()

    def add(self, number: int, made: Made) -> dict[str, Any]:
        """Write a picture, whole, and then its line; return the line's object."""
        entry: dict[str, Any] = {
            "number": number,
            "prompt": self._order.prompts[number],
            "seed": self._order.seed + number,
        }
        if made.data:
            name = f"{number:05d}{made.suffix}"
            with written_whole(self.folder / name) as unfinished:
                Path(unfinished).write_bytes(made.data)
            entry["file"] = name
        entry |= {**made.entry, "order": self._order.key}
        with self.path.open("ab") as file:
            file.write((json.dumps(entry, ensure_ascii=False) + "\n").encode())
            file.flush()
            os.fsync(file.fileno())
        self.entries[number] = entry
        return entry


def generate_all(
    load: Any,
    order: Order,
    folder: Path,
    workers: CarriedWorkers | None = None,
    on_entry: Callable[[dict[str, Any]], None] = lambda entry: None,
) -> Manifest:
    """Make a picture or clip for every prompt that has none yet.

    Args:
        load: a pipeline; with workers, a function that loads one, or a model's id or folder.
        order: what to make.
        folder: where to.
        workers: processes that share the prompts; None for this one alone.
        on_entry: called with each new line's object.

    Returns:
        The manifest. Prompts at which a worker died twice, or whose call failed, have an ``error`` and no ``file``.

    Raises:
        ERTACacheError: if the policy does not fit, the pipeline takes no such argument, or a worker cannot be started.
        OutputError: if the folder cannot be written to, or holds what was made in another way.
    """
    manifest = Manifest(folder, order)

    def keep(number: int, made: Any) -> None:
        if isinstance(made, Lost):
            made = Made(b"", "", {"error": f"a worker died at it twice: {made.how}"})
        on_entry(manifest.add(number, made))

    left = manifest.left()
    if workers is None:
        order.check(load)
        for number in left:
            keep(number, made_of(load, order, number))
    elif left:
        with workers.carrier() as carrier:
            job = Job(make_all, load, (order,), {}, 0, carrier.num_workers, workers.threads, pooled=True)
            Pool(carrier, job, keep).run(left)
    return manifest
