"""What the page says of Tables 1 to 4: ours beside the paper's, and sentences that follow from the figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import fmean, median

from benchmarks.markdown import table, with_interval
from benchmarks.paper.published import ABLATION, COMPARISONS, COSTS, FULL_RUN_LATENCY, TITLES, Part
from benchmarks.paper.wording import Result, best_first, gain, lpips_of, verdict

AGAINST_TIME = (
    "Why the timestep adjustment takes quality away, erratum E6 says: where the output is reused, the coefficient of "
    "Eq. (13) is near 0, so cached steps nearly stand still while the others grow longer."
)


def comparison(result: Result) -> str:
    """One pipeline of Table 1 or 2."""
    family = result["family"]
    published = {row.method: row for row in COMPARISONS[family]}
    rows = []
    for row in result["rows"]:
        cells, theirs = [row["method"], *["-"] * 4], published.get(row["method"])
        if theirs:
            cells[1:] = f"{theirs.speedup:.2f}x", f"{theirs.psnr:.2f}", f"{theirs.ssim:.4f}", f"{theirs.lpips:.4f}"
        rows.append(cells + _measured(row))
    heads = ["", "paper: speedup", "PSNR", "SSIM", "LPIPS", "here: what runs"]
    heads += ["operations", "speedup", "PSNR (95 %)", "SSIM", "LPIPS"]
    paper = f"The paper: {TITLES[family]}, {FULL_RUN_LATENCY[family]:g} s in full on an A800."
    return f"{paper}\n\n{table([heads, *rows])}\n\n{_compared(result)}"


def _measured(row: Result) -> list[str]:
    if row["refused"]:
        return [f"not here: {row['refused']}", *["-"] * 5]
    found, knobs = row["measured"], ", ".join(f"{name} {value}" for name, value in row["knobs"].items())
    return [
        f"{row['rival']}: {knobs}",
        _operations(row),
        f"{median(found['speedup']):.2f}x",
        with_interval(found["psnr"]),
        f"{fmean(found['ssim']):.4f}",
        lpips_of(found),
    ]


def _operations(row: Result) -> str:
    """The full run's over a row's."""
    return f"{1 / median(row['measured']['flops']):.2f}x"


def _compared(result: Result) -> str:
    """At each of the paper's speedups: its lead over TeaCache there and here, and the order of the rows here."""
    published = {row.method: row for row in COMPARISONS[result["family"]]}
    ran = [row for row in result["rows"] if not row["refused"]]
    rivals = [row for row in ran if row["rival"] == "TeaCache"]
    sentences = []
    for row in ran:
        if row["rival"] != "ERTACache, as published":
            continue
        rival = min(rivals, key=lambda other: abs(other["wanted"] - row["wanted"]))
        lead = published[row["method"]].psnr - published[rival["method"]].psnr
        here = gain(row["measured"], rival["measured"])
        same = [other for other in ran if other["wanted"] == row["wanted"] and other["rival"] != "TeaCache"]
        computed = row["knobs"]["num_computed_steps"]
        sentences += [
            f"{row['method']} leads {rival['method']} by {lead:.1f} dB in the paper, here by "
            f"{with_interval(here, '+.1f')}, with operations saved {_operations(row)} and {_operations(rival)}: "
            f"{verdict(here)}.",
            f"With {computed} computed steps, best first, dB: "
            f"{best_first({other['rival']: other['measured']['psnr'] for other in same})}.",
        ]
    best = max(ran, key=lambda row: fmean(row["measured"]["psnr"]))
    sentences.append(f"Of all rows {best['rival']} at {_operations(best)} has the highest PSNR.")
    return " ".join(sentences)


def ablation(result: Result) -> str:
    """One pipeline of Table 3."""
    found = {row["name"]: row for row in result["rows"]}
    theirs = {part.ours: part for part in ABLATION[result["family"]]}
    rows = []
    for name, row in found.items():
        cells = ["", "-", "-", "-"]
        if part := theirs.get(name):
            cells = [part.method, f"{part.psnr:.2f}", f"{part.ssim:.4f}", f"{part.lpips:.4f}"]
        rows.append([*cells, name, with_interval(row["psnr"]), f"{fmean(row['ssim']):.4f}", lpips_of(row)])
    heads = ["the paper", "PSNR", "SSIM", "LPIPS", "here", "PSNR (95 %)", "SSIM", "LPIPS"]
    steps = f"{result['computed_steps']} of {result['arguments']['num_inference_steps']}"
    return f"Here {steps} steps are computed.\n\n{table([heads, *rows])}\n\n{_built_up(found, list(theirs.values()))}"


def _built_up(found: Mapping[str, Result], parts: Sequence[Part]) -> str:
    """What each part adds, there and here."""
    rows, against = [], False
    for before, part in pairwise(parts):
        row = [part.method, f"{part.psnr - before.psnr:+.2f}"]
        for ending in ("", ", hidden"):
            values = gain(found[part.ours + ending], found[before.ours + ending])
            against = against or (part.ours == "offline+time" and verdict(values) == "the other way round")
            row += [with_interval(values, "+.2f"), verdict(values)]
        rows.append(row)
    heads = ["adds to the PSNR, dB", "the paper", "here, level `output`", "", "here, level `hidden`", ""]
    order = best_first({name: row["psnr"] for name, row in found.items()})
    return f"{table([heads, *rows])}\n\nBest first, dB: {order}.{' ' + AGAINST_TIME if against else ''}"


def cost(result: Result) -> str:
    """One backbone of Table 4; also at full size, where that was measured."""
    found = [result["measured"]]
    if result["full_size"] and found[0]["size"]["name"] != "full":
        found.append(result["full_size"])
    return "\n\n".join(_cost(result["family"], measured) for measured in found)


def _cost(family: str, measured: Result) -> str:
    rows = {row["name"]: row for row in measured["rows"]}
    theirs = {row.ours: row for row in COSTS[family]}
    full, lines = theirs["baseline"], []
    for name, row in rows.items():
        cells = ["", "-", "-", "-"]
        if part := theirs.get(name):
            cells = [part.method, f"{part.memory - full.memory:+d} MiB", f"{part.latency:.2f} s"]
            cells.append(f"{full.latency / part.latency:.2f}x")
        cells += [name, f"{row['peak_bytes'] / 2**20:+.1f} MiB", f"{row['seconds']:.2f} s"]
        lines.append([*cells, f"{row['speedup']:.2f}x", f"{row['operations']:.2f}x"])
    heads = ["the paper", "memory", "latency", "speedup", "here", "memory", "latency", "speedup", "operations"]
    published = measured["size"]["name"] == "full"
    size = "at the published size" if published else "scaled down, since there is no GPU"
    about = f"{measured['model']}, {size}; random weights, {measured['steps']} steps, {measured['machine']}."
    return f"{about}\n\n{table([heads, *lines])}\n\n{_costs(rows)}"


def _costs(rows: Mapping[str, Result]) -> str:
    ours, timed, rival = (rows[n] for n in ("ERTACache, paper, 2x", "ERTACache, offline+time, 2x", "TeaCache"))
    less = ours["peak_bytes"] <= rival["peak_bytes"]
    added = 100 * (ours["seconds"] / timed["seconds"] - 1)
    return (
        "Memory is the peak above the full run's. The paper says that its method needs no more than TeaCache: "
        f"{'reproduced' if less else 'not reproduced'}. It says that rectification costs less than 0.5 % of the time; "
        f"here the row with it took {added:+.1f} %, timing noise included (the paper's own two rows differ by more)."
    )
