"""A profile: policies of one pipeline from mild to strong, with the quality and the time of each, to choose from."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from statistics import fmean

from ertacache.calibration.budget import QUALITIES, only_budget
from ertacache.calibration.quality import lower_bound
from ertacache.calibration.timing import MARGIN
from ertacache.errors import BudgetError, CalibrationError
from ertacache.files import entries, newer, reading, save
from ertacache.policy import Policy
from ertacache.value_checks import anything, each, instance, normalized


@dataclass(frozen=True)
class Profile:
    """Policies of one pipeline in one setting, the one with the most computed steps first.

    Each says in ``policy.calibration`` what it measured: PSNR and SSIM of every prompt by weights that were fitted
    without it, and the seconds of a call on the machine of the profile.

    Raises:
        CalibrationError: if there is none, their numbers of computed steps do not fall, or one says nothing of its
            quality or time.
    """

    policies: tuple[Policy, ...]

    def __post_init__(self) -> None:
        normalized(self, _wrong, policies=each(instance(Policy, "of those that ertacache.profile() makes")))
        counts = [len(policy.computed_steps) for policy in self.policies]
        if not counts or counts != sorted(set(counts), reverse=True):
            raise _wrong(f"it holds policies with ever fewer computed steps, and these compute {counts}")
        grids = {(policy.num_inference_steps, policy.first_step) for policy in self.policies}
        if len(grids) > 1:
            raise _wrong(f"its policies are of the same steps, and these of {sorted(grids)}")
        for policy, count in zip(self.policies, counts, strict=True):
            if len(policy.calibration.psnr) < 2 or policy.calibration.seconds is None:
                raise _wrong(f"the policy of {count} steps does not say what quality it has, or what time it takes")

    def frontier(self) -> list[Policy]:
        """The policies that no other one beats: each has a higher mean PSNR than all that compute fewer steps."""
        kept: list[Policy] = []
        for policy in reversed(self.policies):
            if not kept or fmean(policy.calibration.psnr) > fmean(kept[-1].calibration.psnr):
                kept.append(policy)
        return kept[::-1]

    def policy(
        self,
        *,
        speedup: float | None = None,
        num_computed_steps: int | None = None,
        seconds: float | None = None,
        min_psnr: float | None = None,
        min_ssim: float | None = None,
    ) -> Policy:
        """The policy that meets exactly one budget, without a denoiser call; see `ertacache.calibrate`.

        For a budget of cost it is the one of the highest PSNR that meets it, for one of quality the one with the fewest
        computed steps whose quality is this in the mean, with 95 % confidence.

        Raises:
            BudgetError: on no budget, several, or one that none of these policies meets.
        """
        name, value = only_budget(
            {
                "speedup": speedup,
                "num_computed_steps": num_computed_steps,
                "seconds": seconds,
                "min_psnr": min_psnr,
                "min_ssim": min_ssim,
            }
        )
        if name in QUALITIES:
            bounds = {p: lower_bound(getattr(p.calibration, QUALITIES[name])) for p in self.policies}
            meeting = [policy for policy in self.policies if bounds[policy] >= value][-1:]
            best = f"the mildest reaches {max(bounds.values()):.4g} with confidence"
        else:
            meeting = [policy for policy in self.frontier() if _meets(policy, name, value)][:1]
            strongest = self.policies[-1]
            best = (
                f"the strongest computes {len(strongest.computed_steps)} of {strongest.num_made_steps} steps and takes "
                f"{strongest.calibration.seconds or float('nan'):.3g} s"
            )
        if not meeting:
            raise BudgetError(
                "no policy of this profile meets the budget",
                given=f"{name}={value:g}; {best}",
                cure="Ask for less, or calibrate for this budget with ertacache.calibrate().",
            )
        found = meeting[0]
        return replace(found, calibration=replace(found.calibration, budget=f"{name}={value:g} of a profile"))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one safetensors file, whole or not at all.

        Raises:
            ArgumentError: if ``path`` is none.
            OutputError: if it cannot be written.
        """
        tensors = {f"{k}.{name}": t for k, p in enumerate(self.policies) for name, t in p.tensors().items()}
        save(path, "profile", {"policies": [policy.metadata() for policy in self.policies]}, tensors)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Profile:
        """Read what `save` wrote.

        Raises:
            ArgumentError: if ``path`` is none.
            FileNotFoundError: if there is no such file.
            PolicyFileError: if it is damaged, was not written by this library, or has another schema.
        """
        with reading(path, "profile") as (content, named):
            plain = each(anything)("policies", entries(cls, content, "the profile")["policies"])
            starts = [f"{k}." for k in range(len(plain))]
            own = [{key.removeprefix(s): t for key, t in named.items() if key.startswith(s)} for s in starts]
            if sum(map(len, own)) < len(named):
                raise newer(f"tensors of more than {len(plain)} policies")
            return cls(tuple(Policy.parsed(*pair) for pair in zip(plain, own, strict=True)))


def _wrong(problem: str) -> CalibrationError:
    return CalibrationError("this is not a profile", given=problem, cure="Make it with ertacache.profile().")


def _meets(policy: Policy, name: str, value: float) -> bool:
    if name == "speedup":
        return policy.step_ratio >= value
    if name == "num_computed_steps":
        return len(policy.computed_steps) <= value
    seconds = policy.calibration.seconds
    return seconds is not None and seconds <= value * (1 - MARGIN)
