"""The command line of this benchmark: ``python -m benchmarks.vbench --help``."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

from benchmarks.vbench import clips, layout, runner
from benchmarks.vbench import scores as scoring
from benchmarks.vbench.dimensions import DIMENSIONS, VBenchError, checked
from ertacache import Policy
from ertacache.cli import options
from ertacache.cli.model_source import ModelSource
from ertacache.cli.one_line_errors import one_line_errors
from ertacache.cli.open_pipeline import open_pipeline
from ertacache.evaluation.comparison import Variant, generate, started
from ertacache.files import written_whole

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode="markdown")
console = Console()

Dimensions = Annotated[
    list[str] | None, typer.Option("--dimension", help="Only this dimension. Repeatable.", metavar="NAME")
]
Python = Annotated[
    str,
    typer.Option(
        help="The Python interpreter of the environment that has the package vbench.", show_default="this one"
    ),
]
StaticFilter = Annotated[
    bool,
    typer.Option(help="Temporal flickering on clips that stand still, looked for among 25 of each prompt, as VBench."),
]


@app.callback()
def main() -> None:
    """VBench's scores of a pipeline in full, with fewer steps, and by a policy.

    VBench judges generated clips in sixteen dimensions. Its package `vbench` needs older libraries than this one and a
    CUDA device, so install it into an environment of its own (`pip install vbench`; four dimensions also need
    detectron2, see its README). Then, for each way to generate, export clips and run VBench on them:

        python -m benchmarks.vbench export MODEL --steps 50 --out out/full --python VENV/bin/python

        python -m benchmarks.vbench export MODEL --policy FILE --out out/aligned --python VENV/bin/python

        python -m benchmarks.vbench run out/full --python VENV/bin/python

        python -m benchmarks.vbench run out/aligned --python VENV/bin/python

        python -m benchmarks.vbench scores out/full out/aligned

    The whole of it is 6220 clips for each way; `--prompts 2` and `--dimension NAME` make it shorter. Every command
    goes on where it was interrupted.
    """


@app.command()
def export(
    model: options.Model,
    out: Annotated[Path, typer.Option(help="Folder for the clips, one for each way to generate.")],
    policy: Annotated[
        Path | None, typer.Option(help="The policy to follow; without it every step is computed.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="num_inference_steps; a policy brings its own.")] = None,
    dimension: Dimensions = None,
    prompts: Annotated[
        int | None, typer.Option(min=1, help="A short form: only so many prompts of each dimension.")
    ] = None,
    prompt_list: Annotated[
        Path | None, typer.Option(help="VBench_full_info.json; by default that of the package of --python.")
    ] = None,
    python: Python = sys.executable,
    static_filter: StaticFilter = True,
    fps: Annotated[
        int, typer.Option(min=1, help="The model's own: 16 of Wan, 8 of CogVideoX, 24 of Open-Sora. It is judged too.")
    ] = 16,
    settings: options.Settings = None,
    device: options.Device = "cpu",
    dtype: options.Dtype = "float32",
    seed: Annotated[int, typer.Option(help="Another one gives other noise; compare ways with the same.")] = 0,
) -> None:
    """Generate the clips that VBench wants; those that are there are left."""
    with one_line_errors():
        wanted = checked(dimension or [])
        entries = layout.chosen(layout.read_prompts(prompt_list or runner.prompt_list_of(python)), wanted, prompts)
        loaded = Policy.load(policy) if policy is not None else None
        steps = steps or (loaded.num_inference_steps if loaded else None)
        opened = open_pipeline(ModelSource(model, device, dtype), settings, steps)
        pipe, arguments = opened.pipe, opened.arguments
        num_steps = arguments.pop("num_inference_steps")
        variant = Variant(policy.stem if policy else "full", num_steps, policy=loaded)
        what = {"model": model, "steps": num_steps, "arguments": arguments, "dtype": dtype, "seed": seed, "fps": fps}
        digest = hashlib.sha256(policy.read_bytes()).hexdigest() if policy else None
        layout.claim(out, {**what, "policy": digest}, entries)
        samples = layout.samples_of(entries, seed=seed, to_filter=static_filter)

        def clip_of(sample: layout.Sample) -> Any:
            call = started({**arguments, "prompt": sample.prompt, "seed": sample.seed})
            return _frames(generate(pipe, variant, call).pictures)

        columns = (*Progress.get_default_columns()[:-1], MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task("generating", total=len(samples))
            made = clips.export(samples, clip_of, out / layout.VIDEOS, fps=fps, on_clip=lambda: progress.advance(task))
    _say(f"{made} clips made, {len(samples) - made} found in {out / layout.VIDEOS}")


@app.command()
def run(
    folder: Annotated[Path, typer.Argument(help="What `export` wrote.")],
    python: Python = sys.executable,
    dimension: Dimensions = None,
    static_filter: StaticFilter = True,
) -> None:
    """Let VBench judge exported clips in every dimension that uses them; needs a CUDA device.

    A dimension that has a result for these prompts is left. One that fails does not keep the others from being judged.
    The static filter needs weights that the package downloads only when it judges dynamic_degree; that one goes first.
    """

    def tell(name: str, found: bool) -> None:
        _say(f"{name}: {'judged before' if found else 'judged'}")

    with one_line_errors():
        there = {name for entry in layout.read_prompts(folder / layout.PROMPTS) for name in entry["dimension"]}
        wanted = checked(dimension) if dimension else [name for name in DIMENSIONS if name in there]
        runner.evaluate(folder, wanted, python, static_filter=static_filter, on_dimension=tell)


@app.command()
def scores(
    runs: Annotated[
        list[str], typer.Argument(help="Folders that were `run`, or result files; NAME=FOLDER names the column.")
    ],
    out: Annotated[Path | None, typer.Option(help="Also write the table there, as Markdown.")] = None,
) -> None:
    """Show the total, quality and semantic score and every dimension, of several runs side by side."""
    with one_line_errors():
        named = dict(_named(text) for text in runs)
        if len(named) < len(runs):
            raise VBenchError("two runs have one name", given=", ".join(runs), cure="Name them: NAME=FOLDER.")
        table = scoring.markdown_of({name: scoring.read_scores(where) for name, where in named.items()})
        for name, where in named.items():
            if (where / layout.PROMPTS).exists() and layout.shortened(layout.read_prompts(where / layout.PROMPTS)):
                table += f"\n\n{name} is of a part of the prompts; it compares with no published score."
        if out is not None:
            with written_whole(out) as unfinished:
                Path(unfinished).write_text(table + "\n", encoding="utf-8")
    _say(table)


def _frames(pictures: torch.Tensor) -> Any:
    """(1, frames, channels, height, width) as a clip, (frames, height, width, channels)."""
    if pictures.ndim != 5:
        raise VBenchError("VBench judges clips", given="a model of pictures", cure="Give a model of clips.")
    return pictures[0].permute(0, 2, 3, 1)


def _named(text: str) -> tuple[str, Path]:
    name, equals, where = text.partition("=")
    return (name, Path(where)) if equals else (Path(text).stem, Path(text))


def _say(text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)


if __name__ == "__main__":
    app(prog_name="python -m benchmarks.vbench")
