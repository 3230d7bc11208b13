"""The paper's tables and figures as commands.

    python -m benchmarks.paper                      # all of it on the small pipelines; hours, and resumable
    python -m benchmarks.paper table3 figure5 --model zoo:flux
    python -m benchmarks.paper table2 --model black-forest-labs/FLUX.1-dev --prompts prompts.txt --steps 30 \\
        --set guidance_scale=3.5 --device cuda --dtype bfloat16
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks.keys import environment
from benchmarks.paper import (
    ablation,
    comparison,
    cost,
    distances,
    error_maps,
    pictures,
    sensitivity,
    trajectories,
)
from benchmarks.paper.opening import family_of, open_pipeline
from benchmarks.paper.page import write_page
from benchmarks.paper.pipelines import QUICK, Counts, Opened
from ertacache import zoo
from ertacache.cli.one_line_errors import one_line_errors
from ertacache.files import written_whole

CLIPS, PICTURES, ALL = ("wan", "cogvideox", "opensora"), ("flux",), ("flux", "wan", "cogvideox", "opensora")


@dataclass(frozen=True)
class Experiment:
    """A table or figure.

    Args:
        run: the measurement.
        families: the backbones that the paper shows it for; all of them if the paper does not say.
        in_quick: the backbones on which ``--quick`` runs it.
    """

    run: Callable[[Opened], dict[str, Any]]
    families: Sequence[str]
    in_quick: Sequence[str] = ("flux", "wan")


EXPERIMENTS: Mapping[str, Experiment] = {
    "table1": Experiment(comparison.run, CLIPS),
    "table2": Experiment(comparison.run, PICTURES),
    "table3": Experiment(ablation.run, ("flux", "wan"), in_quick=("flux",)),
    "table4": Experiment(cost.run, ("flux", "opensora")),
    "figure2a": Experiment(distances.run, ALL, in_quick=("flux",)),
    "figure2b": Experiment(trajectories.run, ALL),
    "figure3": Experiment(pictures.compared, ALL),
    "figure4": Experiment(pictures.strategies, ("flux", "wan"), in_quick=("flux",)),
    "figure5": Experiment(sensitivity.run, ("flux", "wan"), in_quick=("flux",)),
    "figure6": Experiment(error_maps.run, ALL),
}


def made(name: str, opened: Opened, out: Path) -> Path:
    """Measure one table or figure on one pipeline, unless it was measured before, and write its figures."""
    experiment, path = EXPERIMENTS[name], out / f"{name}-{opened.name}.json"
    code = Path(str(sys.modules[experiment.run.__module__].__file__)).read_bytes()
    key = f"{opened.key}-{hashlib.sha256(code).hexdigest()[:12]}"
    if path.exists():
        found = json.loads(path.read_text())
        if found["key"] == key and ("image" not in found or (opened.images / found["image"]).exists()):
            opened.console.print(f"{opened.name}: {name} is there", style="dim")
            return path
    result = {
        **environment(),
        "key": key,
        "experiment": name,
        "model": opened.name,
        "family": opened.family,
        "arguments": opened.embedded.arguments,
        "counts": asdict(opened.counts),
        "seed": opened.seed,
        **experiment.run(opened),
    }
    with written_whole(path) as unfinished:
        Path(unfinished).write_text(json.dumps(result, indent=1) + "\n")
    opened.console.print(f"wrote {path}", highlight=False)
    return path


def main(
    experiments: Annotated[
        list[str] | None, typer.Argument(help=f"of {', '.join(EXPERIMENTS)}; by default all")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="zoo:flux, ..., a diffusers folder or a hub id; by default all small ones")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="for a model with no prompts of its own: half of the lines calibrate")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="an argument of every call")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="num_inference_steps")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16")] = "float32",
    seed: Annotated[int, typer.Option(help="of the first held-out prompt")] = 1000,
    out: Annotated[Path | None, typer.Option(help="figures, as JSON; benchmarks/results/paper, if not --quick")] = None,
    page: Annotated[Path | None, typer.Option(help="docs/records/paper.md, if not --quick")] = None,
    work: Annotated[Path, typer.Option(help="policies and unfinished measurements")] = Path("out/paper"),
    quick: Annotated[
        bool, typer.Option("--quick", help="two prompts, six steps, flux and wan: a check, no figures")
    ] = False,
) -> None:
    """Measure the paper's tables and figures, and write the page about them."""
    console = Console()
    out = out or (work / "quick/results/paper" if quick else Path("benchmarks/results/paper"))
    page = page or (work / "quick/paper.md" if quick else Path("docs/records/paper.md"))
    for name in experiments or ():
        if name not in EXPERIMENTS:
            raise typer.BadParameter(f"there is no {name!r}; choose among {', '.join(EXPERIMENTS)}")
    counts = QUICK if quick else Counts()
    models = model or [f"zoo:{name}" for name in zoo.available() if not quick or name in ("flux", "wan")]
    with one_line_errors():
        for one in models:
            name, embedded = open_pipeline(
                one,
                prompts=prompts,
                settings=settings,
                steps=steps,
                device=device,
                dtype=dtype,
                calibration=counts.calibration,
            )
            if quick:
                embedded = replace(embedded, calibration_prompts=embedded.calibration_prompts[:2])
                embedded.arguments["num_inference_steps"] = QUICK.steps
            family = family_of(embedded.pipe)
            opened = Opened(name, family, embedded, counts, seed, work, page.parent / "images", console)
            for wanted in experiments or [n for n, e in EXPERIMENTS.items() if not quick or family in e.in_quick]:
                if family in EXPERIMENTS[wanted].families:
                    made(wanted, opened, out)
                elif experiments:
                    console.print(f"{name}: the paper does not show {wanted} for it", style="dim")
            write_page(out, page)
    console.print(f"wrote {page}", highlight=False)


if __name__ == "__main__":
    typer.run(main)
