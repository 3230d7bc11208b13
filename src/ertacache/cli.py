"""The command line: a thin shell over the library."""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from traceback import walk_tb
from typing import TYPE_CHECKING, Annotated, Any, cast

try:
    import typer
    from rich.console import Console
    from rich.text import Text
    from typer.core import TyperGroup
except ImportError as error:  # pragma: no cover - a plain install has no command line
    sys.exit(f"ertacache: the command line needs more packages ({error}). Install them: pip install 'ertacache[cli]'")

from ertacache._version import __version__
from ertacache.errors import ArgumentError, ERTACacheError, PipelineError
from ertacache.inputs import first_line, open_pipeline, prompts_of, short_name
from ertacache.output_paths import checked_folder, checked_output, kept_somewhere
from ertacache.untrusted_text import typed, visible

if TYPE_CHECKING:
    from ertacache.calibration import Profile

# What needs torch, diffusers or matplotlib is imported by the commands: those take seconds, and `--help` has none.
MODELS = "flux, wan, cogvideox, opensora"
METHODS = "uniform, offline, offline+time, paper, reuse, taylor, aligned"


class Commands(TyperGroup):
    """The commands, of which none ends in a traceback because of what it was given, or of where it prints."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run as a program."""
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):  # what the terminal's encoding lacks is written as \\x.. there
                stream.reconfigure(errors="backslashreplace")
        return super().main(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        with clear_errors():
            return super().invoke(ctx)


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    help="Make a diffusion pipeline faster, and see what it costs.",
)
console = Console()


def _seed(value: int) -> int:
    """Those that generators take, with room for the prompts that follow."""
    if abs(value) >= 1 << 62:
        raise ArgumentError("the seed is too large", given=value, cure="Give one of up to 18 digits.")
    return value


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
Seed = Annotated[int, typer.Option(callback=_seed, help="Seed of the first prompt; the next ones count up.")]
Speedup = Annotated[float | None, typer.Option(help="Budget: the least step ratio.")]
ComputedSteps = Annotated[int | None, typer.Option(help="Budget: the most steps to compute.")]
Seconds = Annotated[
    float | None, typer.Option(help="Budget: the most that one call may take, on the machine of the calibration.")
]
MinPSNR = Annotated[float | None, typer.Option(help="Budget: the mean PSNR to reach, in dB, with 95 % confidence.")]
MinSSIM = Annotated[float | None, typer.Option(help="Budget: the same of SSIM.")]


@contextmanager
def clear_errors() -> Iterator[None]:
    """Bad input is one line that says the cure, and exit status 2; an interrupt is a line, and 130."""
    try:
        yield
    except KeyboardInterrupt:
        say("interrupted", to=Console(stderr=True))
        raise typer.Exit(130) from None
    except Exception as error:
        told = _told(error)
        if told is None:
            raise
        line = Text.assemble(("error:", "red"), " ", visible(" ".join(told.split())))
        Console(stderr=True).print(line, soft_wrap=True)
        raise typer.Exit(2) from None


def _told(error: Exception) -> str | None:
    """What to say of an error that input, files or the disk brought about; None of any other, which is a bug."""
    if isinstance(error, ERTACacheError):
        return str(error)
    if hasattr(error, "format_message"):  # of an option; its class is typer's, or click's in older versions
        asked = getattr(error, "ctx", None)
        return f"{error.format_message().rstrip('.')}. See `{asked.command_path if asked else 'ertacache'} --help`."
    if isinstance(error, OSError):
        if error.errno == errno.EPIPE:  # nobody reads on
            return None
        if error.errno is None:
            return str(error)
        where = error.filename or "a file"
        return f"{error.strerror}: {where}. See that it is there, that you may use it, and that its disk has room."
    if isinstance(error, ModuleNotFoundError):
        return f"a package is missing: {error}. Install what the commands need: pip install 'ertacache[cli]'."
    if isinstance(error, UnicodeError):
        return f"a text cannot be read or written: {error}. Use UTF-8 in files and names."
    if isinstance(error, RecursionError):
        return "a file is nested too deeply to be read. Make it again."
    if type(error).__name__ == "SafetensorError":
        return f"a file cannot be read or written: {error}. See that it is whole, and that its disk has room."
    if _raised_by_pipeline(error):
        return (
            f"the pipeline refused this call: {type(error).__name__}: {first_line(error)}. "
            "See what --set and the prompts give it, and that the device has room."
        )
    return None


def _raised_by_pipeline(error: Exception) -> bool:
    """Whether the call of a pipeline raised it, and no code of this library."""
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    called = any(f.f_code.co_name == "__call__" and hasattr(f.f_locals.get("self"), "scheduler") for f in frames)
    last = frames[-1].f_globals.get("__name__", "")
    return called and not (last.startswith("ertacache.") and not last.startswith("ertacache.opensora."))


def say(text: str, *, to: Console | None = None) -> None:
    """Print a text as it is, with what would disturb a terminal written out."""
    (to or console).print(Text(visible(text)))


def _version(wanted: bool) -> None:
    if wanted:
        say(f"ertacache {__version__}")
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
    model: Annotated[str, typer.Option(help=f"One of {MODELS}.")] = "flux",
    speedup: Annotated[float, typer.Option(help="The step ratio to ask for.")] = 2.0,
    method: Annotated[str, typer.Option(help=f"One of {METHODS}.")] = "aligned",
    prompts: Annotated[int, typer.Option(min=1, max=64, help="How many held-out prompts to generate.")] = 8,
    calibration_prompts: Annotated[int, typer.Option(min=1, max=64, help="How many prompts to calibrate on.")] = 8,
    out: Annotated[Path, typer.Option(help="Folder for the picture, the plot and the policy.")] = Path("out/demo"),
    seed: Seed = 1000,
) -> None:
    """Calibrate on a small pipeline and show full, accelerated and fewer-steps runs side by side."""
    checked_folder(out)
    from ertacache import demonstration

    files = demonstration.run(
        model=model,
        speedup=speedup,
        method=method,
        num_prompts=prompts,
        num_calibration_prompts=calibration_prompts,
        out=out,
        seed=seed,
        console=console,
    )
    for path in files:
        say(f"wrote {path}")


@app.command()
def calibrate(
    model: Model,
    prompts: Prompts = None,
    out: Annotated[Path, typer.Option(help="The policy file to write.")] = Path("policy.safetensors"),
    steps: Annotated[int | None, typer.Option(min=1, help="num_inference_steps of the calls to come.")] = None,
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
    method: Annotated[str, typer.Option(help=f"One of {METHODS}.")] = "aligned",
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
    lines = prompts_of(prompts, model)
    if frontier is None:
        checked_output(out, besides=[prompts])
    else:
        checked_folder(frontier)
    if checkpoint is not None:
        checked_folder(checkpoint)
    from ertacache.calibration import calibrate as calibrate_policy
    from ertacache.calibration import profile as make_profile
    from ertacache.calibration.budget import QUALITIES, the_one
    from ertacache.method.choice import Method
    from ertacache.tables import frontier_table

    budget = {
        "speedup": speedup,
        "num_computed_steps": computed_steps,
        "threshold": threshold,
        "seconds": seconds,
        "min_psnr": min_psnr,
        "min_ssim": min_ssim,
    }
    given: dict[str, Any] = {name: value for name, value in budget.items() if value is not None}
    if frontier is not None and (given or method != "aligned" or full_runs):
        raise ArgumentError(
            "--frontier makes 'aligned' policies for all budgets",
            given=f"--frontier {frontier}, and a budget, --method or --full-runs",
            cure="Leave those options out.",
        )
    judged = frontier is not None or not QUALITIES.keys().isdisjoint(given)
    given = given or {"speedup": 2.0}
    the_one(given)
    named = Method.named(method)
    pipe, arguments, embedded = open_pipeline(model, device, dtype, settings, steps)
    lines = lines or (embedded.calibration_prompts if embedded else [])
    lines = lines[: limit or (16 if judged else 8)]
    common: dict[str, Any] = {"seed": seed, "checkpoint": checkpoint, **arguments}
    if frontier is not None:
        made = make_profile(pipe, lines, **common)
        console.print(frontier_table(made))
        written = kept_somewhere(frontier, partial(write_frontier, made))
    else:
        policy = calibrate_policy(pipe, lines, method=named, full_runs=full_runs, **given, **common)
        kept_somewhere(out, policy.save)
        written = [out]
    for path in written:
        say(f"wrote {path}")


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
    checked_output(out, besides=[profile])
    from ertacache.calibration import Profile
    from ertacache.tables import policy_facts

    policy = Profile.load(profile).policy(
        speedup=speedup, num_computed_steps=computed_steps, seconds=seconds, min_psnr=min_psnr, min_ssim=min_ssim
    )
    kept_somewhere(out, policy.save)
    console.print(policy_facts(policy))
    say(f"wrote {out}")


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
    lines = prompts_of(prompts, model)
    checked_output(out, besides=[policy, by, prompts])
    if checkpoint is not None:
        checked_folder(checkpoint)
    from ertacache.acceleration import accelerated
    from ertacache.drafting import draft as make_draft
    from ertacache.policy import Policy

    loaded = Policy.from_pretrained(policy)
    other = None if by is None else Policy.from_pretrained(by)
    pipe, arguments, embedded = open_pipeline(model, device, dtype, settings, loaded.num_inference_steps)
    del arguments["num_inference_steps"]
    with accelerated(pipe, loaded):
        pass  # it is for this pipeline, then
    lines = (lines or (embedded.calibration_prompts if embedded else []))[:limit]
    made = make_draft(pipe, loaded, lines, by=other, seed=seed, checkpoint=checkpoint, **arguments)
    say(
        f"drafts compute {len(made.policy.computed_steps)} of {made.policy.num_made_steps} steps; made in "
        f"{made.full_runs:.2f} full runs per prompt"
    )
    kept_somewhere(out, made.save)
    say(f"wrote {out}")


@app.command()
def generate(
    model: Model,
    prompt: Annotated[str, typer.Argument(help="What to generate.")],
    policy: Annotated[
        str | None,
        typer.Option(help="The policy to follow, a file or Hub id; without it every step is computed."),
    ] = None,
    out: Annotated[Path, typer.Option(help="The picture to write; clips become MP4.")] = Path("out.png"),
    steps: Annotated[int | None, typer.Option(min=1, help="num_inference_steps; a policy brings its own.")] = None,
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
    prompt = typed(prompt)
    asked = [name for name, value in {"compare": compare, "guard": guard, "draft": draft}.items() if value]
    if asked and policy is None:
        raise ArgumentError(
            f"--{asked[0]} needs a policy", given="none", cure="Pass --policy FILE, or a policy of the Hub."
        )
    from ertacache.acceleration import accelerated
    from ertacache.drafting import Draft, check_draft
    from ertacache.evaluation import plots
    from ertacache.evaluation.comparison import Variant, started
    from ertacache.evaluation.comparison import compare as run_comparison
    from ertacache.evaluation.comparison import generate as run_once
    from ertacache.policy import Policy
    from ertacache.runtime.guard import check_guard
    from ertacache.tables import comparison_table

    known = plots.plot_suffixes() if compare else plots.picture_suffixes()
    checked_output(out, (*known, ".mp4"), besides=[policy, draft])
    loaded = Policy.from_pretrained(policy) if policy is not None else None
    drafted = Draft.load(draft) if draft else None
    if loaded:
        check_guard(loaded, guard)
    if loaded and drafted:
        check_draft(drafted, loaded)
    steps = steps or (loaded.num_inference_steps if loaded else None)
    pipe, arguments, _ = open_pipeline(model, device, dtype, settings, steps)
    steps = arguments.pop("num_inference_steps")
    full = Variant("full", steps)
    fast = full
    if loaded:
        fast = Variant(loaded.method.name, steps, policy=loaded, guard=cast(Any, guard), draft=drafted)
        with accelerated(pipe, loaded, guard=cast(Any, guard), draft=drafted):
            pass  # it is for this pipeline, then
    call = {**arguments, "prompt": prompt, "seed": seed}
    pictures, told = {}, None

    def keep(number: int, name: str, result: Any) -> None:
        nonlocal told
        pictures[name], told = list(result.pictures), result.report

    if compare:
        with console.status("generating in full and accelerated"):
            rows = run_comparison(pipe, full, [fast], [call], on_result=keep)
        console.print(comparison_table(rows))
    else:
        with console.status("generating"):
            result = run_once(pipe, fast, started(call))
        keep(0, fast.name, result)
        say(f"{steps} steps, {result.loop_seconds:.2f} s denoising")
    if told is not None:
        say(str(told))
    made = pictures[fast.name]  # more than one, if the call asks for more
    are_clips, captions = made[0].ndim == 4, [prompt] * len(made)

    def write(path: Path) -> None:
        if are_clips:
            plots.write_clip(pictures, path, fps=fps)
            if compare:
                plots.contact_sheet(pictures, captions, path.with_suffix(".png"))
        elif compare:
            plots.side_by_side(pictures, captions, path)
        else:
            plots.write_pictures(made, path)

    if are_clips or out.suffix.lower() == ".mp4":
        out = out.with_suffix(".mp4" if are_clips else ".png")
    kept_somewhere(out, write)
    say(f"wrote {out}")


@app.command()
def inspect(
    policy: PolicyName,
    plot: Annotated[Path | None, typer.Option(help="Also draw the schedule and the error per step, as PNG.")] = None,
    report: Annotated[Path | None, typer.Option(help="Also write all of it as one HTML page.")] = None,
) -> None:
    """Show what a policy does, step by step."""
    if plot is not None:
        from ertacache.evaluation.plots import plot_suffixes, policy_plot

        checked_output(plot, plot_suffixes(), besides=[policy])
    if report is not None:
        checked_output(report, besides=[policy, plot])
    from ertacache.policy import Policy
    from ertacache.tables import policy_facts, policy_steps

    loaded = Policy.from_pretrained(policy)
    console.print(policy_facts(loaded))
    console.print(policy_steps(loaded))
    if plot is not None:
        kept_somewhere(plot, partial(policy_plot, loaded))
        say(f"wrote {plot}")
    if report is not None:
        from ertacache.report import report_policy

        report_policy(loaded, short_name(policy), report)
        say(f"wrote {report}")


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
    lines = prompts_of(prompts, model)
    checked_output(out, besides=[*policies, prompts])
    page = report or out.with_suffix(".html")
    checked_output(page, besides=[*policies, prompts, out])
    checked_folder(work)
    from rich.progress import Progress

    from ertacache.acceleration import accelerated
    from ertacache.evaluation.comparison import calls_of
    from ertacache.evaluation.evaluate import as_json, variants_of
    from ertacache.evaluation.evaluate import evaluate as run_evaluation
    from ertacache.policy import Policy
    from ertacache.report import report_evaluation
    from ertacache.tables import evaluation_table

    names = [short_name(name) for name in policies]
    loaded = {short: Policy.from_pretrained(name) for short, name in zip(names, policies, strict=True)}
    called = ["full", *(variant.name for variant in variants_of(loaded))]
    twice = [name for name in (*names, *called) if names.count(name) > 1 or called.count(name) > 1]
    if twice:
        raise ArgumentError(
            f"two policies have one name ({twice[0]}), or one has that of another row of the table",
            given=", ".join(policies),
            cure="Rename a file.",
        )
    steps = next(iter(loaded.values())).num_inference_steps
    pipe, arguments, embedded = open_pipeline(model, device, dtype, settings, steps)
    lines = (lines or (embedded.held_out_prompts if embedded else []))[: 2 if quick else limit]
    for policy in loaded.values():
        with accelerated(pipe, policy):
            pass  # it is for this pipeline, then
    calls = calls_of(arguments, lines, seed)
    del arguments["num_inference_steps"]
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("generating", total=3 * len(loaded) * len(calls))
        rows = run_evaluation(pipe, loaded, calls, work, on_generation=lambda n: progress.advance(task, n))
    console.print(evaluation_table(rows))
    about = {"model": model, "policies": policies, "arguments": arguments, "prompts": lines}
    about |= {"fingerprints": {name: policy.fingerprint for name, policy in loaded.items()}}
    about |= {"device": device, "dtype": dtype}
    kept_somewhere(out, partial(_write_json, as_json(rows, **about, seed=seed)))
    say(f"wrote {out}")
    with Progress(console=console, transient=True) as progress:
        shown = min(show, len(calls))
        task = progress.add_task("pictures for the page", total=shown * (1 + len(rows)))
        told = partial(progress.advance, task)
        report_evaluation(pipe, loaded, calls, rows, page, model=model, show=show, fps=fps, on_generation=told)
    say(f"wrote {page}")


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
    from ertacache.policy import Policy

    address = Policy.from_pretrained(policy).push_to_hub(
        repo, evaluation=evaluation, base_model=base_model, private=private or None, revision=revision
    )
    console.print(Text(visible(f"pushed to {address}")), soft_wrap=True)


@app.command()
def benchmark(
    models: Annotated[list[str] | None, typer.Argument(help=f"Of {MODELS}; by default all here.")] = None,
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
    checkout = Path(__file__).parents[2]
    if not (checkout / "benchmarks/rivals").is_dir():
        raise PipelineError(
            "the rivals do not travel with the package",
            given=str(Path(__file__).parent),
            cure="Clone the repository and install it from there: pip install -e '.[dev]'.",
        )
    folder = checked_folder(out or (work / "quick" if quick else Path("benchmarks/results")))
    page = checked_output(page or (work / "quick/results.md" if quick else Path("docs/results.md")))
    webpage = checked_output(report or work / ("quick/results.html" if quick else "results.html"), besides=[page])
    checked_folder(work)
    sys.path.insert(0, str(checkout))
    from benchmarks import compare
    from ertacache import zoo

    for model in models or []:
        zoo.folder_of(model)
    written = compare.run(
        models or zoo.available(),
        names=rival or (),
        prompts=prompts,
        seed=seed,
        work=work,
        out=folder,
        page=page,
        webpage=webpage,
        quick=quick,
        console=console,
    )
    for path in written:
        say(f"wrote {path}")


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
    _write_json(rows, written[1])
    frontier_plot(profile, written[2])
    return written


def _write_json(content: Any, path: Path) -> None:
    from ertacache.files import written_whole

    with written_whole(path) as unfinished:
        Path(unfinished).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
