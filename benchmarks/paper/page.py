"""docs/paper.md, from the figures: each table and figure of the paper beside what was measured here.

python -m benchmarks.paper.page     # anew from benchmarks/results/paper, nothing measured
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.markdown import table
from benchmarks.paper import cost, figures, plots, published, tables
from benchmarks.paper.wording import Result
from ertacache.files import written_whole

HEAD = """# The paper's experiments, measured again

Each table and figure of arXiv 2508.21091 beside what `python -m benchmarks.paper` measured; the figures are in
`benchmarks/results/paper`. The page is written from them, its sentences too.

What differs from the paper in all of it:

- **Weights and sizes.** The pipelines `flux`, `wan`, `cogvideox` and `opensora` are small ones of the same classes,
  trained from nothing ([pipelines.md](pipelines.md)), on clips and pictures of few pixels. Their PSNR is another scale
  than the paper's: compare rows within a table. Published weights are measured by the same code, with
  `--model ID --prompts FILE --steps N`.
- **The formulas.** As printed they do not work (E1 to E5 in [method.md](method.md#errata)); `paper` is the method with
  these mended. E6 remains: where the output is reused, the timestep adjustment makes cached steps as short as it may.
- **Budgets.** The paper gives thresholds λ, which belong to its weights. Here its method gets as many computed steps as
  make its speedup, and each rival the one setting whose operations come nearest to its own.
- **Fewer steps**, which the paper leaves out, stands below: no cache, as many plain steps as a policy computes.
- **Metrics.** VBench needs clips of full size and networks of its own. LPIPS is shown where its weights were on the
  machine. The CLIP column of the paper compares pictures with the full run's, and is not measured.

"Reproduced" means that the 95 % interval of the gain over prompts is above 0, "the other way round" that it is below.
"""


@dataclass(frozen=True)
class Section:
    """One table or figure of the paper.

    Args:
        title: its heading.
        text: what is said of one pipeline's result.
        plot: draws it, if it is drawn from numbers.
    """

    title: str
    text: Callable[[Result], str]
    plot: Callable[[Result, Path], None] | None = None


SECTIONS: Mapping[str, Section] = {
    "table1": Section("Table 1: clips", tables.comparison),
    "table2": Section("Table 2: pictures", tables.comparison),
    "table3": Section("Table 3: the method built up", tables.ablation),
    "table4": Section("Table 4: memory and latency", tables.cost),
    "figure2a": Section("Figure 2a: TeaCache's prediction", figures.distance, plots.distance),
    "figure2b": Section("Figure 2b: trajectories", figures.trajectory, plots.trajectory),
    "figure3": Section("Figure 3: the methods' pictures", figures.pictures),
    "figure4": Section("Figure 4: each part's pictures", figures.pictures),
    "figure5": Section("Figure 5: calibration prompts", figures.sensitivity, plots.sensitivity),
    "figure6": Section("Figure 6: the cache error", figures.error_map, plots.error_map),
}


def write_page(results: Path, page: Path) -> None:
    """Write the page about all figures in ``results``, and its plots beside it."""
    parts = [HEAD]
    for name, section in SECTIONS.items():
        found = [json.loads(path.read_text()) for path in sorted(results.glob(f"{name}-*.json"))]
        if found:
            said = f"The paper: {published.FIGURES[name]}.\n" if name in published.FIGURES else ""
            parts.append(f"## {section.title}\n\n{said}".rstrip() + "\n")
            parts += [_part(name, section, result, results, page) for result in found]
    parts.append(_protocol(results))
    with written_whole(page) as unfinished:
        Path(unfinished).write_text("\n".join(parts))


def _part(name: str, section: Section, result: Result, results: Path, page: Path) -> str:
    """One pipeline's part of a section."""
    image = result.get("image", "")
    if section.plot:
        image = f"paper-{name}-{result['model']}.png"
        section.plot(result, page.parent / "images" / image)
    if name == "table4":
        result = {**result, "full_size": cost.at_full_size(results.parent, result["family"])}
    shown = f"![{section.title}, {result['model']}](images/{image})\n\n" if image else ""
    return f"### {result['model']}\n\n{shown}{section.text(result)}\n"


def _protocol(results: Path) -> str:
    """Under what conditions each pipeline was measured."""
    models: dict[str, Sequence[str]] = {}
    for path in sorted(results.glob("*-*.json")):
        found = json.loads(path.read_text())
        if "counts" in found:
            counts, arguments = found["counts"], found["arguments"]
            scale = arguments.get("true_cfg_scale", arguments.get("guidance_scale", "the pipeline's own"))
            models[found["model"]] = [
                found["model"],
                str(arguments["num_inference_steps"]),
                str(scale),
                str(counts["calibration"]),
                str(counts["held_out"]),
                f"{found['machine']}, torch {found['torch']}, diffusers {found['diffusers']}",
            ]
    heads = ["", "T", "guidance", "calibration prompts", "held-out prompts", "machine"]
    return f"## How it was measured\n\n{table([heads, *list(models.values())])}\n"


if __name__ == "__main__":
    write_page(Path("benchmarks/results/paper"), Path("docs/paper.md"))
