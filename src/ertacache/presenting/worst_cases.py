"""The prompts that a report shows, worst first, and their pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ertacache.evaluation.comparison import Result, Variant, compare
from ertacache.presenting.page import Case
from ertacache.runtime.call_results import sampling_rate_of

StepErrors = dict[str, list[list[float]]]
"""For each policy's name, one curve per prompt: the relative error of the latent after every step."""


def worst_first(psnr: Sequence[float], count: int) -> list[tuple[int, str]]:
    """Choose the prompts to show: the worst ones, and from three on also the median and the best.

    >>> worst_first([30.0, 10.0, 20.0, 40.0, 50.0], 4)
    [(1, 'the worst of 5'), (2, '2nd worst of 5'), (0, 'the median of 5'), (4, 'the best of 5')]

    Args:
        psnr: of all prompts, in dB.
        count: how many to show at most.

    Returns:
        Position and rank, as text, of each chosen prompt, the worst first.
    """
    order = sorted(range(len(psnr)), key=psnr.__getitem__)
    ranks = {k: f"{_ordinal(rank)} of {len(psnr)}" for rank, k in enumerate(order, 1)}
    if len(order) > 1:
        ranks[order[-1]] = f"the best of {len(psnr)}"
    if len(order) <= count:
        if len(order) > 2:
            ranks[order[len(order) // 2]] = f"the median of {len(psnr)}"
        return list(ranks.items())
    if count < 3:
        return [(k, ranks[k]) for k in order[:count]]
    chosen = [(k, ranks[k]) for k in order[: count - 2]]
    middle = order[max(len(order) // 2, count - 2)]
    return [*chosen, (middle, f"the median of {len(psnr)}"), (order[-1], ranks[order[-1]])]


def _ordinal(rank: int) -> str:
    if rank == 1:
        return "the worst"
    ending = {1: "st", 2: "nd", 3: "rd"}.get(rank % 10 if rank % 100 not in (11, 12, 13) else 0, "th")
    return f"{rank}{ending} worst"


class Gallery:
    """Collects pictures and step errors: its `take` is an ``on_result`` of `ertacache.evaluation.comparison.compare`.

    Args:
        full: the name of the full run.
        followed: the names of the variants whose latents are compared with the full run's after every step.
        on_generation: called with 1 after each generation.
    """

    def __init__(
        self, full: str, followed: Sequence[str] = (), on_generation: Callable[[int], None] = lambda count: None
    ) -> None:
        self.full, self.followed, self.on_generation = full, followed, on_generation
        self.pictures: list[dict[str, Tensor]] = []
        self.sounds: list[dict[str, Tensor]] = []
        self.step_errors: StepErrors = {name: [] for name in followed}
        self._reference: list[Tensor] = []

    def take(self, number: int, name: str, result: Result) -> None:
        """Add one result; for every prompt the full run's must come first.

        Args:
            number: of the prompt, from 0.
            name: of the variant.
            result: the generation.
        """
        if name == self.full:
            self.pictures.append({})
            self.sounds.append({})
            self._reference = result.latents
        self.pictures[number][name] = result.pictures[0]
        if result.sound is not None:
            self.sounds[number][name] = result.sound[0]
        if name in self.followed and result.latents:
            pairs = zip(result.latents, self._reference, strict=True)
            self.step_errors[name].append([float((a - b).norm() / b.norm()) for a, b in pairs])
        self.on_generation(1)


@dataclass(frozen=True)
class Selection:
    """Which of the measured prompts to show, and what to print beside their pictures.

    Args:
        psnr: of all measured prompts, in dB; the prompts are ranked by it.
        figures: for a prompt's position, the text beside each way to generate.
        count: how many prompts to show at most.
        followed: the names of the variants whose step errors are wanted too.
        fps: of clips, frames per second.
    """

    psnr: Sequence[float]
    figures: Callable[[int], Mapping[str, str]]
    count: int
    followed: Sequence[str] = ()
    fps: int = 8


def worst_cases(
    pipe: Any,
    full: Variant,
    variants: Sequence[Variant],
    calls: Sequence[Mapping[str, Any]],
    selection: Selection,
    *,
    on_generation: Callable[[int], None] = lambda count: None,
) -> tuple[list[Case], StepErrors]:
    """Generate the worst prompts and some others once more, to be looked at.

    Args:
        pipe: the pipeline.
        full: the reference.
        variants: the ways to generate.
        calls: all calls that were measured; see `ertacache.evaluation.comparison.compare`.
        selection: which of them to show.
        on_generation: called with 1 after each generation.

    Returns:
        The cases, the worst first, and for each followed variant its step errors on them.
    """
    chosen = worst_first(selection.psnr, selection.count)
    gallery = Gallery(full.name, selection.followed, on_generation)
    if chosen:
        shown = [calls[k] for k, _ in chosen]
        compare(pipe, full, variants, shown, on_result=gallery.take, keep_latents=bool(selection.followed))
    cases = [
        Case(
            str(calls[k].get("prompt", f"call {k + 1}")),
            f"prompt {k + 1}, {rank}",
            pictures,
            selection.figures(k),
            selection.fps,
            sounds,
            sampling_rate_of(pipe),
        )
        for (k, rank), pictures, sounds in zip(chosen, gallery.pictures, gallery.sounds, strict=True)
    ]
    return cases, gallery.step_errors
