"""What ``ertacache demo`` runs: a small pipeline in full, accelerated, with a rival and with fewer steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from torch import Tensor

from ertacache import zoo
from ertacache.calibration import calibrate
from ertacache.calibration.progress import CalibrationProgress
from ertacache.evaluation.comparison import Row, Variant, calls_of, compare, fewer_steps
from ertacache.method.named_methods import Method
from ertacache.method.schedule import evenly_spaced
from ertacache.output_paths import kept_somewhere
from ertacache.policy import Policy
from ertacache.presenting.evaluation_report import Comparison, ranking, report_comparison
from ertacache.presenting.films import write_film
from ertacache.presenting.page import Case
from ertacache.presenting.pictures import contact_sheet, side_by_side
from ertacache.presenting.policy_plots import policy_plot
from ertacache.presenting.tables import comparison_table
from ertacache.presenting.ways import Way, plain_name
from ertacache.presenting.worst_cases import Gallery, worst_first

PICTURES = 6
"""Largest number of columns in the picture."""
CLIPS = 4
"""Largest number of clips in the contact sheet and the film."""


def run(
    *,
    model: str,
    speedups: Sequence[float],
    method: str,
    num_prompts: int,
    num_calibration_prompts: int,
    out: Path,
    seed: int,
    console: Console,
) -> list[Path]:
    """Calibrate, generate held-out prompts in several ways, measure, print a table, and write pictures and plots.

    Args:
        model: one of `ertacache.zoo.NAMES`.
        speedups: the step ratios to ask for.
        method: a method's name.
        num_prompts: how many held-out prompts; their seeds are not among those of calibration.
        num_calibration_prompts: how many prompts to calibrate on.
        out: the folder to write to.
        seed: of the first held-out prompt.
        console: where to print the table.

    Returns:
        The files that were written.
    """
    embedded = zoo.load(model)
    settings = dict(embedded.arguments)
    steps = settings.pop("num_inference_steps")
    policies: dict[str, Policy] = {}
    with TemporaryDirectory() as full_runs:  # made once for all ratios
        for speedup in speedups:
            policies[f"{speedup:g}x"] = calibrate(
                embedded.pipe,
                embedded.calibration_prompts[:num_calibration_prompts],
                num_inference_steps=steps,
                speedup=speedup,
                method=method,
                checkpoint=full_runs,
                **settings,
            )
    for ratio, policy in policies.items():
        kept_somewhere(out / f"policy-{ratio}.safetensors", policy.save)

    prompts = embedded.held_out_prompts[:num_prompts]
    full, variants = Variant("full", steps), [way for each in policies.items() for way in ways(*each)]
    ours = {way.name: policy for way, policy in zip(variants[::_WAYS], policies.values(), strict=True)}
    with CalibrationProgress(True, "generations") as progress:
        progress.phase("generating")
        progress.expect((1 + len(variants)) * len(prompts))
        gallery = Gallery(full.name, list(ours), progress.advance)
        calls = calls_of(settings, prompts, seed)
        rows = compare(embedded.pipe, full, variants, calls, on_result=gallery.take, keep_latents=True)
    console.print(comparison_table(rows))
    return kept_somewhere(out, Demonstration(model, policies, ours, prompts, rows, gallery).write)


def ways(ratio: str, policy: Policy) -> list[Variant]:
    """The policy, the best rival that needs no other package, and fewer steps, all computing as many steps.

    The rival is TaylorSeer's prediction of the denoiser's output at evenly spaced steps: of all that were measured on
    these pipelines the best or among them (docs/records/pipelines.md).
    """
    steps, computed = policy.num_inference_steps, len(policy.computed_steps)
    taylor = Policy(steps, evenly_spaced(steps, computed, (0, steps - 1)), Method.named("taylor"))
    fewer = fewer_steps(computed)
    return [
        Variant(f"{policy.method.name} {ratio}", steps, policy=policy),
        Variant(f"Taylor {ratio}", steps, policy=taylor),
        Variant(f"{fewer.name} {ratio}", computed),
    ]


_WAYS = 3
"""How many there are for each step ratio; fewer steps are the last of them."""


@dataclass(frozen=True)
class Demonstration:
    """The results of a demo.

    Args:
        model: name of the small pipeline.
        policies: the policies that were calibrated, by step ratio.
        ours: the same, by the name of their row.
        prompts: the held-out prompts.
        rows: figures of the full run, and then for each step ratio of `ways`.
        gallery: the pictures, and the error of each step.
    """

    model: str
    policies: Mapping[str, Policy]
    ours: Mapping[str, Policy]
    prompts: Sequence[str]
    rows: Sequence[Row]
    gallery: Gallery

    def write(self, folder: Path) -> list[Path]:
        """Write pictures or clips, the plots, the policies and the page; returns the files."""
        full = self.rows[0]
        are_clips = self.gallery.pictures[0][full.name].ndim == 4
        names = self._write_clips(folder) if are_clips else self._write_pictures(folder)
        errors = self.gallery.step_errors
        for (ratio, policy), name in zip(self.policies.items(), self.ours, strict=True):
            policy_plot(policy, folder / f"policy-{ratio}.png", {"held-out prompts": errors[name]})
            policy.save(folder / f"policy-{ratio}.safetensors")  # again: the folder may be another one
            names += [f"policy-{ratio}.png", f"policy-{ratio}.safetensors"]
        ways = self._ways()
        title = f"The small {self.model} pipeline, {' and '.join(self.policies)}"
        lead = (
            f"{len(self.prompts)} prompts that neither training nor calibration saw, and for each all "
            f"{full.computed_steps} steps; and with as many computed steps ours, evenly spaced Taylor prediction, and "
            "plain steps without a cache."
        )
        report_comparison(Comparison(title, lead, ways, self.ours, self._cases(ways), errors), folder / "report.html")
        return [folder / name for name in (*names, "report.html")]

    def _write_pictures(self, folder: Path) -> list[str]:
        shown = self._shown(PICTURES)
        title = (
            f"Of {len(self.prompts)} prompts that calibration never saw, the {len(shown)} on which fewer steps differ "
            "most from the full run"
        )
        captions = [self.prompts[k] for k in shown]
        side_by_side(self._columns(shown, "steps computed"), captions, folder / "pictures.png", title=title)
        return ["pictures.png"]

    def _write_clips(self, folder: Path) -> list[str]:
        shown = self._shown(CLIPS)
        columns = self._columns(shown, "steps")
        contact_sheet(columns, [self.prompts[k] for k in shown], folder / "pictures.png")
        write_film(columns, folder / "clips.mp4")
        return ["pictures.png", "clips.mp4"]

    def _shown(self, count: int) -> list[int]:
        """The prompts whose pictures are shown: those on which fewer steps, at the first ratio, differ most."""
        fewer = self.rows[_WAYS].psnr
        return sorted(range(len(self.prompts)), key=fewer.__getitem__)[:count]

    def _columns(self, shown: Sequence[int], unit: str) -> dict[str, list[Tensor]]:
        """These prompts' pictures of each way to generate, by its label."""
        pictures, first = [self.gallery.pictures[k] for k in shown], self.rows[0].name
        labels = {
            row.name: f"{row.name}\n{row.computed_steps} {unit}"
            + ("" if row.name == first else f"\n{row.mean_psnr():.1f} dB")
            for row in self.rows
        }
        return {label: [one[name] for one in pictures] for name, label in labels.items()}

    def _ways(self) -> list[Way]:
        """The rows but for the full run, as the page shows them."""
        full, *compared = self.rows
        found = []
        for number, row in enumerate(compared):
            policy, kind = list(self.ours)[number // _WAYS], number % _WAYS
            is_plain = kind == _WAYS - 1
            name = plain_name(row.computed_steps) if is_plain else row.name
            ratio = full.computed_steps / row.computed_steps
            figures = row.psnr, row.ssim, row.speedup
            found.append(Way(name, row.computed_steps, ratio, *figures, policy if kind else "", is_plain))
        return found

    def _cases(self, ways: Sequence[Way]) -> list[Case]:
        """The prompts as the page shows them, worst first."""
        full, *compared = self.rows
        names = {full.name: full.name, **{row.name: way.name for row, way in zip(compared, ways, strict=True)}}
        return [
            Case(
                self.prompts[k],
                f"prompt {k + 1}, {rank}",
                {names[name]: picture for name, picture in self.gallery.pictures[k].items()},
                {way.name: f"{way.psnr[k]:.1f} dB" for way in ways},
            )
            for k, rank in worst_first(ranking(ways).psnr, len(self.prompts))
        ]
