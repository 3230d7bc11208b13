"""A contact sheet of a picture pipeline: one picture of each of its first held-out prompts, in full.

python -m training.sheet emoji docs/images/emoji.png
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Annotated

import torch
import typer
from matplotlib.figure import Figure

from ertacache import zoo
from ertacache.evaluation.comparison import Variant, calls_of, generate, started
from ertacache.presenting.plot_style import LITERAL, save_figure


def main(
    name: Annotated[str, typer.Argument(help="a small pipeline of pictures")],
    out: Annotated[Path, typer.Argument(help="the PNG file")],
    prompts: Annotated[int, typer.Option(help="held-out prompts")] = 48,
    columns: int = 8,
    seed: Annotated[int, typer.Option(help="of the first prompt")] = 1000,
) -> None:
    """Generate, and write the sheet."""
    torch.set_num_threads(1)
    embedded = zoo.load(name)
    steps = embedded.arguments["num_inference_steps"]
    calls = calls_of(embedded.arguments, embedded.held_out_prompts[:prompts], seed)
    rows = -(-len(calls) // columns)
    figure = Figure(figsize=(1.3 * columns, 1.75 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for number, (axis, call) in enumerate(zip(axes.flat, calls, strict=False)):
        picture = generate(embedded.pipe, Variant("full", steps), started(call)).pictures[0]
        axis.imshow(picture.clamp(0, 1).permute(1, 2, 0).numpy(), interpolation="nearest")
        caption = textwrap.fill(f"{number + 1}. {call['prompt']}", 25)
        axis.set_title(caption, fontsize=6, y=-0.1, va="top", **LITERAL)
    save_figure(figure, out, dpi=110)


if __name__ == "__main__":
    typer.run(main)
