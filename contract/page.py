"""Writes docs/reference/support.md from docs/reference/support.json, where the contract records its outcomes.

python -m contract.page     # write the page again from what is recorded; runs nothing
"""

from __future__ import annotations

import inspect
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import diffusers

from contract.case import Case
from contract.check import Outcome
from contract.families import CASES
from contract.in_words import in_words
from contract.not_tried import REASONS

DOCS = Path(__file__).parents[1] / "docs/reference"
RECORD, PAGE = DOCS / "support.json", DOCS / "support.md"

Found = Mapping[str, tuple[str, Outcome]]
"""For each case, its pipeline class and its outcome."""

INTRODUCTION = """# What works

**{works} pipeline classes of diffusers can be accelerated, {refused} are refused with a one-line reason, and {left}
were not tried. Of {changes:,} changes made after calibration, none spoiled the picture without a message.**

Every row was run, on a tiny pipeline of the class with random weights. So this page shows what runs, not how good the
pictures are: see [pipelines.md](../records/pipelines.md) for quality. `python -m contract` runs everything again and
writes this page (an hour, resumable).

A class works if it keeps the contract of `contract/check.py`:

- With nothing cached, the output is bit-identical; otherwise, exactly the steps of the policy are computed.
- Calls do not affect each other: in a row, with another batch size or resolution, after an interrupted call.
- Afterwards nothing is left on the pipeline.
- If it can be calibrated: the policy is followed, saved and loaded, and refused on another model.

The calibrated policies here are `aligned` on evenly spaced steps, which is quick to calibrate. Such policies are never
transferred: another number of steps or other guidance is always refused. So this page does not show transfers, which
only policies with a searched schedule get; [transfer.md](../records/transfer.md) has those.
"""


WORKS = """A class counts as working if at least one case of it works.

- {both} classes that work in one case are refused in another. They are in this table and under *Refused*, each time
  with the case.
- {by_hand} classes work only with policies made by hand, such as evenly spaced ones: *calibrated* is "no" in all their
  cases. They count as working too.

*Levels* are what can be cached ([method.md](../records/method.md)): `all` stands for `velocity`, `output` and
`hidden`. *Why not* says why a case cannot be calibrated. Each pipeline ran with its own scheduler; some also ran with
[others](#schedulers). `ertacache doctor MODEL` says the same of your own pipeline, of whatever class
([doctor.md](../how-to/doctor.md)).
"""


SCHEDULERS = """What counts is that a scheduler calls the model once a step, not its name. These pipelines were also run
with other schedulers than their own, with policies made by hand for 8 steps.

- **Euler.** `EulerDiscreteScheduler` works: it is Stable Diffusion XL's own, and is in the table for others. Two
  pipelines refuse it with a policy made by hand for 8 steps, since it then makes 7. `speedup=` and calibrated policies
  count the steps that are made, and work there too (`tests/families/test_support.py`).
- **Twice a step.** Heun, KDPM2 and PNDM were refused with every pipeline that they ran with; KDPM2 was run in
  `tests/runtime/test_samplers.py` only.
- **Karras sigmas.** `use_karras_sigmas=True` changes the noise levels, not how often the model is called. It was not
  run with every scheduler that has the option, and works where it was:
{karras}
"""
KARRAS = (
    "StableDiffusionXL, DPMSolverMultistep",
    "StableVideoDiffusion",
    "Cosmos2TextToImage",
    "Cosmos2_5_PredictBase",
)
"""Cases whose scheduler has ``use_karras_sigmas``, one for each class of scheduler."""
SEARCH = '<div class="filter-tables"></div>\n'
"""Where docs/reference/filter-tables.js puts a box that filters the rows; nothing without scripts."""


CHANGES = """A policy (`aligned` on evenly spaced steps, which is never transferred) is calibrated on one pipeline. Then
one thing is changed on another pipeline of the same build, and the call is repeated.

- *Refused*: an error gives the reason before the picture is made.
- *Noted*: the call's report has a note. It says what was noticed, not always what was changed: a callback changed
  something at a step, the latents have another shape, or weights could not be fully compared.
- *Right*: no message, and the picture is not worse than the policy's usual ones. Its error against the changed
  pipeline's full run is at most 1.5 times the policy's largest error on its calibration prompts.
- *Silent*: no message, and the picture is farther off. This fails the contract.

A change is counted only if it alters the output of the pipeline's own full run. The exception is the row "form only":
its changes must not alter anything, and refusing one of them would fail the contract too. Only classes that can be
calibrated take part. All outcomes are in [support.json](support.json).
"""
KINDS = {
    "^argument ": "an argument that sets the strength of guidance, conditioning or an adapter",
    "^setting scheduler\\.": "the scheduler's configuration",
    "^setting guider": "the guider's configuration",
    "^setting ": "the pipeline's configuration",
    "^a callback changes the guidance": "a callback changes the guidance midway",
    "^a callback changes ": "a callback changes the prompt midway",
    "^size: ": "another size",
    " steps$": "another number of steps",
    "^weights": "the weights of one kind of parameter, in one layer",
    "^numpy|^fused proj|^sliced|^channels": "form only: numpy scalars, fused projections, sliced attention, layout",
}
"""Kinds of changes, by patterns of their names; otherwise, the part of the name after that of the model."""


def exported() -> list[str]:
    """All pipeline classes that diffusers exports and that can be made on this machine."""
    found = []
    for name in dir(diffusers):
        kind = getattr(diffusers, name)
        bases = (diffusers.DiffusionPipeline, diffusers.ModularPipeline)
        if inspect.isclass(kind) and issubclass(kind, bases) and kind not in bases:
            found.append(name)
    return found


def not_tried(found: Found) -> list[str]:
    """The classes of which there is no case."""
    tried = {pipeline for pipeline, _ in found.values()}
    return [name for name in exported() if name not in tried]


def pipeline_of(case: Case) -> str:
    """The class of a case's pipeline, as users write it."""
    return type(case.build()).__name__


def reason_of(message: str) -> str:
    """An error's reason, without what was given and the cure."""
    return message.partition(" (given: ")[0]


def to_json(found: Found) -> str:
    """The record."""
    record = {case: {"pipeline": pipeline, **asdict(outcome)} for case, (pipeline, outcome) in found.items()}
    for fields in record.values():
        fields["schedulers"], fields["around"] = dict(fields["schedulers"]), dict(fields["around"])
    return json.dumps(record, indent=1) + "\n"


def from_json(text: str) -> dict[str, tuple[str, Outcome]]:
    """What the record holds."""
    return {case: (fields.pop("pipeline"), outcome_from(fields)) for case, fields in json.loads(text).items()}


def outcome_from(fields: Mapping[str, Any]) -> Outcome:
    """An outcome from the fields of the record."""
    return Outcome(
        fields["refusal"],
        tuple(fields["levels"]),
        fields["calibration"],
        tuple(fields["schedulers"].items()),
        tuple(fields["around"].items()),
    )


def row_of(case: str, pipeline: str, outcome: Outcome) -> str:
    """One case as a row of the first table, or as a row with the reason if it is refused."""
    what = f"| {pipeline} | {_variant(case, pipeline)} |"
    if not outcome.works:
        return f"{what} {in_words(reason_of(outcome.refusal))} |"
    levels = "all" if len(outcome.levels) == 3 else ", ".join(outcome.levels)
    calibrated, why = "no" if outcome.calibration else "yes", in_words(reason_of(outcome.calibration))
    return f"{what} {levels} | {calibrated} | {why} |"


def _variant(case: str, pipeline: str) -> str:
    """What sets the case apart from others of its class; "" for the plain one."""
    plain = pipeline.removesuffix("Pipeline").lower() == "".join(filter(str.isalnum, case)).lower()
    return case.partition(", ")[2] or ("" if plain else case)


def page_of(found: Found) -> str:
    """The whole page."""
    rows = sorted(found.items(), key=lambda item: item[1][0].lower())
    works = {case: row for case, row in rows if row[1].works}
    refused = {case: row for case, row in rows if not row[1].works}
    classes = {pipeline for pipeline, _ in works.values()}
    left = not_tried(found)
    introduction = INTRODUCTION.format(
        works=len(classes),
        refused=len({pipeline for pipeline, _ in refused.values()} - classes),
        left=len(left),
        changes=sum(len(outcome.around) for _, outcome in found.values()),
    )
    lines = [introduction, SEARCH, f"## Works: {len(classes)} classes\n", _works_in_words(works, refused)]
    lines += ["| pipeline | case | levels | calibrated | why not |", "|---|---|---|---|---|"]
    lines += [row_of(case, *row) for case, row in works.items()]
    lines += ["\n## Refused\n", "| pipeline | case | why not, and what to do |", "|---|---|---|"]
    lines += [row_of(case, *row) for case, row in refused.items()]
    lines += ["\n## Schedulers\n", SCHEDULERS.format(karras=_karras())]
    lines += ["| pipeline | case | its own scheduler | others that work |", "|---|---|---|---|", *_schedulers(works)]
    lines += ["\nRefused:\n", "| scheduler | why | with |", "|---|---|---|", *_refused_schedulers(works)]
    lines += [
        f"\n## Not tried: {len(left)} classes\n",
        "There is no tiny pipeline of these. The same code accepts or refuses them by behaviour, not by name.\n",
        "| pipeline | why |",
        "|---|---|",
        *(f"| {name} | {REASONS.get(name, '')} |" for name in left),
    ]
    return "\n".join(lines + _changes(found)) + "\n"


def _works_in_words(works: Found, refused: Found) -> str:
    """What counts as working, with the numbers of classes that are not plainly so."""
    classes = {pipeline for pipeline, _ in works.values()}
    calibrated = {pipeline for pipeline, outcome in works.values() if not outcome.calibration}
    both = len(classes & {pipeline for pipeline, _ in refused.values()})
    return WORKS.format(both=both, by_hand=len(classes - calibrated))


def _karras() -> str:
    """The schedulers with Karras sigmas that were run, each with a pipeline."""
    built = (CASES[case].build() for case in KARRAS)
    return "\n".join(f"    - `{_class_of(pipe.scheduler)}` with `{_class_of(pipe)}`" for pipe in built)


def _class_of(thing: Any) -> str:
    return type(thing).__name__


def _schedulers(works: Found) -> list[str]:
    """The other schedulers with which a case was run and works."""
    rows = []
    for case, (pipeline, outcome) in works.items():
        names = [name.removesuffix("Scheduler") for name, reason in outcome.schedulers if not reason]
        if names:
            own = _class_of(CASES[case].build().scheduler).removesuffix("Scheduler")
            rows.append(f"| {pipeline} | {_variant(case, pipeline)} | {own} | {', '.join(names)} |")
    return rows


def _refused_schedulers(works: Found) -> list[str]:
    """The schedulers that pipelines refuse, by reason."""
    by_reason: dict[tuple[str, str], list[str]] = {}
    for pipeline, outcome in works.values():
        for name, why in outcome.schedulers:
            if why:
                by_reason.setdefault((name, in_words(reason_of(why))), []).append(pipeline)
    return [f"| {name} | {why} | {', '.join(dict.fromkeys(by_reason[name, why]))} |" for name, why in sorted(by_reason)]


def _changes(found: Found) -> list[str]:
    """The outcomes of changes after calibration, a row for each kind of change."""
    counts: dict[str, Counter[str]] = {}
    classes: dict[str, set[str]] = {}
    for pipeline, outcome in found.values():
        for change, came in outcome.around:
            kind = _kind_of(change)
            counts.setdefault(kind, Counter())[came] += 1
            classes.setdefault(kind, set()).add(pipeline)
    lines = ["\n## Changes after calibration\n", CHANGES]
    lines += ["| what is changed | classes | refused | noted | right | silent |", "|---|---|---|---|---|---|"]
    for kind in sorted(counts):
        cells = _cells(counts[kind], ("refused", "noted", "right", "silent"))
        lines.append(f"| {kind} | {len(classes[kind])} | {cells} |")
    return lines


def _cells(counts: Counter[str], outcomes: Sequence[str]) -> str:
    return " | ".join(str(counts[outcome]) for outcome in outcomes)


def _kind_of(change: str) -> str:
    """The kind of a change, by its name."""
    for pattern, kind in KINDS.items():
        if re.search(pattern, change):
            return kind
    return change.partition(": ")[2] or change


if __name__ == "__main__":
    PAGE.write_text(page_of(from_json(RECORD.read_text(encoding="utf-8"))), encoding="utf-8")
