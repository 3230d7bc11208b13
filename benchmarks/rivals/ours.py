"""ERTACache's own methods, as entries of the comparison."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from benchmarks.rivals.base import Knobs, Rival, Subject
from ertacache import Policy, accelerated, calibrate

CALIBRATION_PROMPTS = 16


def _budgets(subject: Subject) -> list[Knobs]:
    return [{"num_computed_steps": steps} for steps in subject.budgets]


def _attach(method: str) -> Callable[[Subject, Knobs, Any], AbstractContextManager[Any]]:
    """Calibrate at the first use of a setting, unless a policy for it is in the subject's folder."""

    def attach(subject: Subject, knobs: Knobs, prepared: Any) -> AbstractContextManager[Any]:
        path = subject.work / f"{method}-{knobs['num_computed_steps']}.safetensors"
        if not path.exists():
            calibrate(
                subject.pipe,
                subject.calibration_prompts[:CALIBRATION_PROMPTS],
                method=method,
                full_runs=5 * CALIBRATION_PROMPTS,
                checkpoint=subject.work / "full-runs",
                progress=False,
                **knobs,
                **subject.arguments,
            ).save(path)
        return accelerated(subject.pipe, Policy.load(path))

    return attach


ALIGNED = Rival(
    name="ERTACache, aligned",
    source="this library's default",
    knobs=_budgets,
    attach=_attach("aligned"),
)
PAPER = Rival(
    name="ERTACache, as published",
    source="arXiv 2508.21091 with its errata mended: method `paper`",
    knobs=_budgets,
    attach=_attach("paper"),
)
UNIFORM = Rival(
    name="Uniform cache",
    source="the paper's baseline: evenly spaced steps, the last output reused",
    knobs=_budgets,
    attach=_attach("uniform"),
)
