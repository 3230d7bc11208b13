"""docs/support.md, written from what the contract finds."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Mapping

import diffusers

from contract.case import Case
from contract.check import Outcome

INTRODUCTION = """# What works

Written by `python -m contract` (half an hour, resumable); do not edit. Every row was run: a tiny pipeline of the class,
with random weights, held to the contract of `contract/check.py`. With nothing cached its output is bit-identical;
exactly the steps that are to be computed are computed; calls in a row, of another batch size or resolution, or after an
interrupted one do not touch each other; afterwards nothing is left on the pipeline; a calibrated policy is followed,
saved, loaded, and refused by another model. What is refused, is refused with one line that says why.

A pipeline is run with the scheduler that it comes with; where the last column names others, with all that it runs with.
The levels are what can be cached (see [method.md](method.md)). Where a pipeline is not calibrated, policies made by
hand, such as evenly spaced ones, still work. Quality is not shown here: [pipelines.md](pipelines.md) does that.
"""


AROUND = """A policy is calibrated on a pipeline as it is; then one thing is changed on another one of the same build,
and the call is made again. *Refused*: with the reason, before the picture is made. *Noted*: the call's report says what
is otherwise. *Right*: nothing is said, and the picture is as near to the full run of the changed pipeline as it was
before the change, up to a factor of 1.5. A silent one that is farther off fails the contract. Changes that leave the
pipeline's own output as it is are not counted, but for those that must not be refused. Every outcome is in
[support.json](support.json).
"""
KINDS = {
    "^argument ": "an argument that says how strongly to guide, condition or adapt",
    "^setting scheduler\\.": "the scheduler's configuration",
    "^setting guider": "the guider's configuration",
    "^setting ": "the pipeline's configuration",
    "^a callback changes the guidance": "a callback changes the guidance midway",
    "^a callback changes ": "a callback changes the prompt midway",
    "^size: ": "another size",
    " steps$": "another number of steps",
    "^weights": "the weights of one kind of parameter, in one layer",
    "^numpy|^fused proj|^sliced|^channels": "only the form: numpy scalars, fused projections, sliced attention, layout",
}
"""Kinds of changes, by patterns of their names; the rest are what stands behind the model's name."""


def exported() -> list[str]:
    """All pipeline classes that diffusers exports and that can be made on this machine."""
    found = []
    for name in dir(diffusers):
        kind = getattr(diffusers, name)
        if inspect.isclass(kind) and issubclass(kind, diffusers.DiffusionPipeline) and name != "DiffusionPipeline":
            found.append(name)
    return found


def row_of(case: str, pipeline: str, outcome: Outcome) -> str:
    """One case, as a row without its schedulers; what the tests compare."""
    plain = pipeline.removesuffix("Pipeline").lower() == "".join(filter(str.isalnum, case)).lower()
    what = f"| {pipeline} | {case.partition(', ')[2] or ('' if plain else case)} | "
    if not outcome.works:
        return f"{what}{_reason(outcome.refusal)} |"
    calibrated = f"no: {_reason(outcome.calibration)}" if outcome.calibration else "yes"
    return f"{what}{', '.join(outcome.levels)} | {calibrated} |"


def _reason(message: str) -> str:
    """An error's reason, without what was given and the cure."""
    return message.partition(" (given: ")[0]


def page_of(found: Mapping[str, tuple[str, Outcome]]) -> str:
    """The whole page.

    Args:
        found: for each case, its pipeline class, and what came of it.
    """
    works = {case: row for case, row in found.items() if row[1].works}
    refused = {case: row for case, row in found.items() if not row[1].works}
    classes = sorted({pipeline for pipeline, _ in works.values()})
    tried = {pipeline for pipeline, _ in found.values()}
    left = [name for name in exported() if name not in tried]
    lines = [
        INTRODUCTION,
        f"## Works: {len(classes)} classes\n",
        "| pipeline | case | levels | calibrated | other schedulers that it was run with |",
        "|---|---|---|---|---|",
    ]
    for case, (pipeline, outcome) in works.items():
        others = ", ".join(name.removesuffix("Scheduler") for name, reason in outcome.schedulers if not reason)
        lines.append(f"{row_of(case, pipeline, outcome)} {others} |")
    lines += ["\n## Refused\n", "| pipeline | case | why |", "|---|---|---|"]
    lines += [row_of(case, pipeline, outcome) for case, (pipeline, outcome) in refused.items()]
    reasons = sorted({(name, _reason(why)) for _, o in works.values() for name, why in o.schedulers if why})
    lines += ["\n## Schedulers that are refused\n", "| scheduler | why |", "|---|---|"]
    lines += [f"| {name} | {reason} |" for name, reason in reasons]
    lines += [
        f"\n## Not tried: {len(left)} classes\n",
        "No tiny pipeline of these was made. The same code serves or refuses them, by what it sees and not by names.\n",
        ", ".join(left) + ".",
    ]
    lines += around_of(found)
    return "\n".join(lines) + "\n"


def around_of(found: Mapping[str, tuple[str, Outcome]]) -> list[str]:
    """What came of the changes around calls, a row for each kind of change."""
    counts: dict[str, Counter[str]] = {}
    classes: dict[str, set[str]] = {}
    for pipeline, outcome in found.values():
        for change, came in outcome.around:
            kind = _kind_of(change)
            counts.setdefault(kind, Counter())[came] += 1
            classes.setdefault(kind, set()).add(pipeline)
    lines = ["\n## Around a call\n", AROUND, "| what is changed | classes | refused | noted | right | silent |"]
    lines.append("|---|---|---|---|---|---|")
    for kind in sorted(counts):
        cells = [str(counts[kind][came]) for came in ("refused", "noted", "right")]
        lines.append(f"| {kind} | {len(classes[kind])} | {' | '.join(cells)} | 0 |")
    return lines


def _kind_of(change: str) -> str:
    """The kind of a change, by its name."""
    for pattern, kind in KINDS.items():
        if re.search(pattern, change):
            return kind
    return change.partition(": ")[2] or change


def pipeline_of(case: Case) -> str:
    """The class of a case's pipeline, as users write it."""
    return type(case.build()).__name__
