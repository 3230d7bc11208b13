"""Try it all, and write docs/errors.md about it: ``python -m benchmarks.inputs [--mutations 1000]``."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.inputs import calls, commands, files
from benchmarks.inputs.cases import ACCEPTED, SECONDS, Tally
from benchmarks.markdown import table
from ertacache.files import written_whole

PAGE = Path(__file__).parents[2] / "docs/errors.md"


def main(
    mutations: Annotated[int, typer.Option(min=1, help="Of each kind of file.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of the mutations.")] = 0,
    out: Annotated[Path, typer.Option(help="The page to write.")] = PAGE,
) -> None:
    """Try every function, command and kind of file, and write a page of what came of it; 1 if anything must not."""
    out = out.resolve()
    os.environ["HF_HUB_OFFLINE"] = "1"
    started, before = time.monotonic(), Path.cwd()
    with tempfile.TemporaryDirectory(prefix="ertacache-") as name:
        os.chdir(name)  # some of what is tried is the name of a file
        try:
            folder = Path(name)
            functions = _told(calls.tried(folder))
            subjects = files.Subjects(folder)
            kinds = {kind: files.tried(subjects, kind, mutations, seed) for kind in subjects.files}
            typed = _told(commands.tried(folder))
        finally:
            os.chdir(before)
    minutes = (time.monotonic() - started) / 60
    tallies = [*functions.values(), *typed.values(), *(tally for by_how in kinds.values() for tally in by_how.values())]
    faults = [fault for tally in tallies for fault in tally.faults]
    total = sum(tally.outcomes.total() for tally in tallies)
    for fault in faults:
        print(fault, file=sys.stderr)
    made = f"Written by `python -m benchmarks.inputs --mutations {mutations}` ({minutes:.0f} minutes on one core)"
    text = _PAGE.format(
        made=made,
        total=f"{total:,}",
        seconds=SECONDS,
        faults=len(faults) or "none",
        functions=_of_calls("function", functions),
        commands=_of_calls("command", typed),
        files=_of_files(kinds),
    )
    with written_whole(out) as unfinished:
        Path(unfinished).write_text(text, encoding="utf-8")
    print(f"{total} cases, {len(faults)} faults, {minutes:.1f} minutes; wrote {out}")
    raise typer.Exit(int(bool(faults)))


def _told(tallies: Iterable[tuple[str, Tally]]) -> dict[str, Tally]:
    found = {}
    for name, tally in tallies:
        found[name] = tally
        print(f"{name}: {tally.outcomes.total()} cases, {len(tally.faults)} faults", file=sys.stderr)
    return found


def _of_calls(what: str, tallies: Mapping[str, Tally]) -> str:
    rows = [[what, "cases", "accepted", "refused with"]]
    for name, tally in tallies.items():
        rows.append([f"`{name}`", str(tally.outcomes.total()), str(tally.outcomes[ACCEPTED]), str(tally)])
    return table(rows)


def _of_files(kinds: Mapping[str, Mapping[str, Tally]]) -> str:
    rows = [["kind of file", "mutated by", "cases", "accepted", "else"]]
    for kind, by_how in kinds.items():
        for how, tally in by_how.items():
            rows.append([kind, how, str(tally.outcomes.total()), str(tally.outcomes[ACCEPTED]), str(tally)])
    return table(rows)


_PAGE = """# What comes of wrong input

{made}; do not edit.
{total} cases, each with a limit of {seconds} seconds; those that came to what they must not: {faults}.

Wrong input ends in an error of `ertacache.errors`: what failed, what was given, and the cure. All of them are
`ertacache.ERTACacheError`, and also what Python would raise, such as `ValueError` or `OSError`. Loading a file that is
not there raises `FileNotFoundError`. Commands end with exit status 2 and one line. Numbers may be numpy's, or tensors
without an axis; True and False are no numbers.

## Arguments of functions

Every argument in turn is numbers that are negative, fractions, not finite, beyond 64 bits; texts, bytes, paths that
cannot be written; lists, mappings, arrays and tensors of nothing, one and several; modules, pipelines, classes,
functions; objects that cannot be shown or compared. Accepted is what the argument can be: a text for a path, a whole
number for a number of steps.

{functions}

## Arguments of commands

Every argument and option in turn is texts, paths, and files of other content. The model is one that is not there, so
that nothing is generated: only commands that need no model accept anything.

{commands}

## Files

Policies, profiles, drafts and recordings are safetensors files, each with a text of JSON and a CRC-32 checksum over the
text and all tensors. Each is mutated, loaded, shown and used in a call; a policy that can be transferred also in one of
another number of steps. What is "edited" has a checksum that is right again. An accepted file has given a finite
picture.

{files}

- **Damage** is found by the checksum. In a checkpoint folder, what is damaged is made anew, and a line says so.
- **Every value is checked** where the object is made, so also in policies made by hand: its type, that it is finite,
  its range, and that it fits the others. A policy has at most 10,000 steps and no factor over 1e9; a file that is read
  as a whole has at most 4 GiB. Only samples of weights may be NaN, where they could not be read, and configurations may
  hold any numbers, since nothing is calculated with them.
- **Files of older versions** are refused, with the command that makes them again.
- **What is not known is refused:** a field or a tensor that a newer version has added may change what the others mean.
  Fields that have a default may be missing.
- A file that passes all this may still make poor pictures: a checksum is no signature.
"""

if __name__ == "__main__":
    typer.run(main)
