"""Tables and the plot of what each full run brings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.figure import Figure

from benchmarks.cost.measuring import FEWER, RIVALS, SPEEDUPS, TOTALS
from benchmarks.markdown import table
from ertacache.presenting.plot_style import COMPUTED, save_figure

MARKERS = ("s", "^", "v", "D", "P", "X", "<", ">", "*", "h", "p", "d", "H", "8", "1")


def paired(row: Mapping[str, Sequence[float] | None]) -> dict[str, float | None]:
    """Mean PSNR in dB of each way, over the prompts that all of them had: the first ones. None for none."""
    had = min(len(values) for values in row.values() if values)
    return {name: fmean(values[:had]) if values else None for name, values in row.items()}


def ours_table(results: Sequence[Mapping[str, Any]]) -> str:
    """A row for each pipeline and ratio: fewer steps, and ours by full runs."""
    names = ["0", "1", *map(str, TOTALS)]
    lines = [["pipeline", "step ratio", "fewer steps", "instant: 0", "learnt: 1", *names[2:]]]
    for result in results:
        for speedup, psnr in result["psnr"].items():
            lines.append([result["model"], f"{speedup}x", *(f"{fmean(psnr[name]):.1f}" for name in (FEWER, *names))])
    return table(lines)


def rivals_table(results: Sequence[Mapping[str, Any]]) -> str:
    """A row for each way and its cost, a column for each pipeline and ratio; the best of each cost or less in bold."""
    ratios = [f"{speedup:g}" for speedup in SPEEDUPS[:3]]
    places = [(result, ratio) for result in results for ratio in ratios]
    ways = {"ERTACache, instant": ("0", 0), "ERTACache, learnt": ("1", 1), "ERTACache, calibrated": ("10", 10)}
    seen = {name for result, ratio in places for name in result["psnr"][ratio]}
    rivals = {rival.name: (rival.name, cost) for rival, cost in RIVALS.items() if rival.name in seen}
    ways |= {FEWER: (FEWER, 0)} | rivals
    lines = [["", "full runs", *(f"{result['model']} {ratio}x" for result, ratio in places)]]
    means = [paired(result["psnr"][ratio]) for result, ratio in places]
    for name, (key, cost) in sorted(ways.items(), key=lambda way: way[1][1]):
        cells = []
        for row in means:
            value = row.get(key)
            rest = [row.get(other) for other, at_most in ways.values() if at_most <= cost]
            best = value is not None and value >= max(v for v in rest if v is not None)
            shown = "-" if value is None else f"{value:.1f}"
            cells.append(f"**{shown}**" if best else shown)
        lines.append([name, str(cost), *cells])
    return table(lines)


def drawn(results: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Quality against full runs, a panel for each pipeline at 2x and 3x, rivals as points at their cost."""
    figure = Figure(figsize=(3.1 * len(results), 5.6), layout="constrained")
    axes = figure.subplots(2, len(results), squeeze=False, sharex=True)
    totals = (0, 1, *TOTALS)
    for column, result in enumerate(results):
        for row, ratio in enumerate(("2", "3")):
            axis, psnr = axes[row][column], paired(result["psnr"][ratio])
            axis.plot(totals, [psnr[str(total)] for total in totals], "o-", color=COMPUTED, label="ERTACache")
            axis.axhline(psnr[FEWER], color="black", linestyle=":", label=FEWER)
            for number, (rival, cost) in enumerate(RIVALS.items()):
                value, look = psnr.get(rival.name), {"color": f"C{number % 10}", "alpha": 0.8}
                if value is not None:
                    axis.plot(cost, value, MARKERS[number], label=rival.name, **look)
            axis.set_xscale("symlog", linthresh=1)
            axis.set_xticks([0, 1, 2, 4, 10, 20, 40, 80], ["0", "1", "2", "4", "10", "20", "40", "80"], fontsize=8)
            axis.minorticks_off()
            axis.set_title(f"{result['model']}, {ratio}x", fontsize=10)
    for axis in axes[:, 0]:
        axis.set_ylabel("PSNR against the full run, dB", fontsize=9)
    for axis in axes[1]:
        axis.set_xlabel("full runs before acceleration", fontsize=9)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=8, frameon=False)
    save_figure(figure, path, dpi=110)


def worth(results: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """By step ratio and full runs: how many dB the most expensive calibration brings over these, in the mean."""
    most = str(max(TOTALS))
    return {
        f"{speedup:g}": {
            str(total): round(
                fmean(
                    fmean(result["psnr"][f"{speedup:g}"][most]) - fmean(result["psnr"][f"{speedup:g}"][str(total)])
                    for result in results
                ),
                2,
            )
            for total in (1, *TOTALS[:-1])
        }
        for speedup in SPEEDUPS
    }


def worth_table(results: Sequence[Mapping[str, Any]]) -> str:
    """A row for each step ratio, a column for each number of full runs."""
    found = worth(results)
    totals = list(next(iter(found.values())))
    rows = [[f"{ratio}x", *(f"{values[total]:z.1f}" for total in totals)] for ratio, values in found.items()]
    return table([["step ratio", *totals], *rows])
