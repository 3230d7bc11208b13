"""Tables 1 to 4 on the page: our figures beside the paper's, and what each comparison comes to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median

from benchmarks.markdown import table, with_interval
from benchmarks.paper.published import ABLATION, COMPARISONS, COSTS, FULL_RUN_LATENCY, TITLES
from benchmarks.paper.wording import REVERSED, Result, filled, gain, held, lpips_of, psnr_cells, verdict

AGAINST_TIME = filled(
    "Erratum E6 ([method.md](method.md#errata)) explains why the timestep adjustment loses quality: where the output "
    "is reused, the coefficient of Eq. (13) is near 0, so cached steps hardly move and the others grow longer."
)
LEVELS = ("", ", hidden")
"""Endings of the names in Table 3: level `output`, level `hidden`."""


# Tables 1 and 2


@dataclass(frozen=True)
class Lead:
    """The paper's method against TeaCache, at one of the paper's speedups.

    Args:
        name: both methods, as the paper prints them.
        paper: the lead in dB in the paper.
        here: the lead in dB here, one value for each prompt.
        operations: the full run's operations over the method's, and over TeaCache's.
    """

    name: str
    paper: float
    here: Sequence[float]
    operations: tuple[str, str]


def leads_of(result: Result) -> list[Lead]:
    """The leads on one pipeline, over the TeaCache row whose speedup in the paper is nearest."""
    published = {row.method: row for row in COMPARISONS[result["family"]]}
    ran = [row for row in result["rows"] if not row["refused"]]
    rivals = [row for row in ran if row["rival"] == "TeaCache"]
    found = []
    for row in ran:
        if row["rival"] == "ERTACache, as published" and rivals:
            wanted = row["wanted"]
            rival = min(rivals, key=lambda other: abs(other["wanted"] - wanted))
            paper = published[row["method"]].psnr - published[rival["method"]].psnr
            here = gain(row["measured"], rival["measured"])
            name = f"{row['method']} over {rival['method']}"
            found.append(Lead(name, paper, here, (_operations(row), _operations(rival))))
    return found


def leads(results: Sequence[Result]) -> str:
    """All leads over TeaCache."""
    rows = [["PSNR, dB", "", "the paper", "here (95 %)", "operations saved: its, TeaCache's", "verdict"]]
    for result in results:
        for lead in leads_of(result):
            saved, here = ", ".join(lead.operations), with_interval(lead.here, "+.1f")
            rows.append([result["model"], lead.name, f"{lead.paper:+.1f}", here, saved, verdict(lead.here)])
    return f"The lead of the paper's method over TeaCache:\n\n{table(rows)}"


def comparison(result: Result) -> str:
    """All rows of one pipeline."""
    family = result["family"]
    published = {row.method: row for row in COMPARISONS[family]}
    ran = [row for row in result["rows"] if not row["refused"]]
    psnr = iter(psnr_cells([row["measured"] for row in ran]))
    rows = []
    for row in result["rows"]:
        cells, theirs = [row["method"], *["-"] * 4], published.get(row["method"])
        if theirs:
            cells[1:] = f"{theirs.speedup:.2f}x", f"{theirs.psnr:.2f}", f"{theirs.ssim:.4f}", f"{theirs.lpips:.4f}"
        rows.append(cells + ([f"not here: {row['refused']}", *["-"] * 5] if row["refused"] else _here(row, next(psnr))))
    heads = ["the paper", "speedup", "PSNR", "SSIM", "LPIPS"]
    heads += ["here", "operations", "speedup", "PSNR (95 %)", "SSIM", "LPIPS"]
    paper = f"The paper: {TITLES[family]}, {FULL_RUN_LATENCY[family]:g} s in full on an A800."
    return f"{paper}\n\n{table([heads, *rows])}"


def _here(row: Result, psnr: str) -> list[str]:
    found, knobs = row["measured"], ", ".join(f"{name} {value}" for name, value in row["knobs"].items())
    quality = [psnr, f"{fmean(found['ssim']):.4f}", lpips_of(found)]
    return [f"{row['rival']}: {knobs}", _operations(row), f"{median(found['speedup']):.2f}x", *quality]


def _operations(row: Result) -> str:
    """The full run's operations over a row's."""
    return f"{1 / median(row['measured']['flops']):.2f}x"


# Table 3


def gains_of(result: Result) -> dict[str, list[list[float]]]:
    """For each part that the paper adds, how many dB it adds to each prompt: at level `output`, at level `hidden`."""
    found = {row["name"]: row for row in result["rows"]}
    return {
        part.method: [gain(found[part.ours + level], found[before.ours + level]) for level in LEVELS]
        for before, part in pairwise(ABLATION[result["family"]])
    }


def parts(results: Sequence[Result]) -> str:
    """What each part adds to the PSNR, in the paper and here."""
    rows = [
        [
            "adds to the PSNR, dB",
            "",
            "the paper",
            *("here, level `output`", "verdict"),
            "here, level `hidden`",
            "verdict",
        ]
    ]
    against = False
    for result in results:
        published, gains = ABLATION[result["family"]], gains_of(result)
        for before, part in pairwise(published):
            row = [result["model"], part.method, f"{part.psnr - before.psnr:+.2f}"]
            for values in gains[part.method]:
                row += [with_interval(values, "+.2f"), verdict(values)]
                against = against or (part.ours == "offline+time" and verdict(values) == REVERSED)
            rows.append(row)
    return table(rows) + (f"\n\n{AGAINST_TIME}" if against else "")


def ablation(result: Result) -> str:
    """All rows of one pipeline."""
    theirs = {part.ours: part for part in ABLATION[result["family"]]}
    rows = []
    for row, psnr in zip(result["rows"], psnr_cells(result["rows"]), strict=True):
        cells = ["", "-", "-", "-"]
        if part := theirs.get(row["name"]):
            cells = [part.method, f"{part.psnr:.2f}", f"{part.ssim:.4f}", f"{part.lpips:.4f}"]
        rows.append([*cells, row["name"], psnr, f"{fmean(row['ssim']):.4f}", lpips_of(row)])
    heads = ["the paper", "PSNR", "SSIM", "LPIPS", "here", "PSNR (95 %)", "SSIM", "LPIPS"]
    steps = f"{result['computed_steps']} of {result['arguments']['num_inference_steps']}"
    return f"Here {steps} steps are computed.\n\n{table([heads, *rows])}"


# Table 4


def runs_of(result: Result) -> list[Result]:
    """One backbone's runs: on this machine, and at full size on a GPU where that was measured."""
    measured, full = result["measured"], result["full_size"]
    return [measured, full] if full and measured["size"]["name"] != "full" else [measured]


def needs_no_more(run: Result) -> bool:
    """Whether the paper's method needs at most TeaCache's memory."""
    rows = {row["name"]: row for row in run["rows"]}
    return bool(rows["ERTACache, paper, 2x"]["peak_bytes"] <= rows["TeaCache"]["peak_bytes"])


def costs(results: Sequence[Result]) -> str:
    """The paper's two claims about memory and time."""
    rows = [["", "machine", "needs no more memory than TeaCache", "rectification adds to the time"]]
    for result in results:
        for run in runs_of(result):
            found = {row["name"]: row for row in run["rows"]}
            ours, before = found["ERTACache, paper, 2x"], found["ERTACache, offline+time, 2x"]
            added = f"{100 * (ours['seconds'] / before['seconds'] - 1):+.1f} %"
            rows.append([result["family"], run["machine"], held(needs_no_more(run)), added])
    about = (
        "All weights are random. Memory is the peak above the full run's. The paper says that rectification costs less "
        "than 0.5 % of the time; the times here contain timing noise, and the paper's own two rows differ by more."
    )
    return f"{table(rows)}\n\n{filled(about)}"


def cost(result: Result) -> str:
    """All rows of one backbone."""
    return "\n\n".join(_cost(result["family"], run) for run in runs_of(result))


def _cost(family: str, measured: Result) -> str:
    theirs = {row.ours: row for row in COSTS[family]}
    full, lines = theirs["baseline"], []
    for row in measured["rows"]:
        cells = ["", "-", "-", "-"]
        if part := theirs.get(row["name"]):
            cells = [part.method, f"{part.memory - full.memory:+d} MiB", f"{part.latency:.2f} s"]
            cells.append(f"{full.latency / part.latency:.2f}x")
        cells += [row["name"], f"{row['peak_bytes'] / 2**20:+.1f} MiB", f"{row['seconds']:.2f} s"]
        lines.append([*cells, f"{row['speedup']:.2f}x", f"{row['operations']:.2f}x"])
    heads = ["the paper", "memory", "latency", "speedup", "here", "memory", "latency", "speedup", "operations"]
    size = "at the published size" if measured["size"]["name"] == "full" else "scaled down (measured without a GPU)"
    about = f"{measured['model']}, {size}; random weights, {measured['steps']} steps, {measured['machine']}."
    return f"{about}\n\n{table([heads, *lines])}"
