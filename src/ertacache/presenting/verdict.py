"""What figures say in words: whether a policy is worth its error, and whether its timings can be believed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median, quantiles

from ertacache.metrics import interval
from ertacache.presenting.ways import Way, baseline_of

Timed = tuple[str, float, Sequence[float]]
"""A way to generate: its name, its step ratio, and its measured speedup on each prompt."""

IMPOSSIBLE = 1.1
"""A measured speedup of over so many times the step ratio is noise: no step costs less than nothing."""
SCATTER = 0.2
"""Timings are called unsteady if the middle half of the speedups spans more than this share of their median."""


def verdict(policy: Way, ways: Sequence[Way]) -> str:
    """One sentence about a policy: what it saves, and whether it is nearer to the full run than plain steps are.

    "Nearer" and "farther" are said if the 95 % interval of the mean difference over prompts leaves out zero.

    Args:
        policy: the policy's own way.
        ways: all that were measured.
    """
    plain = baseline_of(policy, ways)
    if plain is None:
        said = f"{policy.mean_psnr:.1f} dB against the full run, mean of {len(policy.psnr)}"
    else:
        said = _against(policy, plain)
    rivals = [way for way in ways if way.beside == policy.name and not way.is_plain]
    nearest = max(rivals, key=lambda way: way.mean_psnr, default=policy)
    if nearest.mean_psnr > policy.mean_psnr:
        said += f"; {nearest.name} is nearer than it ({nearest.mean_psnr:.1f} dB)"
    return f"{policy.step_ratio:.3g}x fewer denoiser calls; {said}."


def _against(policy: Way, plain: Way) -> str:
    differences = [ours - theirs for ours, theirs in zip(policy.psnr, plain.psnr, strict=True)]
    low, high = interval(differences)
    nearer, total = sum(difference > 0 for difference in differences), len(differences)
    means = f"({policy.mean_psnr:.1f} against {plain.mean_psnr:.1f} dB)"
    if total == 1:
        return f"on the one prompt {'nearer to' if nearer else 'no nearer to'} the full run than {plain.name} {means}"
    if nearer == total:
        return f"on all {total} prompts nearer to the full run than {plain.name} {means}"
    on = f"on {nearer} of {total} prompts nearer to the full run"
    if low > 0:
        return f"{on} than {plain.name}, and in the mean {means}"
    if high < 0:
        return f"farther from the full run than {plain.name} {means}; {on}"
    return f"no clear difference from {plain.name} {means}; {on}"


def timing_note(timed: Iterable[Timed]) -> str:
    """A warning about measured speedups that cannot be, or that scatter; empty if there is nothing to say.

    Args:
        timed: what was timed.
    """
    doubtful = []
    for name, ratio, speedups in timed:
        middle = median(speedups)
        low, _, high = quantiles(speedups, n=4, method="inclusive") if len(speedups) > 1 else [middle] * 3
        if middle > IMPOSSIBLE * ratio or high - low > SCATTER * middle:
            doubtful.append(f"{name}: {low:.2f}x to {high:.2f}x, by steps {ratio:.2f}x")
    if not doubtful:
        return ""
    return (
        "Some measured speedups are noise: they scatter, or exceed the step ratio, which skipping steps cannot. Other "
        f"programs were probably running. The middle half of the prompts: {'; '.join(doubtful)}."
    )
