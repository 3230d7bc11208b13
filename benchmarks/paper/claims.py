"""The first table of the page: the paper's claims, and whether each was reproduced on each pipeline."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from benchmarks.markdown import table
from benchmarks.paper import figures, tables
from benchmarks.paper.wording import REPRODUCED, Result, held, verdict

Results = Mapping[str, Sequence[Result]]
"""What was measured, by table or figure; one result for each pipeline."""
OURS = ("ERTACache, aligned", "aligned")
"""The names of this library's own method."""


@dataclass(frozen=True)
class Claim:
    """What the paper claims.

    Args:
        text: the claim.
        experiments: the tables or figures that show it.
        verdicts: on one of their results.
    """

    text: str
    experiments: Sequence[str]
    verdicts: Callable[[Result], list[str]]


def _adds(part: str) -> Callable[[Result], list[str]]:
    return lambda result: [verdict(values) for values in tables.gains_of(result)[part]]


CLAIMS = (
    Claim(
        "ERTACache has a higher PSNR than TeaCache (Tables 1, 2)",
        ("table1", "table2"),
        lambda result: [verdict(lead.here) for lead in tables.leads_of(result)],
    ),
    Claim("The offline policy beats a uniform cache (Table 3)", ("table3",), _adds("Offline Policy")),
    Claim("The timestep adjustment adds PSNR (Table 3)", ("table3",), _adds("+Time Adjustment")),
    Claim("Error rectification adds PSNR (Table 3)", ("table3",), _adds("+Error Rectification")),
    Claim(
        "ERTACache needs no more memory than TeaCache (Table 4)",
        ("table4",),
        lambda result: [held(tables.needs_no_more(run)) for run in tables.runs_of(result)],
    ),
    Claim(
        "TeaCache's prediction diverges in later steps (Figure 2a)",
        ("figure2a",),
        lambda result: [held(figures.diverges(result))],
    ),
    Claim(
        "The timestep adjustment returns to the full trajectory (Figure 2b)",
        ("figure2b",),
        lambda result: [held(figures.comes_nearer(result))],
    ),
    Claim(
        "Each prompt's cache error has a structure of its own (Figure 6)",
        ("figure6",),
        lambda result: [held(figures.differs(result))],
    ),
)


def conclusion(results: Results, about: str) -> str:
    """How many claims were reproduced, how often our own method is best, and the verdict on each claim.

    Args:
        results: all that was measured.
        about: on which models; stands between the conclusion and its table.
    """
    models = sorted({result["model"] for found in results.values() for result in found})
    rows, verdicts = [["the paper's claim", *models]], list[str]()
    for claim in CLAIMS:
        found = {result["model"]: claim.verdicts(result) for name in claim.experiments for result in results[name]}
        cells = {model: ", ".join(dict.fromkeys(on_model)) or "-" for model, on_model in found.items()}
        if cells:
            rows.append([claim.text, *(cells.get(model, "-") for model in models)])
            verdicts += [cell for cell in cells.values() if cell != "-"]
    if not verdicts:
        return f"{about}\n"
    compared = [result for name in ("table1", "table2", "table3") for result in results[name]]
    best = sum(_best(result) in OURS for result in compared)
    return (
        f"**{verdicts.count(REPRODUCED)} of the {len(verdicts)} checks below reproduce the paper's claim. `aligned`, "
        f"this library's own method,\nhas the highest PSNR in {best} of {len(compared)} tables.**\n\n"
        f"{about}\n\n{table(rows)}\n"
    )


def _best(result: Result) -> str:
    """The name of the row with the highest mean PSNR."""
    ran = [row for row in result["rows"] if not row.get("refused")]
    best = max(ran, key=lambda row: fmean(row.get("measured", row)["psnr"]))
    return str(best.get("rival") or best["name"])
