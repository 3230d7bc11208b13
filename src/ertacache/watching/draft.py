"""The draft: a policy for a second run of each call from the same noise, and the errors that calibration saw with it.

The errors of cached steps hardly show whether a picture turned bad, even if each one were known exactly: it depends on
how the denoiser amplifies them, which a single run does not show (docs/records/research-log.md). A second run from the
same noise does, mostly with fewer computed steps. It makes other errors, and if the denoiser amplifies small errors,
the two runs part.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

from ertacache.errors import GuardError
from ertacache.files import entries, reading, save
from ertacache.policy import Policy
from ertacache.value_checks import instance, normalized, number, text


@dataclass(frozen=True)
class Draft:
    """The policy of the second run, and the distribution of calibration's estimated errors.

    `ertacache.draft` makes it, and ``draft=`` of `ertacache.enable` and `ertacache.accelerated` takes it, with the
    policy that it was made for and no other.

    Args:
        policy: the policy of the second run.
        of: the fingerprint of the policy whose runs are checked.
        mean: the mean logarithm of the estimated errors of calibration's samples; see
            `ertacache.watching.draft_report.estimated_errors`.
        deviation: the standard deviation of that logarithm, over 0.
        limit: a sample with a higher score is farther off than calibration's; of samples like calibration's, one in
            twenty is (Student's t).
        full_runs: the cost of making the draft, in denoiser calls for each prompt, where a full run is 1; includes the
            calibration of its policy, if that was made for it.

    Raises:
        GuardError: if a value has the wrong type, or is out of range.
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
            policy=instance(Policy, "that of the second run"),
            of=text,
            # The logarithms are those of errors over 1e-12.
            mean=partial(number, at_least=-1000, at_most=1000),
            deviation=partial(number, above=0, at_most=1000),
            limit=partial(number, at_least=-1000, at_most=1000),
            full_runs=partial(number, at_least=0),
        )

    def __repr__(self) -> str:
        made = f"{len(self.policy.computed_steps)} of {self.policy.num_made_steps} steps computed"
        return f"Draft(of policy {self.of}: {made}, limit {self.limit:.2f})\n  {self.policy.pattern}"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one safetensors file, whole or not at all.

        Args:
            path: the file to write; missing folders are made.

        Raises:
            ArgumentError: if ``path`` is not a path.
            OutputError: if the file cannot be written.
        """
        plain = {f.name: getattr(self, f.name) for f in fields(self)} | {"policy": self.policy.metadata()}
        save(path, "draft", plain, self.policy.tensors())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Draft:
        """Read a draft file.

        Args:
            path: a file that `save` wrote.

        Raises:
            ArgumentError: if ``path`` is not a path.
            FileNotFoundError: if there is no such file.
            PolicyFileError: if the file is damaged, was not written by this library, or has another schema.
        """
        with reading(path, "draft") as (content, tensors):
            plain = entries(cls, content, "the draft")
            return cls(**{**plain, "policy": Policy.parsed(plain["policy"], tensors)})


def _wrong(problem: str) -> GuardError:
    return GuardError("this is not a valid draft", given=problem, cure="Make it with ertacache.draft().")


def check_draft(draft: Any, policy: Policy) -> None:
    """Raise `GuardError` if this is not a draft, or is one for another policy.

    Args:
        draft: what the user gave.
        policy: the policy whose runs are to be checked.
    """
    if not isinstance(draft, Draft):
        raise GuardError(
            "this is not a draft",
            given=type(draft).__name__,
            cure="Pass what ertacache.draft() or Draft.load() returned.",
        )
    if policy.fingerprint != draft.of:
        raise GuardError(
            "this draft is for another policy",
            given=f"policy {policy.fingerprint}, and a draft for {draft.of}",
            cure="Make a draft for this policy with ertacache.draft().",
        )
