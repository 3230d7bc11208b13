"""The ways to generate that a page compares, under names that a reader knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median

from ertacache.evaluation.evaluate import variants_by_policy
from ertacache.evaluation.harness import Measured
from ertacache.evaluation.uncalibrated import Judged, followed

SAME_LEVELS = " (same levels)"
"""Ends the name of plain steps at the noise levels of the steps that a policy computes."""


@dataclass(frozen=True)
class Way:
    """One way to generate; each list holds one number per prompt.

    Args:
        name: its name in the page.
        computed_steps: how many steps run the denoiser.
        step_ratio: the full run's steps over these.
        psnr: against the full run, in dB.
        ssim: against the full run.
        speedup: of denoising, measured: the full run's time over this one's.
        beside: the name of the policy that it is compared with; empty for a policy's own way.
        is_plain: whether it is plain steps, without a cache.
        more: further figures for the table, by column.
    """

    name: str
    computed_steps: int
    step_ratio: float
    psnr: Sequence[float]
    ssim: Sequence[float]
    speedup: Sequence[float]
    beside: str = ""
    is_plain: bool = False
    more: Mapping[str, str] = field(default_factory=dict)

    @property
    def mean_psnr(self) -> float:
        """Mean over prompts, in dB."""
        return fmean(self.psnr)


def page_names(policies: Mapping[str, Judged]) -> dict[str, str]:
    """Names for readers, by the names of `ertacache.evaluation.evaluate.variants_of`: "15 plain steps", for example."""
    names: dict[str, str] = {}
    for policy, (own, *baselines) in variants_by_policy(policies).items():
        names[own.name] = policy
        for variant in baselines:
            name = plain_name(len(followed(policies[policy]).computed_steps))
            name += SAME_LEVELS if variant.noise_levels else ""
            taken = name in names.values() or name in policies
            names[variant.name] = f"{name} (as {policy})" if taken else name
    return names


def plain_name(steps: int) -> str:
    """What a page calls so many steps without a cache."""
    return f"{steps} plain step{'' if steps == 1 else 's'}"


def ways_of(policies: Mapping[str, Judged], rows: Sequence[Measured]) -> list[Way]:
    """What `ertacache.evaluation.evaluate.evaluate` measured, as a page shows it.

    Args:
        policies: by name.
        rows: what was measured of `ertacache.evaluation.evaluate.variants_of`; some may be missing.
    """
    names, measured = page_names(policies), {row.name: row for row in rows}
    found = []
    for name, variants in variants_by_policy(policies).items():
        policy = followed(policies[name])
        for variant in variants:
            if variant.name not in measured:
                continue
            row, is_plain = measured[variant.name], variant.name != name
            steps = len(policy.computed_steps), policy.step_ratio
            figures = row.psnr, row.ssim, row.speedup
            found.append(Way(names[row.name], *steps, *figures, name if is_plain else "", is_plain, _more(row)))
    return found


def _more(row: Measured) -> dict[str, str]:
    """The figures beside quality and denoising: motion of clips, further metrics, the whole call, memory."""
    return {
        **({"motion": f"{fmean(row.motion):.3f}"} if row.motion else {}),
        **{name: f"{fmean(values):.3f}" for name, values in row.more.items()},
        "whole call": f"{median(row.call_speedup):.2f}x",
        "memory": f"{row.peak_bytes / 1e6:+.1f} MB",
    }


def baseline_of(policy: Way, ways: Sequence[Way]) -> Way | None:
    """The plain steps that stand beside a policy; of two kinds, the one that is nearer to the full run."""
    plain = [way for way in ways if way.beside == policy.name and way.is_plain]
    return max(plain, key=lambda way: way.mean_psnr, default=None)
