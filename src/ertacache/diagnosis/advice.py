"""What is not refused, but should be known before the work, with what to do about it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from ertacache.diagnosis.facts import DenoiserFacts, Finding, SchedulerFacts
from ertacache.method.worthwhile import FEW_STEPS
from ertacache.runtime.denoisers import has_experts

_DISTILLED = re.compile("schnell|turbo|lightning|hyper-|lcm|distil|dmd", re.IGNORECASE)
"""Parts of the names of models that are distilled to few steps."""


def findings_of(
    pipe: Any,
    scheduler: SchedulerFacts,
    denoisers: tuple[DenoiserFacts, ...],
    steps: int | None,
    *,
    enabled: bool,
) -> tuple[Finding, ...]:
    """Find what should be known of a pipeline.

    Args:
        pipe: the pipeline.
        scheduler: what is known of its scheduler.
        denoisers: what is known of its denoisers.
        steps: T, or None if it is not known.
        enabled: whether the library is switched on for it.
    """
    found = [*_of_steps(pipe, scheduler, steps), *_of_denoisers(denoisers)]
    if has_experts(pipe):
        found.append(
            Finding("two experts share the steps", "The step at which the second takes over is always computed.")
        )
    if enabled:
        found.append(Finding("the pipeline is accelerated now", "Call ertacache.disable(pipe) to switch it off."))
    if torch.accelerator.is_available() and str(getattr(pipe, "device", "")) == "cpu" and not _offloaded(denoisers):
        accelerator = torch.accelerator.current_accelerator()
        found.append(
            Finding("the pipeline is on the CPU, and there is an accelerator", f"Move it: pipe.to('{accelerator}').")
        )
    return tuple(found)


def _of_steps(pipe: Any, scheduler: SchedulerFacts, steps: int | None) -> Iterator[Finding]:
    why = _distilled(pipe, scheduler)
    if steps is not None and steps <= FEW_STEPS:
        why = f"the call makes {steps} steps"
    if why:
        yield Finding(
            f"{why}: few steps leave little to skip, since the first and the last ones are computed and neighbouring "
            "steps differ more",
            "Run such a model without a cache; or measure first what it costs: ertacache evaluate MODEL --speedup 1.3.",
        )


def _distilled(pipe: Any, scheduler: SchedulerFacts) -> str:
    """By what a model seems to be distilled to few steps; empty if by nothing."""
    config = getattr(pipe, "config", None)
    config = config if isinstance(config, Mapping) else {}
    if config.get("is_distilled"):
        return "the pipeline's configuration says is_distilled=True"
    if any(kind in scheduler.name for kind in ("LCM", "TCD", "DMD")):
        return f"{scheduler.name} is for models that are distilled to few steps"
    name = str(config.get("_name_or_path") or "")
    match = _DISTILLED.search(name.rstrip("/").rpartition("/")[2])
    return f"by its name ({match.group()}) this model is distilled to few steps" if match else ""


def _of_denoisers(denoisers: tuple[DenoiserFacts, ...]) -> Iterator[Finding]:
    for denoiser in denoisers:
        if denoiser.unread:
            yield Finding(
                f"the weights of {denoiser.name} cannot all be read ({denoiser.unread}), so a policy's check for "
                "another checkpoint is not complete",
                "Make sure that policies are used with the checkpoint that they were calibrated on.",
            )
        if denoiser.adapters:
            yield Finding(
                f"adapters are active in {denoiser.name}: {', '.join(denoiser.adapters)}",
                "Calibrate with the adapters of the calls to come; with others, a calibrated policy is refused.",
            )


def _offloaded(denoisers: tuple[DenoiserFacts, ...]) -> bool:
    return any(state.startswith("offloaded") for denoiser in denoisers for state in denoiser.state)
