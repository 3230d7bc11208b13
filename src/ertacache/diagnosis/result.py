"""The result of an examination: what `ertacache.doctor` returns."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ertacache.diagnosis import wording
from ertacache.diagnosis.facts import (
    DenoiserFacts,
    Estimate,
    Finding,
    LevelFacts,
    PolicyFit,
    Refusal,
    SchedulerFacts,
    Way,
)
from ertacache.runtime.call_setting import to_name


@dataclass(frozen=True)
class Diagnosis:
    """What `ertacache.doctor` found; prints as a summary, the conclusion first.

    Args:
        pipeline: the name of the pipeline's class.
        device: the device that it runs on, in words.
        refusal: why it is not served, or None if it is.
        ways: the ways to accelerate it.
        levels: what can be cached.
        scheduler: its scheduler.
        denoisers: the modules that run in its sampling loop.
        guidance: the arguments that set the strength of guidance, with the values of the call that was asked about.
        findings: what should be known besides.
        estimate: what a trial on this machine says, or None if none was made.
        policy: whether the given policy fits, or None if none was given.
    """

    pipeline: str
    device: str
    refusal: Refusal | None
    ways: tuple[Way, ...]
    levels: tuple[LevelFacts, ...]
    scheduler: SchedulerFacts
    denoisers: tuple[DenoiserFacts, ...]
    guidance: dict[str, float]
    findings: tuple[Finding, ...] = ()
    estimate: Estimate | None = None
    policy: PolicyFit | None = None

    @property
    def served(self) -> bool:
        """Whether the pipeline can be accelerated; if a policy was given, by that, in the call that was asked about."""
        fits = self.policy is None or (self.policy.refusal is None and self.policy.call is None)
        return self.refusal is None and fits

    @property
    def tried(self) -> bool:
        """Whether a short call was made, so that the loop was seen and not only its parts."""
        return any(level.tried for level in self.levels)

    def to_json(self) -> dict[str, Any]:
        """Convert it to JSON data."""
        return {"served": self.served, **asdict(self)}

    def __str__(self) -> str:
        found = self.refusal is None
        rows = [
            ("ways", wording.ways(self.ways)),
            ("levels", wording.levels(self.levels)),
            *[("no " + way.name, str(way.refusal)) for way in self.ways if found and way.refusal],
            *[(f"no {level.name}", str(level.refusal)) for level in self.levels if found and level.refusal],
            *wording.scheduler_rows(self.scheduler),
            *[("ControlNet" if one.is_control else "denoiser", wording.denoiser(one)) for one in self.denoisers],
            ("guidance", wording.numbers(to_name(self.guidance))),
            *wording.policy_rows(self.policy),
            *wording.estimate_rows(self.estimate, self.tried),
            *[("note", f"{finding.what}. {finding.cure}") for finding in self.findings],
        ]
        head = [wording.conclusion(self.refusal, self.ways, self.policy, self.tried), f"{self.pipeline}, {self.device}"]
        return "\n".join([*head, "", *wording.table(rows)])
