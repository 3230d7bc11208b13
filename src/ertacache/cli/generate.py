"""``ertacache generate``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ertacache.cli import options
from ertacache.cli.console import console, say
from ertacache.cli.input_image import read_image
from ertacache.cli.loras import Lora
from ertacache.cli.model_source import AUTO, ModelSource
from ertacache.cli.open_pipeline import open_pipeline
from ertacache.cli.policy_arguments import check_fits, check_uncalibrated, policy_of
from ertacache.cli.prompt_lines import first_image, read_lines
from ertacache.cli.worker_options import NumWorkers, RayAddress, workers_of
from ertacache.errors import ArgumentError
from ertacache.output_paths import checked_folder, checked_output, kept_somewhere
from ertacache.untrusted_text import typed

if TYPE_CHECKING:
    from torch import Tensor

    from ertacache.evaluation.comparison import Result, Variant
    from ertacache.policy import Policy
    from ertacache.watching.draft import Draft

    Pictures = dict[str, list[Tensor]]
    """The pictures or clips of each variant, by its name: (C, H, W) or (T, C, H, W), float in 0 .. 1."""


def generate(
    model: options.Model,
    prompt: Annotated[str | None, typer.Argument(help="What to generate.")] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="In bulk: a text file with one prompt per line, or JSON lines (see calibrate); --out is then a folder."
        ),
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(help="The policy to follow, a file or Hub id; without one every step is computed."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The picture, by default out.png; clips are written as MP4. In bulk: a folder, by default out."
        ),
    ] = None,
    steps: options.Steps = None,
    fps: options.FPS = 16,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare",
            help="Also generate in full, and with as many plain steps as are computed, and show all side by side. It "
            "costs two full runs, the first to warm up, and one of the plain steps.",
        ),
    ] = False,
    speedup: Annotated[
        float | None,
        typer.Option(help="Without a policy or any preparation: compute at most one step in so many."),
    ] = None,
    learn: Annotated[
        Path | None,
        typer.Option(
            help="With --speedup: a folder. The first generation of a setting runs in full and is learnt from; later "
            "ones are accelerated by what is known."
        ),
    ] = None,
    guard: Annotated[
        str | None,
        typer.Option(
            help="With a policy. 'report' says whether the picture deviates more than those of calibration did, and "
            "needs a look; 'compute' then also computes the remaining steps."
        ),
    ] = None,
    draft: Annotated[
        Path | None,
        typer.Option(
            help="The file of `ertacache draft` for this policy: also make a second, cheap run, and say whether the "
            "difference is suspicious."
        ),
    ] = None,
    settings: options.Settings = None,
    image: options.InputImage = None,
    lora: options.Loras = None,
    any_lora: options.AnyLora = False,
    device: options.Device = AUTO,
    dtype: options.Dtype = AUTO,
    offload: options.Offload = False,
    seed: options.Seed = 0,
    recompute_flagged: Annotated[
        bool, typer.Option("--recompute-flagged", help="In bulk: make again in full what the guard flags.")
    ] = False,
    num_workers: NumWorkers = None,
    ray: RayAddress = None,
) -> None:
    """Generate one picture, or one for each line of a file: with a policy, a speedup that needs none, or in full."""
    _check_uncalibrated(policy, speedup, learn)
    _check_needs(policy, {"compare": compare and speedup is None, "guard": guard, "draft": draft})
    bulk = {"recompute-flagged": recompute_flagged, "workers": num_workers, "ray": ray}
    _check_one_or_many(prompt, prompts, {"compare": compare, "draft": draft}, bulk)
    lines = read_lines(prompts, model) if prompts else []
    loras, picture = tuple(map(Lora.parsed, lora or [])), read_image(image) or first_image(lines)
    workers = workers_of(num_workers, ray)
    target = out or Path("out" if lines else "out.png")
    _check_target(target, bool(lines), compare, [policy, draft])
    loaded, drafted = _load(policy, any_lora, guard, draft)
    steps = steps or (loaded.asked_steps if loaded else None)
    source = ModelSource(model, device, dtype, loras, picture is not None, offload)
    opened = open_pipeline(source, settings, steps, picture)
    pipe, arguments = opened.pipe, opened.arguments
    way = _Way(loaded, guard, drafted, speedup, learn)
    if lines:
        from ertacache.cli.bulk_generation import generate_many

        fast = way.variant(pipe, arguments.pop("num_inference_steps"))
        given = {"seed": seed, "recompute_flagged": recompute_flagged, "fps": fps}
        generate_many(opened.shared_by(workers), fast, lines, arguments, target, workers, **given)
    else:
        _generate_one(pipe, way, arguments, (typed(prompt or ""), seed), target, compare=compare, fps=fps)


@dataclass(frozen=True)
class _Way:
    """How to generate."""

    policy: Policy | None
    guard: Any
    draft: Draft | None
    speedup: float | None
    learn: Path | None

    def variant(self, pipe: Any, num_steps: int) -> Variant:
        """The variant, checked against the pipeline."""
        from ertacache.evaluation.comparison import Variant

        if self.policy is not None:
            check_fits(pipe, self.policy, guard=self.guard, draft=self.draft)
            named = self.policy.method.name
            return Variant(named, num_steps, policy=self.policy, guard=self.guard, draft=self.draft)
        if self.speedup is not None:
            name = "instant" if self.learn is None else "learnt"
            return Variant(name, num_steps, speedup=self.speedup, learn=self.learn)
        return Variant("full", num_steps)

    def plain(self, arguments: Mapping[str, Any], num_steps: int) -> list[Variant]:
        """As many plain steps as are computed; none if all are, or the call's own noise levels fix their number."""
        from ertacache.evaluation.comparison import Variant
        from ertacache.evaluation.evaluate import plain_steps
        from ertacache.presenting.ways import plain_name
        from ertacache.runtime.step_budget import StepBudget

        if self.policy is None:
            computed = StepBudget(self.speedup).computed(num_steps)
        else:  # which may be transferred to another number of steps
            computed = max(1, round(plain_steps(self.policy) * num_steps / self.policy.asked_steps))
        fixed = not {"sigmas", "timesteps"}.isdisjoint(arguments)
        return [] if fixed or computed >= num_steps else [Variant(plain_name(computed), computed)]


def _generate_one(
    pipe: Any, way: _Way, arguments: dict[str, Any], asked: tuple[str, int], out: Path, *, compare: bool, fps: int
) -> None:
    """Make one picture or clip of a prompt and a seed, write it, and print what it took."""
    from ertacache.evaluation.comparison import Variant
    from ertacache.runtime.call_results import frame_rate_of, sampling_rate_of

    num_steps = arguments.pop("num_inference_steps")
    full, fast = Variant("full", num_steps), way.variant(pipe, num_steps)
    call = {**arguments, "prompt": asked[0], "seed": asked[1]}
    results = (
        _compared(pipe, [full, fast, *way.plain(call, num_steps)], call) if compare else _generated(pipe, fast, call)
    )
    are_clips = results[fast.name].pictures.ndim == 5
    if are_clips or out.suffix.lower() == ".mp4":
        out = out.with_suffix(".mp4" if are_clips else ".png")
    sounded = results[fast.name].sound
    sound = None if sounded is None else (sounded[0], sampling_rate_of(pipe))
    fps = frame_rate_of(arguments, fps, sound)
    pictures = {name: list(result.pictures) for name, result in results.items()}
    kept_somewhere(out, partial(_write, pictures, asked[0], fps=fps, compare=compare, sound=sound))
    say(f"wrote {out}")


def _check_one_or_many(
    prompt: str | None, prompts: Path | None, single: Mapping[str, Any], bulk: Mapping[str, Any]
) -> None:
    """Refuse a prompt and a file of them, none of both, and options of the other way."""
    if (prompt is None) == (prompts is None):
        raise ArgumentError(
            "a prompt, or a file of prompts",
            given="neither" if prompt is None else "both",
            cure='Give one of the two: "what to generate", or --prompts FILE.',
        )
    wrong = [name for name, value in (single if prompts else bulk).items() if value]
    if wrong:
        needed = "one picture" if prompts else "many (--prompts FILE)"
        raise ArgumentError(f"--{wrong[0]} is for {needed}", given=f"--{wrong[0]}", cure="Leave it out.")


def _check_target(out: Path, in_bulk: bool, compare: bool, besides: Sequence[Any]) -> None:
    """Refuse a picture or folder that cannot be written, before the work."""
    from ertacache.presenting.pictures import picture_suffixes
    from ertacache.presenting.plot_style import plot_suffixes

    if in_bulk:
        checked_folder(out)
    else:
        suffixes = plot_suffixes() if compare else picture_suffixes()
        checked_output(out, (*suffixes, ".mp4"), besides=besides)


def _check_uncalibrated(policy: str | None, speedup: float | None, learn: Path | None) -> None:
    """Refuse a speedup beside a policy or out of range, and a folder without a speedup."""
    if speedup is not None and policy is not None:
        raise ArgumentError("a policy has its speedup already", given="both", cure="Leave --speedup or --policy out.")
    check_uncalibrated(speedup, learn)


def _check_needs(policy: str | None, options_given: Mapping[str, Any]) -> None:
    """Refuse options that need a policy when there is none."""
    given = [name for name, value in options_given.items() if value]
    if given and policy is None:
        raise ArgumentError(
            f"--{given[0]} needs a policy", given="none", cure="Pass --policy FILE, or a policy of the Hub."
        )


def _load(
    policy: str | None, any_lora: bool, guard: str | None, draft: Path | None
) -> tuple[Policy | None, Draft | None]:
    """Load the policy and the draft, and check that guard and draft fit the policy."""
    from ertacache.watching.draft import Draft, check_draft
    from ertacache.watching.guard import check_guard

    loaded = policy_of(policy, any_lora) if policy is not None else None
    drafted = Draft.load(draft) if draft else None
    if loaded:
        check_guard(loaded, guard)
    if loaded and drafted:
        check_draft(drafted, loaded)
    return loaded, drafted


def _generated(pipe: Any, variant: Variant, call: Mapping[str, Any]) -> dict[str, Result]:
    """Generate once, and print time and report."""
    from ertacache.evaluation.comparison import generate as run_once
    from ertacache.evaluation.comparison import started

    with console.status("generating"):
        result = run_once(pipe, variant, started(call))
    say(f"{variant.num_inference_steps} steps, {result.loop_seconds:.2f} s denoising")
    if result.report is not None:
        say(str(result.report))
    return {variant.name: result}


def _compared(pipe: Any, variants: Sequence[Variant], call: Mapping[str, Any]) -> dict[str, Result]:
    """Generate in full, accelerated, and perhaps by plain steps, in this order; print the comparison and the report."""
    from ertacache.evaluation.comparison import compare as run_comparison
    from ertacache.presenting.tables import comparison_table

    full, fast, *plain = variants
    results: dict[str, Result] = {}

    def keep(number: int, name: str, result: Result) -> None:
        results[name] = result

    with console.status("generating in full, accelerated, and with as many plain steps"):
        rows = run_comparison(pipe, full, [fast, *plain], [call], on_result=keep)
    console.print(comparison_table(rows))
    report = results[fast.name].report
    if report is not None:
        say(str(report))
    return results


def _write(
    pictures: Pictures, prompt: str, path: Path, *, fps: int, compare: bool, sound: tuple[Tensor, int] | None
) -> None:
    """Write the pictures or clips; a call may give more than one for its prompt. Clips get the accelerated sound."""
    from ertacache.presenting.films import write_film
    from ertacache.presenting.pictures import contact_sheet, side_by_side, write_pictures

    made = next(iter(pictures.values()))
    captions = [prompt] * len(made)
    if made[0].ndim == 4:
        write_film(pictures, path, fps=fps, sound=sound)
        if compare:
            contact_sheet(pictures, captions, path.with_suffix(".png"))
    elif compare:
        side_by_side(pictures, captions, path)
    else:
        write_pictures(made, path)
