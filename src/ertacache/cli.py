"""The command line: a thin shell over the library."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, cast

try:
    import typer
    from rich.console import Console
    from rich.markup import escape
except ImportError as error:  # pragma: no cover - a plain install has no command line
    sys.exit(f"ertacache: the command line needs more packages ({error}). Install them: pip install 'ertacache[cli]'")

from ertacache import zoo
from ertacache._version import __version__
from ertacache.calibration import Profile
from ertacache.calibration import calibrate as calibrate_policy
from ertacache.calibration import profile as make_profile
from ertacache.calibration.budget import QUALITIES
from ertacache.drafting import Draft
from ertacache.drafting import draft as make_draft
from ertacache.errors import ERTACacheError, PipelineError
from ertacache.files import written_whole
from ertacache.method.named import NAMED_METHODS
from ertacache.policy import Policy
from ertacache.tables import comparison_table, evaluation_table, frontier_table, policy_facts, policy_steps

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Make a diffusion pipeline faster, and see what it costs."
)
console = Console()

Model = Annotated[str, typer.Argument(help="A diffusers folder, a hub id, or zoo:flux, zoo:wan, ... for a small one.")]
PolicyName = Annotated[str, typer.Argument(help="A policy file, or a Hub id: you/name.")]
Prompts = Annotated[
    Path | None, typer.Option(help="A text file, one prompt a line. Embedded pipelines bring their own.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="NAME=VALUE", help="An argument of the pipeline call, e.g. true_cfg_scale=4. Repeatable."
    ),
]
Device = Annotated[str, typer.Option(help="Where to run: cpu, cuda, cuda:1, mps.")]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16 or float16.")]
Seed = Annotated[int, typer.Option(help="Seed of the first prompt; the next ones count up.")]
Speedup = Annotated[float | None, typer.Option(help="Budget: the least step ratio.")]
ComputedSteps = Annotated[int | None, typer.Option(help="Budget: the most steps to compute.")]
Seconds = Annotated[
    float | None, typer.Option(help="Budget: the most that one call may take, on the machine of the calibration.")
]
MinPSNR = Annotated[float | None, typer.Option(help="Budget: the mean PSNR to reach, in dB, with 95 % confidence.")]
MinSSIM = Annotated[float | None, typer.Option(help="Budget: the same of SSIM.")]


@contextmanager
def clear_errors() -> Iterator[None]:
    """Bad input is one line that says the cure, and exit status 2."""
    try:
        yield
    except (ERTACacheError, FileNotFoundError, typer.BadParameter) as error:
        Console(stderr=True).print(f"[red]error:[/red] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(2) from None


def _version(wanted: bool) -> None:
    if wanted:
        console.print(f"ertacache {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Make a diffusion pipeline faster, and see what it costs."""


@app.command()
def demo(
    model: Annotated[str, typer.Option(help=f"One of {', '.join(zoo.NAMES)}.")] = "flux",
    speedup: Annotated[float, typer.Option(help="The step ratio to ask for.")] = 2.0,
    method: Annotated[str, typer.Option(help=f"One of {', '.join(NAMED_METHODS)}.")] = "aligned",
    prompts: Annotated[int, typer.Option(min=1, max=64, help="How many held-out prompts to generate.")] = 8,
    calibration_prompts: Annotated[int, typer.Option(min=1, max=64, help="How many prompts to calibrate on.")] = 8,
    out: Annotated[Path, typer.Option(help="Folder for the picture, the plot and the policy.")] = Path("out/demo"),
    seed: Seed = 1000,
) -> None:
    """Calibrate on a small pipeline and show full, accelerated and fewer-steps runs side by side."""
    from ertacache import demonstration

    with clear_errors():
        result = demonstration.run(
            model=model,
            speedup=speedup,
            method=method,
            num_prompts=prompts,
            num_calibration_prompts=calibration_prompts,
            out=out,
            seed=seed,
            console=console,
        )
    console.print(result.table)
    for path in result.files:
        console.print(f"wrote {path}", highlight=False, markup=False)


@app.command()
def calibrate(
    model: Model,
    prompts: Prompts = None,
    out: Annotated[Path, typer.Option(help="The policy file to write.")] = Path("policy.safetensors"),
    steps: Annotated[int | None, typer.Option(help="num_inference_steps of the calls to come.")] = None,
    speedup: Speedup = None,
    computed_steps: ComputedSteps = None,
    threshold: Annotated[
        float | None, typer.Option(help="Budget: lambda of Algorithm 2 (method 'paper' and its parts).")
    ] = None,
    seconds: Seconds = None,
    min_psnr: MinPSNR = None,
    min_ssim: MinSSIM = None,
    frontier: Annotated[
        Path | None,
        typer.Option(help="In place of a budget: a folder for policies from 1.2x to 5x, with table and plot."),
    ] = None,
    method: Annotated[str, typer.Option(help=f"One of {', '.join(NAMED_METHODS)}.")] = "aligned",
    full_runs: Annotated[
        float | None,
        typer.Option(help="What calibration may cost, in full runs per prompt; by default 5, for a quality 8."),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Use at most so many of the prompts; by default 8, for a quality or --frontier 16."),
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Keep full runs here, so that an interrupted calibration goes on.")
    ] = None,
    settings: Settings = None,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    seed: Seed = 0,
) -> None:
    """Make a policy for a model from a few prompts."""
    with clear_errors():
        pipe, arguments, embedded = open_pipeline(model, device, dtype, settings, steps)
        lines = prompts_of(prompts, embedded.calibration_prompts if embedded else None)
        budget = {
            "speedup": speedup,
            "num_computed_steps": computed_steps,
            "threshold": threshold,
            "seconds": seconds,
            "min_psnr": min_psnr,
            "min_ssim": min_ssim,
        }
        given: dict[str, Any] = {name: value for name, value in budget.items() if value is not None}
        common: dict[str, Any] = {"seed": seed, "checkpoint": checkpoint, **arguments}
        judged = frontier is not None or not QUALITIES.keys().isdisjoint(given)
        lines = lines[: limit or (16 if judged else 8)]
        if frontier is not None:
            if given or method != "aligned" or full_runs:
                raise typer.BadParameter("--frontier makes 'aligned' policies for all budgets; leave out those options")
            made = make_profile(pipe, lines, **common)
            written = write_frontier(made, frontier)
            console.print(frontier_table(made))
        else:
            given = given or {"speedup": 2.0}
            policy = calibrate_policy(pipe, lines, method=method, full_runs=full_runs, **given, **common)
            policy.save(out)
            written = [out]
    for path in written:
        console.print(f"wrote {path}", highlight=False, markup=False)


@app.command()
def pick(
    profile: Annotated[Path, typer.Argument(help="The profile that `ertacache calibrate --frontier` left.")],
    out: Annotated[Path, typer.Option(help="The policy file to write.")] = Path("policy.safetensors"),
    speedup: Speedup = None,
    computed_steps: ComputedSteps = None,
    seconds: Seconds = None,
    min_psnr: MinPSNR = None,
    min_ssim: MinSSIM = None,
) -> None:
    """Take the policy for a budget from a profile; needs neither the model nor a denoiser call."""
    with clear_errors():
        policy = Profile.load(profile).policy(
            speedup=speedup, num_computed_steps=computed_steps, seconds=seconds, min_psnr=min_psnr, min_ssim=min_ssim
        )
        policy.save(out)
    console.print(policy_facts(policy))
    console.print(f"wrote {out}", highlight=False, markup=False)


@app.command()
def draft(
    model: Model,
    policy: PolicyName,
    prompts: Prompts = None,
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("draft.safetensors"),
    limit: Annotated[int, typer.Option(min=4, help="Use at most so many of the prompts.")] = 16,
    by: Annotated[
        str | None,
        typer.Option(help="Another policy of the same steps, to draft by; else one of a fifth of them is calibrated."),
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="That of `ertacache calibrate`: its full runs are used again.")
    ] = None,
    settings: Settings = None,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    seed: Seed = 0,
) -> None:
    """Make what `generate --draft` takes: a second run then tells whether a picture is one to look at."""
    with clear_errors():
        loaded = Policy.from_pretrained(policy)
        other = None if by is None else Policy.from_pretrained(by)
        pipe, arguments, embedded = open_pipeline(model, device, dtype, settings, loaded.num_inference_steps)
        del arguments["num_inference_steps"]
        lines = prompts_of(prompts, embedded.calibration_prompts if embedded else None)[:limit]
        made = make_draft(pipe, loaded, lines, by=other, seed=seed, checkpoint=checkpoint, **arguments)
        made.save(out)
    console.print(
        f"drafts compute {len(made.policy.computed_steps)} of {made.policy.num_made_steps} steps; made in "
        f"{made.full_runs:.2f} full runs per prompt",
        highlight=False,
    )
    console.print(f"wrote {out}", highlight=False, markup=False)


@app.command()
def generate(
    model: Model,
    prompt: Annotated[str, typer.Argument(help="What to generate.")],
    policy: Annotated[
        str | None,
        typer.Option(help="The policy to follow, a file or Hub id; without it every step is computed."),
    ] = None,
    out: Annotated[Path, typer.Option(help="The picture to write; clips become MP4.")] = Path("out.png"),
    steps: Annotated[int | None, typer.Option(help="num_inference_steps; a policy brings its own.")] = None,
    fps: Annotated[int, typer.Option(min=1, help="Frames a second, of clips.")] = 16,
    compare: Annotated[bool, typer.Option("--compare", help="Show the full run beside the accelerated one.")] = False,
    guard: Annotated[
        str | None,
        typer.Option(help="'report' says whether it drifts more than in calibration; 'compute' also acts on it."),
    ] = None,
    draft: Annotated[
        Path | None,
        typer.Option(help="What `ertacache draft` made for the policy: run it too, and say what it tells."),
    ] = None,
    settings: Settings = None,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    seed: Seed = 0,
) -> None:
    """Generate one picture, by a policy if one is given."""
    from ertacache.evaluation.comparison import Variant
    from ertacache.evaluation.comparison import compare as run_comparison
    from ertacache.evaluation.plots import contact_sheet, side_by_side, write_clip

    with clear_errors():
        loaded = Policy.from_pretrained(policy) if policy is not None else None
        if compare and loaded is None:
            raise typer.BadParameter("--compare needs a policy; pass --policy FILE")
        if guard and loaded is None:
            raise typer.BadParameter("--guard needs a policy; pass --policy FILE")
        if draft and loaded is None:
            raise typer.BadParameter("--draft needs a policy; pass --policy FILE")
        drafted = Draft.load(draft) if draft else None
        steps = steps or (loaded.num_inference_steps if loaded else None)
        pipe, arguments, _ = open_pipeline(model, device, dtype, settings, steps)
        steps = arguments.pop("num_inference_steps")
        full = Variant("full", steps)
        fast = full
        if loaded:
            fast = Variant(loaded.method.name, steps, policy=loaded, guard=cast(Any, guard), draft=drafted)
        call = {**arguments, "prompt": prompt, "seed": seed}
        pictures, told = {}, None

        def keep(number: int, name: str, result: Any) -> None:
            nonlocal told
            pictures[name], told = result.pictures[0], result.report

        out.parent.mkdir(parents=True, exist_ok=True)
        if compare:
            with console.status("generating in full and accelerated"):
                rows = run_comparison(pipe, full, [fast], [call], on_result=keep)
            named = {name: [picture] for name, picture in pictures.items()}
            if pictures["full"].ndim == 3:
                side_by_side(named, [prompt], out)
            else:
                contact_sheet(named, [prompt], out.with_suffix(".png"))
                out = out.with_suffix(".mp4")
                write_clip(named, out, fps=fps)
            console.print(comparison_table(rows))
        else:
            from ertacache.evaluation.comparison import generate as generate_once

            fresh = {**arguments, "prompt": prompt, "generator": _generator(seed)}
            with console.status("generating"):
                result = generate_once(pipe, fast, fresh)
            picture, told = result.pictures[0], result.report
            if picture.ndim == 4:
                out = out.with_suffix(".mp4")
                write_clip({"": [picture]}, out, fps=fps)
            else:
                _write_picture(picture, out)
            console.print(f"{steps} steps, {result.loop_seconds:.2f} s denoising", highlight=False)
        if told is not None:
            console.print(str(told), highlight=False, markup=False)
    console.print(f"wrote {out}", highlight=False, markup=False)


@app.command()
def inspect(
    policy: PolicyName,
    plot: Annotated[Path | None, typer.Option(help="Also draw the schedule and the error per step, as PNG.")] = None,
    report: Annotated[Path | None, typer.Option(help="Also write all of it as one HTML page.")] = None,
) -> None:
    """Show what a policy does, step by step."""
    with clear_errors():
        loaded = Policy.from_pretrained(policy)
    console.print(policy_facts(loaded))
    console.print(policy_steps(loaded))
    if plot is not None:
        from ertacache.evaluation.plots import policy_plot

        plot.parent.mkdir(parents=True, exist_ok=True)
        policy_plot(loaded, plot)
        console.print(f"wrote {plot}", highlight=False, markup=False)
    if report is not None:
        from ertacache.report import report_policy

        report_policy(loaded, short_name(policy), report)
        console.print(f"wrote {report}", highlight=False, markup=False)


@app.command()
def evaluate(
    model: Model,
    policies: Annotated[list[str], typer.Argument(help="Policy files or Hub ids, all for one number of steps.")],
    prompts: Annotated[
        Path | None,
        typer.Option(help="A text file, one prompt a line, none that calibration saw. Embedded pipelines have some."),
    ] = None,
    out: Annotated[Path, typer.Option(help="The figures, prompt by prompt, as JSON.")] = Path("evaluation.json"),
    report: Annotated[
        Path | None, typer.Option(help="The HTML page to look at; by default beside the figures.")
    ] = None,
    show: Annotated[
        int, typer.Option(min=0, help="How many prompts the page shows, worst first; each is generated once more.")
    ] = 6,
    fps: Annotated[int, typer.Option(min=1, help="Frames a second, of clips in the page.")] = 16,
    limit: Annotated[int, typer.Option(min=1, help="Use at most so many of the prompts.")] = 32,
    work: Annotated[Path, typer.Option(help="Keep what was measured here, so that an interrupted run goes on.")] = Path(
        "out/evaluate"
    ),
    settings: Settings = None,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    seed: Seed = 1000,
    quick: Annotated[bool, typer.Option("--quick", help="Two prompts: a check, no figures.")] = False,
) -> None:
    """Measure what policies cost: quality and time against the full run, beside fewer steps; a page to look at."""
    from rich.progress import Progress

    from ertacache.evaluation.comparison import calls_of
    from ertacache.evaluation.evaluate import as_json
    from ertacache.evaluation.evaluate import evaluate as run_evaluation
    from ertacache.files import written_whole
    from ertacache.report import report_evaluation

    with clear_errors():
        loaded = {short_name(name): Policy.from_pretrained(name) for name in policies}
        if len(loaded) < len(policies):
            names = [short_name(name) for name in policies]
            twice = next(name for name in names if names.count(name) > 1)
            raise typer.BadParameter(f"two policies have one name ({twice}); rename a file")
        steps = next(iter(loaded.values())).num_inference_steps
        pipe, arguments, embedded = open_pipeline(model, device, dtype, settings, steps)
        lines = prompts_of(prompts, embedded.held_out_prompts if embedded else None)[: 2 if quick else limit]
        calls = calls_of(arguments, lines, seed)
        del arguments["num_inference_steps"]
        with Progress(console=console, transient=True) as progress:
            task = progress.add_task("generating", total=3 * len(loaded) * len(calls))
            rows = run_evaluation(pipe, loaded, calls, work, on_generation=lambda n: progress.advance(task, n))
        about = {"model": model, "policies": policies, "arguments": arguments, "prompts": lines}
        about |= {"fingerprints": {name: policy.fingerprint for name, policy in loaded.items()}}
        about |= {"device": device, "dtype": dtype}
        with written_whole(out) as unfinished:
            Path(unfinished).write_text(json.dumps(as_json(rows, **about, seed=seed), indent=1) + "\n")
        console.print(evaluation_table(rows))
        page = report or out.with_suffix(".html")
        with Progress(console=console, transient=True) as progress:
            shown = min(show, len(calls))
            task = progress.add_task("pictures for the page", total=shown * (1 + len(rows)))
            told = partial(progress.advance, task)
            report_evaluation(pipe, loaded, calls, rows, page, model=model, show=show, fps=fps, on_generation=told)
    for path in (out, page):
        console.print(f"wrote {path}", highlight=False, markup=False)


@app.command()
def push(
    policy: PolicyName,
    repo: Annotated[str, typer.Argument(help="The repository on the Hugging Face Hub, you/name; made if need be.")],
    evaluation: Annotated[
        Path | None, typer.Option(help="What `ertacache evaluate` wrote about it; the card shows it.")
    ] = None,
    base_model: Annotated[str | None, typer.Option(help="The Hub id of the model that it is for.")] = None,
    private: Annotated[bool, typer.Option("--private", help="If the repository is made now, for you alone.")] = False,
    revision: Annotated[str | None, typer.Option(help="The branch to commit to; made if need be.")] = None,
) -> None:
    """Share a policy on the Hugging Face Hub, with a card that says what it costs."""
    with clear_errors():
        address = Policy.from_pretrained(policy).push_to_hub(
            repo, evaluation=evaluation, base_model=base_model, private=private or None, revision=revision
        )
    console.print(f"pushed to {address}", highlight=False, markup=False, soft_wrap=True)


@app.command()
def benchmark(
    models: Annotated[list[str] | None, typer.Argument(help=f"Of {', '.join(zoo.NAMES)}; by default all here.")] = None,
    rival: Annotated[
        list[str] | None,
        typer.Option(help="Only this rival, by the name that tables show; others' rows stay. Repeatable."),
    ] = None,
    prompts: Annotated[int, typer.Option(min=1, max=64, help="How many held-out prompts.")] = 32,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the figures, as JSON; benchmarks/results, if not --quick.")
    ] = None,
    page: Annotated[
        Path | None, typer.Option(help="What to write about all figures there; docs/results.md, if not --quick.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="The HTML page to look at, with pictures; by default in the work folder.")
    ] = None,
    work: Annotated[
        Path, typer.Option(help="Folder for policies and unfinished measurements, and for all that --quick writes.")
    ] = Path("out/benchmark"),
    seed: Seed = 1000,
    quick: Annotated[
        bool, typer.Option("--quick", help="Two prompts, eight steps, one setting of each: a check, no figures.")
    ] = False,
) -> None:
    """Compare with every rival on the small pipelines, in a checkout of the repository; hours, and resumable."""
    with clear_errors():
        checkout = Path(__file__).parents[2]
        if not (checkout / "benchmarks/rivals").is_dir():
            raise PipelineError(
                "the rivals do not travel with the package",
                given=str(Path(__file__).parent),
                cure="Clone the repository and install it from there: pip install -e '.[dev]'.",
            )
        sys.path.insert(0, str(checkout))
        from benchmarks import compare

        written = compare.run(
            models or zoo.available(),
            names=rival or (),
            prompts=prompts,
            seed=seed,
            work=work,
            out=out or (work / "quick" if quick else Path("benchmarks/results")),
            page=page or (work / "quick/results.md" if quick else Path("docs/results.md")),
            webpage=report or work / ("quick/results.html" if quick else "results.html"),
            quick=quick,
            console=console,
        )
    for path in written:
        console.print(f"wrote {path}", highlight=False, markup=False)


def write_frontier(profile: Profile, folder: Path) -> list[Path]:
    """A profile, its policies as files of their own, its figures as JSON, and a plot; what was written."""
    from ertacache.evaluation.plots import frontier_plot

    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / "profile.safetensors", folder / "frontier.json", folder / "frontier.png"]
    profile.save(written[0])
    rows = []
    for policy in profile.policies:
        path = folder / f"policy-{policy.step_ratio:.2f}x.safetensors"
        policy.save(path)
        written.append(path)
        record = policy.calibration
        figures = {"psnr": record.psnr, "ssim": record.ssim, "seconds": record.seconds, "full_runs": record.full_runs}
        rows.append({"file": path.name, "computed_steps": policy.computed_steps, **figures})
    with written_whole(written[1]) as unfinished:
        Path(unfinished).write_text(json.dumps(rows, indent=1) + "\n")
    frontier_plot(profile, written[2])
    return written


def open_pipeline(
    model: str, device: str, dtype: str, settings: list[str] | None, steps: int | None
) -> tuple[Any, dict[str, Any], zoo.Embedded | None]:
    """The pipeline, the arguments of its calls with ``num_inference_steps``, and the embedded pipeline if it is one."""
    import torch

    kind = getattr(torch, dtype, None)
    if not isinstance(kind, torch.dtype):
        raise typer.BadParameter(f"there is no dtype {dtype!r}; choose float32, bfloat16 or float16")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # no such device, or a build of PyTorch without it
        reason = str(error).splitlines()[0]
        raise typer.BadParameter(f"the device {device!r} cannot be used here: {reason}") from error
    given = dict(setting(text) for text in settings or [])
    if steps is not None:
        given["num_inference_steps"] = steps
    if model.startswith("zoo:"):
        embedded = zoo.load(model.removeprefix("zoo:"), dtype=kind, device=device)
        return embedded.pipe, {**embedded.arguments, **given}, embedded
    if "num_inference_steps" not in given:
        raise typer.BadParameter("the number of steps is not given; pass --steps N")
    try:
        with zoo.quiet():
            pipe = zoo.pipeline_class(model).from_pretrained(model, dtype=kind)
    except (OSError, ValueError, AttributeError) as error:
        raise typer.BadParameter(f"the model {model!r} cannot be loaded: {str(error).splitlines()[0]}") from error
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device), given, None


def short_name(policy: str) -> str:
    """What tables call a policy: its file without the ending, its folder, or its repository without the owner."""
    path = Path(policy)
    return path.stem if path.suffix == ".safetensors" or path.is_file() else path.resolve().name


def prompts_of(file: Path | None, own: list[str] | None) -> list[str]:
    """Those of a file, or a pipeline's own."""
    if file is not None:
        return [line.strip() for line in file.read_text().splitlines() if line.strip()]
    if own is None:
        raise typer.BadParameter("no prompts are given; pass --prompts FILE with one prompt a line")
    return own


def setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise typer.BadParameter(f"--set takes NAME=VALUE, not {text!r}")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value  # a plain string need not be quoted


def _generator(seed: int) -> Any:
    import torch

    return torch.Generator("cpu").manual_seed(seed)


def _write_picture(picture: Any, path: Path) -> None:
    from PIL import Image

    from ertacache.evaluation.plots import pixels_of

    Image.fromarray(pixels_of(picture).numpy()).save(path)
