"""Runs VBench's package where it is installed: it needs a torch and a transformers of its own, and a CUDA device.

Each dimension is a process of its own, ``python -m vbench.launch.evaluate``. The package's command ``vbench evaluate``
starts the same, but with whichever ``python`` it finds, and it succeeds even where the evaluation fails. Under
``results/{dimension}`` lie the result file, all that the package said (``log.txt``), and for temporal flickering the
clips that its static filter kept.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.vbench.dimensions import VBenchError
from benchmarks.vbench.layout import PROMPTS, RESULTS, VIDEOS, Entry, chosen, read_prompts, samples_of
from benchmarks.vbench.scores import RESULT_FILES, results_in

LOG, FILTERED = "log.txt", "filtered_videos"
SHOWN_LINES = 12

_FIND = "import importlib.util as u; s = u.find_spec('vbench'); print(s.submodule_search_locations[0] if s else '')"
# The package has its filter as a command only, and where the command's file lies depends on the installation.
_FILTER = "from vbench.cli.vbench import main; main()"


class _FailedError(VBenchError):
    """The package ended with an error, or without a result."""


def prompt_list_of(python: str) -> Path:
    """The list of prompts that comes with the package.

    Args:
        python: an interpreter that has it installed.

    Raises:
        VBenchError: if there is no such interpreter, or it does not have the package.
    """
    folder = _asked(python, _FIND)
    if not folder:
        raise VBenchError(
            "the package vbench is not installed",
            given=python,
            cure="Give an interpreter that has it (--python), or its VBench_full_info.json (--prompt-list).",
        )
    return Path(folder) / "VBench_full_info.json"


def evaluate(
    folder: Path,
    dimensions: Sequence[str],
    python: str,
    *,
    static_filter: bool = True,
    on_dimension: Callable[[str, bool], None] = lambda dimension, found: None,
) -> None:
    """Judge the clips of a folder, dimension by dimension; one that has a result is not judged again.

    Args:
        folder: as `benchmarks.vbench.layout` has it.
        dimensions: their names.
        python: an interpreter that has the package.
        static_filter: judge temporal flickering on clips that stand still, as VBench does.
        on_dimension: told of each dimension with a result, and whether it was found.

    Raises:
        VBenchError: if clips are missing, if the interpreter or the package is, or if the package failed; in the last
            case the other dimensions are judged all the same.
    """
    entries = read_prompts(folder / PROMPTS)
    wanted = {dimension: chosen(entries, [dimension]) for dimension in dimensions}
    check_clips(folder / VIDEOS, [entry for some in wanted.values() for entry in some], static_filter=static_filter)
    todo = []
    for dimension, some in wanted.items():
        filtered = static_filter and dimension == "temporal_flickering"
        if has_result(folder / RESULTS / dimension, dimension, some, FILTERED if filtered else VIDEOS):
            on_dimension(dimension, True)
        else:
            todo.append((filtered, dimension))
    if todo:
        _asked(python, "import vbench.launch.evaluate")
    failures: dict[str, _FailedError] = {}
    for filtered, dimension in sorted(todo, key=lambda pair: pair[0]):  # the filter last: it needs what others load
        try:
            _judge(folder, dimension, python, filtered=filtered)
            on_dimension(dimension, False)
        except _FailedError as error:
            failures[dimension] = error
    if failures:
        first = next(iter(failures.values()))
        raise VBenchError(f"{first.what} ({', '.join(failures)})", given=first.given, cure=first.cure)


def check_clips(videos: Path, entries: Sequence[Entry], *, static_filter: bool) -> None:
    """Refuse a folder that lacks clips, of which the package would only warn, or that has other files.

    Raises:
        VBenchError: if it does.
    """
    there = set(os.listdir(videos)) if videos.is_dir() else set()
    wanted = [sample.name for sample in samples_of(entries, to_filter=static_filter)]
    missing = [name for name in wanted if name not in there]
    if missing:
        raise VBenchError(
            f"{len(missing)} of {len(wanted)} clips are missing",
            given=f"{videos}, without {missing[0]!r}",
            cure="Run the export again, it goes on where it was; one without 25 clips of each prompt of temporal "
            "flickering is judged with --no-static-filter.",
        )
    strange = sorted(name for name in there if not name.endswith(".mp4"))
    if strange:
        cure = "Delete what an export that was killed left there, and keep other files elsewhere."
        raise VBenchError("VBench reads a folder of clips only if nothing else lies there", given=strange[0], cure=cure)


def has_result(out: Path, dimension: str, entries: Sequence[Entry], videos: str) -> bool:
    """Whether the newest result in ``out`` is whole, and of these prompts and of clips in a folder of this name."""
    files = sorted(out.glob(RESULT_FILES))
    if not files:
        return False
    try:
        results = results_in(files[-1])
        beside = files[-1].name.replace("_eval_results", "_full_info")  # what the package judged
        judged = json.loads((out / beside).read_text(encoding="utf-8"))
    except (VBenchError, OSError, ValueError):
        return False
    prompts = {entry["prompt_en"] for entry in judged}
    folders = {Path(clip).parent.name for entry in judged for clip in entry["video_list"]}
    return dimension in results and folders == {videos} and prompts == {entry["prompt_en"] for entry in entries}


def _judge(folder: Path, dimension: str, python: str, *, filtered: bool) -> None:
    out, videos = folder / RESULTS / dimension, folder / VIDEOS
    out.mkdir(parents=True, exist_ok=True)
    before = set(out.glob(RESULT_FILES))
    if filtered:
        videos = _still_clips(python, videos, out)
    command = [python, "-m", "vbench.launch.evaluate", "--dimension", dimension, "--videos_path", str(videos)]
    _run([*command, "--full_json_dir", str(folder / PROMPTS), "--output_path", str(out)], out / LOG)
    if not set(out.glob(RESULT_FILES)) - before:
        raise _FailedError("VBench left no result", given=dimension, cure=_end_of(out / LOG))


def _still_clips(python: str, videos: Path, out: Path) -> Path:
    """Let the package's filter copy up to five clips that stand still for each prompt of temporal flickering."""
    kept = out / FILTERED
    shutil.rmtree(kept, ignore_errors=True)  # of a filter that was cut off, or of fewer prompts
    _run([python, "-c", _FILTER, "static_filter", "--videos_path", str(videos), "--result_path", str(out)], out / LOG)
    if not kept.is_dir() or not any(kept.iterdir()):
        raise _FailedError(
            "VBench's static filter kept no clip",
            given=videos,
            cure="All of them move; --no-static-filter judges them as they are, which compares with no other figure.",
        )
    return kept


def _run(command: Sequence[str], log: Path) -> None:
    with log.open("a", encoding="utf-8") as file:
        file.write(f"$ {' '.join(command)}\n")
        file.flush()
        unbuffered = os.environ | {"PYTHONUNBUFFERED": "1"}  # else what it printed stands behind how it failed
        done = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=unbuffered)
    if done.returncode:
        raise _FailedError("VBench failed", given=f"exit status {done.returncode}", cure=_end_of(log))


def _end_of(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-SHOWN_LINES:]
    return "\n".join([f"{log} ends with:", *lines])


def _asked(python: str, code: str) -> str:
    """What some Python code prints last."""
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    except OSError as error:
        cure = "Give the interpreter of the environment that has the package vbench (--python)."
        raise VBenchError("there is no such Python interpreter", given=python, cure=cure) from error
    said = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    if done.returncode:
        raise VBenchError(
            "the package vbench cannot be imported",
            given=f"{python}: {said[-1] if said else f'exit status {done.returncode}'}",
            cure="Install it into that environment (pip install vbench), or give another one (--python).",
        )
    return said[-1] if said else ""
