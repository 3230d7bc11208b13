"""``ertacache evaluate``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ertacache.cli import options
from ertacache.cli.console import console, say
from ertacache.cli.evaluated_inputs import inputs_of
from ertacache.cli.input_image import read_image
from ertacache.cli.json_file import write_json
from ertacache.cli.loras import Lora
from ertacache.cli.model_source import AUTO, ModelSource
from ertacache.cli.open_pipeline import open_pipeline
from ertacache.cli.policy_arguments import check_fits, check_uncalibrated, policy_of, short_name
from ertacache.cli.prompt_lines import first_image, read_lines, texts_of
from ertacache.cli.worker_options import NumWorkers, RayAddress, workers_of
from ertacache.errors import ArgumentError
from ertacache.output_paths import checked_folder, checked_output, kept_somewhere

if TYPE_CHECKING:
    from ertacache.evaluation.harness import Measured
    from ertacache.evaluation.uncalibrated import Judged
    from ertacache.policy import Policy
    from ertacache.presenting.evaluation_report import Evaluation


def evaluate(
    model: options.Model,
    policies: Annotated[
        list[str] | None,
        typer.Argument(help="Policy files or Hub ids, all for the same number of steps; none with --speedup alone."),
    ] = None,
    speedup: Annotated[
        float | None,
        typer.Option(help="Measure an instant policy of this speedup: it needs no file. Policies may stand beside it."),
    ] = None,
    learn: Annotated[
        Path | None,
        typer.Option(help="With --speedup: measure what a folder of `generate --learn` knows of this setting."),
    ] = None,
    steps: options.Steps = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="A text file with one prompt per line, or JSON lines (see calibrate), none of them used in "
            "calibration. The small pipelines have their own."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="The figures per prompt, as JSON.")] = Path("evaluation.json"),
    report: Annotated[
        Path | None, typer.Option(help="The HTML page with figures and pictures. Default: next to --out.")
    ] = None,
    show: Annotated[
        int, typer.Option(min=0, help="How many prompts the page shows, worst first; each is generated once more.")
    ] = 6,
    fps: options.FPS = 16,
    limit: Annotated[int, typer.Option(min=1, help="Use at most this many prompts.")] = 32,
    work: Annotated[
        Path, typer.Option(help="A folder for unfinished measurements, so that an interrupted run resumes.")
    ] = Path("out/evaluate"),
    settings: options.Settings = None,
    image: options.InputImage = None,
    lora: options.Loras = None,
    any_lora: options.AnyLora = False,
    device: options.Device = AUTO,
    dtype: options.Dtype = AUTO,
    offload: options.Offload = False,
    seed: options.Seed = 1000,
    quick: Annotated[bool, typer.Option("--quick", help="Two prompts only: a check, not a measurement.")] = False,
    num_workers: NumWorkers = None,
    ray: RayAddress = None,
) -> None:
    """Measure what policies, or a speedup without one, cost in quality and save, against full runs and fewer steps."""
    files = policies or []
    _check_asked(files, speedup, learn)
    lines = read_lines(prompts, model)
    loras, given = tuple(map(Lora.parsed, lora or [])), read_image(image)
    picture = given or first_image(lines)
    page = report or out.with_suffix(".html")
    _check_outputs(out, page, work, [*files, prompts])
    from ertacache.evaluation.comparison import calls_of
    from ertacache.evaluation.evaluate import as_json
    from ertacache.evaluation.evaluate import evaluate as run_evaluation
    from ertacache.evaluation.uncalibrated import followed, uncalibrated, uncalibrated_name
    from ertacache.presenting.evaluation_report import Evaluation
    from ertacache.presenting.tables import evaluation_table
    from ertacache.presenting.ways import ways_of

    loaded = _load(files, any_lora, *([] if speedup is None else [uncalibrated_name(speedup, learn)]))
    source = ModelSource(model, device, dtype, loras, picture is not None, offload)
    opened = open_pipeline(source, settings, _steps(steps, loaded), picture)
    pipe, arguments, embedded = opened.pipe, opened.arguments, opened.embedded
    lines = (lines or list(embedded.held_out_prompts if embedded else []))[: 2 if quick else limit]
    for policy in loaded.values():
        check_fits(pipe, policy)
    calls = calls_of(arguments, lines, seed)
    made = arguments.pop("num_inference_steps")
    judged: dict[str, Judged] = {**loaded}
    if speedup is not None:
        judged[uncalibrated_name(speedup, learn)] = uncalibrated(pipe, calls[0], made, speedup, learn)
    say(_price(judged, made, len(calls), show))
    workers = workers_of(num_workers, ray)
    if workers is None:
        rows = _measured(pipe, judged, calls, work)
    else:
        rows = run_evaluation(opened.shared_by(workers), judged, calls, work, workers=workers)
    console.print(evaluation_table(ways_of(judged, rows)))
    shown = {name: value for name, value in arguments.items() if name != "image"}
    about: dict[str, Any] = {"model": model, "policies": files, "arguments": shown, "prompts": texts_of(lines)}
    about |= {"speedup": speedup, "learn": learn and str(learn), "steps": made}
    about |= {"fingerprints": {name: followed(one).fingerprint for name, one in judged.items()}}
    about |= {"device": opened.source.device, "dtype": opened.source.dtype, "offload": offload}
    about |= inputs_of(given, loras, lines)
    kept_somewhere(out, partial(write_json, as_json(rows, **about, seed=seed)))
    say(f"wrote {out}")
    _write_page(pipe, Evaluation(model, judged, calls, rows), page, show=show, fps=fps)
    say(f"wrote {page}")


def _price(judged: Mapping[str, Judged], steps: int, num_calls: int, show: int) -> str:
    """What the evaluation costs, in words."""
    from ertacache.evaluation.comparison import Variant
    from ertacache.evaluation.evaluate import variants_of
    from ertacache.evaluation.harness import full_runs_needed

    ways = variants_of(judged)
    cost = full_runs_needed(Variant("full", steps), ways, num_calls, min(show, num_calls))
    names = ", ".join(variant.name for variant in ways)
    return f"{num_calls} prompts in full and {len(ways)} ways more ({names}): the time of about {cost:.0f} full runs"


def _check_asked(policies: Sequence[str], speedup: float | None, learn: Path | None) -> None:
    """Refuse to measure nothing, and what `check_uncalibrated` refuses."""
    check_uncalibrated(speedup, learn)
    if not policies and speedup is None:
        raise ArgumentError(
            "there is nothing to measure: no policy, and no speedup",
            given="none",
            cure="Pass a policy file, or --speedup 2, which needs none.",
        )


def _check_outputs(out: Path, page: Path, work: Path, besides: Sequence[Any]) -> None:
    checked_output(out, besides=besides)
    checked_output(page, besides=[*besides, out])
    checked_folder(work)


def _steps(asked: int | None, policies: Mapping[str, Policy]) -> int | None:
    """The number of steps: that of the policies, or else as asked; None for the pipeline's own."""
    for name, policy in policies.items():
        if asked not in (None, policy.asked_steps):
            raise ArgumentError(
                f"the policy {name!r} is for another number of steps",
                given=f"--steps {asked}, and a policy for {policy.asked_steps}",
                cure="Leave --steps out.",
            )
    return next((policy.asked_steps for policy in policies.values()), asked)


def _load(policies: Sequence[str], any_lora: bool, *besides: str) -> dict[str, Policy]:
    """Load the policies by their short names, which must differ from each other and from other rows of the table."""
    from ertacache.evaluation.evaluate import variants_of

    names = [short_name(name) for name in policies]
    loaded = {short: policy_of(name, any_lora) for short, name in zip(names, policies, strict=True)}
    names += besides
    rows = ["full", *(variant.name for variant in variants_of({**loaded}))]
    twice = [name for name in (*names, *rows) if names.count(name) > 1 or rows.count(name) > 1]
    if twice:
        raise ArgumentError(
            f"two rows of the table would have the same name, {twice[0]!r}",
            given=", ".join(policies),
            cure="Rename a policy file; 'full' and 'fewer steps' are names of other rows, 'instant 2x' of a speedup's.",
        )
    return loaded


def _measured(pipe: Any, policies: Mapping[str, Judged], calls: list[dict[str, Any]], work: Path) -> list[Measured]:
    from ertacache.calibration.progress import CalibrationProgress
    from ertacache.evaluation.evaluate import evaluate as run_evaluation
    from ertacache.evaluation.evaluate import variants_of

    with CalibrationProgress(True, "generations") as progress:
        progress.phase("generating")
        progress.expect(len(variants_of(policies)) * len(calls))
        return run_evaluation(pipe, policies, calls, work, on_generation=progress.advance)


def _write_page(pipe: Any, evaluation: Evaluation, page: Path, *, show: int, fps: int) -> None:
    from ertacache.calibration.progress import CalibrationProgress
    from ertacache.evaluation.evaluate import variants_of
    from ertacache.presenting.evaluation_report import report_evaluation

    with CalibrationProgress(True, "generations") as progress:
        progress.phase("pictures for the page")
        progress.expect(min(show, len(evaluation.calls)) * (1 + len(variants_of(evaluation.policies))))
        report_evaluation(pipe, evaluation, page, show=show, fps=fps, on_generation=progress.advance)
