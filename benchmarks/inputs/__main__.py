"""Try wrong input everywhere; writes docs/reference/errors.md: ``python -m benchmarks.inputs [--mutations 1000]``."""

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

PAGE = Path(__file__).parents[2] / "docs/reference/errors.md"


def main(
    mutations: Annotated[int, typer.Option(min=1, help="Of each kind of file.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of the mutations.")] = 0,
    out: Annotated[Path, typer.Option(help="The page to write.")] = PAGE,
) -> None:
    """Try every function, command and kind of file, and write the page. Exits with 1 if any case is a fault."""
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


_PAGE = """# What happens on wrong input

**{total} cases were tried, each within {seconds} seconds. Cases that ended in anything but success or a documented
error: {faults}.** {made}; do not edit.

Wrong input ends in an error of `ertacache.errors` that says what failed, what was given, and the cure. Each of these is
an `ertacache.ERTACacheError`, and also the error that Python would raise, such as `ValueError` or `OSError`. There is
one exception: loading a missing file raises Python's own `FileNotFoundError`, which is no `ERTACacheError`; its message
names the file and the command that makes one.

Commands print one line and exit with status 2. Numbers may be NumPy numbers or tensors without dimensions; `True` and
`False` are not accepted as numbers.

## Arguments of functions

Each argument in turn was replaced by:

- numbers: negative, fractional, not finite, beyond 64 bits;
- texts, bytes, and paths that cannot be written;
- lists, mappings, arrays and tensors with no, one and several items;
- modules, pipelines, classes, functions, and objects that cannot be printed or compared.

*Accepted* are values that the argument may have, such as a text for a path or a whole number for a number of steps.

{functions}

## Arguments of commands

Each argument and option in turn was replaced by texts, paths, and files with other content. The model given does not
exist, so nothing is loaded or generated. So most cases reach only the parsing and checking of arguments: of commands
that need a model, all cases end in an error, and only `pick` and `inspect` can accept anything.

{commands}

## Files

Policies, profiles, drafts and recordings are safetensors files. Each holds a JSON text, and a CRC-32 checksum over the
text and all tensors. Each damaged file was loaded, printed and used in a call; a policy that can be transferred also in
a call with another number of steps. An "edited" file has a correct checksum again. Every accepted file gave a finite
picture.

{files}

- **Damage** is found by the checksum. In a checkpoint folder, damaged files are made again, and a line says so.
- **Every value is checked** when the object is made, so also in policies made by hand: its type, that it is finite, its
  range, and that it fits the other values. A policy has at most 10,000 steps and no factor over 1e9. A file that is
  read as a whole has at most 4 GiB. Only two things are exempt: samples of weights may be NaN where the weights could
  not be read, and configurations may hold any numbers, since nothing is calculated with them.
- **Files of older versions** are refused; the error names the command that makes them again.
- **Unknown fields and tensors are refused:** one that a newer version added may change what the others mean. Fields
  with a default may be missing.
- **A file that passes may still make poor pictures:** a checksum is not a signature.
"""

if __name__ == "__main__":
    typer.run(main)
