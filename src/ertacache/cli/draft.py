"""``ertacache draft``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ertacache.cli import options
from ertacache.cli.console import say
from ertacache.cli.input_image import read_image
from ertacache.cli.loras import Lora
from ertacache.cli.model_source import AUTO, ModelSource
from ertacache.cli.open_pipeline import open_pipeline
from ertacache.cli.policy_arguments import check_fits
from ertacache.cli.prompt_lines import first_image, read_lines
from ertacache.cli.worker_options import NumWorkers, RayAddress, workers_of
from ertacache.output_paths import checked_folder, checked_output, kept_somewhere


def draft(
    model: options.Model,
    policy: options.PolicyName,
    prompts: options.Prompts = None,
    out: Annotated[Path, typer.Option(help="The draft file to write.")] = Path("draft.safetensors"),
    limit: Annotated[int, typer.Option(min=4, help="Use at most this many prompts.")] = 16,
    by: Annotated[
        str | None,
        typer.Option(
            help="Another policy of the same steps for the second run. Default: one that computes a fifth of them "
            "is calibrated."
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="The folder of `ertacache calibrate --checkpoint`: reuses its full runs.")
    ] = None,
    settings: options.Settings = None,
    image: options.InputImage = None,
    lora: options.Loras = None,
    device: options.Device = AUTO,
    dtype: options.Dtype = AUTO,
    offload: options.Offload = False,
    seed: options.Seed = 0,
    num_workers: NumWorkers = None,
    ray: RayAddress = None,
) -> None:
    """Make the file for `generate --draft`, where a second, cheap run flags pictures that need a look."""
    lines = read_lines(prompts, model)
    loras, picture = tuple(map(Lora.parsed, lora or [])), read_image(image) or first_image(lines)
    checked_output(out, besides=[policy, by, prompts])
    if checkpoint is not None:
        checked_folder(checkpoint)
    from ertacache.calibration.make_draft import draft as make_draft
    from ertacache.sharing import pretrained

    loaded = pretrained(policy)
    other = None if by is None else pretrained(by)
    source = ModelSource(model, device, dtype, loras, picture is not None, offload)
    opened = open_pipeline(source, settings, loaded.asked_steps, picture)
    del opened.arguments["num_inference_steps"]
    check_fits(opened.pipe, loaded)
    lines = (lines or list(opened.embedded.calibration_prompts if opened.embedded else []))[:limit]
    workers = workers_of(num_workers, ray)
    common = {"seed": seed, "checkpoint": checkpoint, "workers": workers, **opened.arguments}
    made = make_draft(opened.shared_by(workers), loaded, lines, by=other, **common)
    say(
        f"drafts compute {len(made.policy.computed_steps)} of {made.policy.num_made_steps} steps; made in "
        f"{made.full_runs:.2f} full runs per prompt"
    )
    kept_somewhere(out, made.save)
    say(f"wrote {out}")
