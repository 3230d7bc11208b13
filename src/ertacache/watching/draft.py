"""The draft: a second run of a call from the same noise, and how large calibration's errors are by that comparison.

The errors that cached steps make hardly tell whether a picture turned bad, even if each were known exactly: what tells
is how the denoiser answers to them, and a single run does not show that (docs/research-log.md). A second run from the
same noise, mostly of fewer steps, does. It has errors of its own, and where the denoiser amplifies small errors, the
two runs part.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

from ertacache.arguments import instance, normalized, number, text
from ertacache.errors import GuardError
from ertacache.files import entries, reading, save
from ertacache.policy import Policy


@dataclass(frozen=True)
class Draft:
    """What the runs of a policy are compared with, and how large calibration's errors are by that comparison.

    Args:
        policy: the draft's.
        of: the fingerprint of the policy whose runs it checks.
        mean: of the logarithm of the error, over calibration's samples; the error is what
            `ertacache.watching.draft_report.estimated_errors` of the distance and of both runs' drifts.
        deviation: its standard deviation.
        limit: the score over which a sample is farther off than calibration's: what one more sample like those exceeds
            once in twenty times (Student's t).
        full_runs: what making it cost, in full runs' denoiser calls per prompt, with the draft's policy if that was
            calibrated for it.

    Raises:
        GuardError: if these are no numbers that a score can be made of.
    """

    policy: Policy
    of: str
    mean: float
    deviation: float
    limit: float
    full_runs: float

    def __post_init__(self) -> None:
        normalized(
            self,
            _wrong,
            policy=instance(Policy, "the draft's"),
            of=text,
            # The logarithms are those of errors over 1e-12.
            mean=partial(number, at_least=-1000, at_most=1000),
            deviation=partial(number, above=0, at_most=1000),
            limit=partial(number, at_least=-1000, at_most=1000),
            full_runs=partial(number, at_least=0),
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one safetensors file, whole or not at all.

        Raises:
            ArgumentError: if ``path`` is none.
            OutputError: if it cannot be written.
        """
        plain = {f.name: getattr(self, f.name) for f in fields(self)} | {"policy": self.policy.metadata()}
        save(path, "draft", plain, self.policy.tensors())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Draft:
        """Read what `save` wrote.

        Raises:
            ArgumentError: if ``path`` is none.
            FileNotFoundError: if there is no such file.
            PolicyFileError: if it is damaged, was not written by this library, or has another schema.
        """
        with reading(path, "draft") as (content, tensors):
            plain = entries(cls, content, "the draft")
            return cls(**{**plain, "policy": Policy.parsed(plain["policy"], tensors)})


def _wrong(problem: str) -> GuardError:
    return GuardError(
        "this is no draft that a run can be compared with", given=problem, cure="Make it with ertacache.draft()."
    )


def check_draft(draft: Any, policy: Policy) -> None:
    """Raise `GuardError` if it is no draft, or one of another policy's runs."""
    if not isinstance(draft, Draft):
        raise GuardError(
            "this is not a draft",
            given=type(draft).__name__,
            cure="Pass what ertacache.draft() or Draft.load() returned.",
        )
    if policy.fingerprint != draft.of:
        raise GuardError(
            "this draft is of another policy's runs",
            given=f"policy {policy.fingerprint}, and a draft for {draft.of}",
            cure="Make one for this policy with ertacache.draft().",
        )
