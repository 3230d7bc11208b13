"""Writes docs/records/paper.md from the stored figures: the paper's tables and figures beside what was measured here.

python -m benchmarks.paper.page     # write the page again from benchmarks/results/paper; measures nothing
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.markdown import table
from benchmarks.paper import cost, figures, plots, published, tables
from benchmarks.paper.claims import Results, conclusion
from benchmarks.paper.wording import Result, filled
from ertacache.files import written_whole

TITLE = "# The paper's experiments, measured again\n"


SMALL = ("emoji", "flux", "wan", "cogvideox", "opensora")
MEASURED = """`emoji`, `flux`, `wan`, `cogvideox` and `opensora` are small pipelines that this project trained. `emoji`
draws real pictures of 64 x 64 pixels by captions that leave most of them open, with guidance 8 and no shift: there
fewer steps make other pictures ([regime.md](../understand/regime.md)). The others draw what a caption says in full,
pictures of 96 x 96 pixels and clips of 48 x 48 ([pipelines.md](pipelines.md)), and half of the steps do. Table 4 uses
random weights."""


HEAD = """*Reproduced*: the 95 % interval of the gain over prompts lies above 0. *Reversed*: it lies below 0.
*Inconclusive*: it contains 0. Memory and Figures 2 and 6 have no interval; there the figure itself decides. Each cell
is one check. Where it covers two budgets, levels or machines, a verdict that both share stands once; two different
verdicts would both be listed, and such a cell does not count as reproduced.

Each table and figure of arXiv 2508.21091 stands beside what `python -m benchmarks.paper` measured. Text and tables are
written from the figures in `benchmarks/results/paper`.

What differs from the paper:

- **Weights and sizes.** The small models' PSNR is on another scale than the paper's: compare rows within a table.
  `--model ID --prompts FILE --steps N` runs the same code on published weights.
- **Formulas.** As printed they do not work (E1 to E5 in [method.md](method.md#errata)); `paper` is the method with
  these corrected. Erratum E6 is kept as printed: where the output is reused, the timestep adjustment shortens cached
  steps to the least length allowed.
- **Budgets.** The rows of Tables 1 and 2 are *not at equal cost*: compare their column "operations" first. The paper's
  thresholds λ belong to its weights, so its method gets a number of computed steps instead: all steps over the paper's
  speedup, rounded down. Each rival runs at the setting whose operations come nearest to the rival's speedup in the
  paper. Only `aligned` and fewer steps, below each row of the paper's method, cost the same as that row.
  [results.md](results.md) compares at equal cost.
- **Fewer steps**, which the paper leaves out, is the baseline without a cache: as many plain steps as a policy
  computes.
- **Metrics.** VBench needs clips of full size and networks of its own. LPIPS is shown where its weights were on the
  machine. The paper's CLIP column compares pictures with the full run's, and is not measured.
"""


@dataclass(frozen=True)
class Section:
    """One table or figure of the paper.

    Args:
        title: its heading.
        summary: what all pipelines' results come to; "" where there is nothing to sum up.
        each: one pipeline's rows; "" where the summary has them.
        plot: draws one pipeline's figure, if it is drawn from numbers.
    """

    title: str
    summary: Callable[[Sequence[Result]], str] = lambda results: ""
    each: Callable[[Result], str] = lambda result: ""
    plot: Callable[[Result, Path], None] | None = None


SECTIONS: Mapping[str, Section] = {
    "table1": Section("Table 1: clips", tables.leads, tables.comparison),
    "table2": Section("Table 2: pictures", tables.leads, tables.comparison),
    "table3": Section("Table 3: the method built up", tables.parts, tables.ablation),
    "table4": Section("Table 4: memory and latency", tables.costs, tables.cost),
    "figure2a": Section("Figure 2a: TeaCache's prediction", figures.distance, plot=plots.distance),
    "figure2b": Section("Figure 2b: trajectories", figures.trajectory, plot=plots.trajectory),
    "figure3": Section("Figure 3: the methods' pictures", each=figures.pictures),
    "figure4": Section("Figure 4: each part's pictures", each=figures.pictures),
    "figure5": Section("Figure 5: calibration prompts", figures.sensitivity, plot=plots.sensitivity),
    "figure6": Section("Figure 6: the cache error", figures.error_map, plot=plots.error_map),
}


def write_page(results: Path, page: Path) -> None:
    """Write the page about all figures in ``results``, and its plots beside it."""
    found = {name: _read(name, results) for name in SECTIONS}
    only_small = all(result["model"] in SMALL for results in found.values() for result in results)
    about = f"{MEASURED} No figure here is from published weights." if only_small else MEASURED
    parts = [TITLE, conclusion(found, about), HEAD]
    for name, section in SECTIONS.items():
        if found[name]:
            said = filled(f"The paper: {published.FIGURES[name]}.") if name in published.FIGURES else ""
            parts += [f"## {section.title}\n", _paragraph(said), _paragraph(section.summary(found[name]))]
            parts += [_part(name, section, result, page) for result in found[name]]
    parts.append(_protocol(found))
    with written_whole(page) as unfinished:
        Path(unfinished).write_text("\n".join(part for part in parts if part))


def _read(name: str, results: Path) -> list[Result]:
    """One table's or figure's results, a pipeline each."""
    found = [json.loads(path.read_text()) for path in sorted(results.glob(f"{name}-*.json"))]
    if name == "table4":
        return [{**result, "full_size": cost.at_full_size(results.parent, result["family"])} for result in found]
    return found


def _part(name: str, section: Section, result: Result, page: Path) -> str:
    """One pipeline's part of a section: its picture and its rows."""
    image = result.get("image", "")
    if section.plot:
        image = f"paper-{name}-{result['model']}.png"
        section.plot(result, page.parent / "images" / image)
    shown = f"![{section.title}, {result['model']}](images/{image})\n" if image else ""
    rows = section.each(result)
    return "\n".join(filter(None, [f"### {result['model']}\n", shown, _paragraph(rows)])) if rows else shown


def _paragraph(text: str) -> str:
    return f"{text}\n" if text else ""


def _protocol(found: Results) -> str:
    """Under what conditions each pipeline was measured."""
    models: dict[str, Sequence[str]] = {}
    for result in (result for results in found.values() for result in results if "counts" in result):
        counts, arguments = result["counts"], result["arguments"]
        scale = arguments.get("true_cfg_scale", arguments.get("guidance_scale", "the pipeline's own"))
        models[result["model"]] = [
            result["model"],
            str(arguments["num_inference_steps"]),
            str(scale),
            str(counts["calibration"]),
            str(counts["held_out"]),
            f"{result['machine']}, torch {result['torch']}, diffusers {result['diffusers']}",
            f"{result['seed']} + k",
        ]
    heads = ["", "T", "guidance", "calibration prompts", "held-out prompts", "machine", "seed of prompt k"]
    return f"## How it was measured\n\n{table([heads, *(models[name] for name in sorted(models))])}\n"


if __name__ == "__main__":
    write_page(Path("benchmarks/results/paper"), Path("docs/records/paper.md"))
