"""A profile: policies of one pipeline from mild to strong, with the quality and the time of each, to choose from."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from math import inf
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
    """Policies of one pipeline in one setting, to choose from by any budget; `ertacache.profile` makes it.

    Args:
        policies: the policies, the one with the most computed steps first. Each has in ``policy.calibration`` the
            ``psnr`` (in dB) and the ``ssim`` of every prompt, by weights that were fitted without it, and the
            ``seconds`` of one whole call on the profile's machine, estimated from the timing of two calls.

    Raises:
        CalibrationError: if there is no policy, their numbers of computed steps do not fall, or one has no quality or
            time.
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

    def __repr__(self) -> str:
        most, least = self.policies[0], self.policies[-1]
        return (
            f"Profile({len(self.policies)} policies of {most.num_made_steps} steps, {most.step_ratio:.2f}x to "
            f"{least.step_ratio:.2f}x, PSNR {fmean(most.calibration.psnr):.1f} to {fmean(least.calibration.psnr):.1f} "
            f"dB over {len(most.calibration.psnr)} held-out prompts)"
        )

    def frontier(self) -> list[Policy]:
        """Return the policies that are worth their cost: each has a higher mean PSNR than all with fewer steps."""
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
        min_sound: float | None = None,
    ) -> Policy:
        """Choose the policy for exactly one budget, without a denoiser call.

        For a budget of cost, it is the policy with the highest mean PSNR that meets it. For a budget of quality, it is
        the one with the fewest computed steps whose mean quality reaches it with 95 % confidence. The ``budget`` of
        its ``calibration`` is then, for example, ``min_psnr=40 of a profile``.

        Args:
            speedup: the least step ratio.
            num_computed_steps: the most computed steps.
            seconds: the most seconds of one whole call; the policy's ``seconds`` must be 3 % less.
            min_psnr: the least mean PSNR against the full run, in dB.
            min_ssim: the least mean SSIM against the full run.
            min_sound: the least mean signal-to-error ratio of the sound against the full run's, in dB.

        Raises:
            BudgetError: if there is no budget, more than one, or one that none of these policies meets.
        """
        name, value = only_budget(
            {
                "speedup": speedup,
                "num_computed_steps": num_computed_steps,
                "seconds": seconds,
                "min_psnr": min_psnr,
                "min_ssim": min_ssim,
                "min_sound": min_sound,
            }
        )
        if name in QUALITIES:
            measured = {p: getattr(p.calibration, QUALITIES[name]) for p in self.policies}
            bounds = {p: lower_bound(values) if values else -inf for p, values in measured.items()}
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

        Args:
            path: the file to write; missing folders are made.

        Raises:
            ArgumentError: if ``path`` is not a path.
            OutputError: if the file cannot be written.
        """
        tensors = {f"{k}.{name}": t for k, p in enumerate(self.policies) for name, t in p.tensors().items()}
        save(path, "profile", {"policies": [policy.metadata() for policy in self.policies]}, tensors)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Profile:
        """Read a profile file.

        Args:
            path: a file that `save` wrote.

        Raises:
            ArgumentError: if ``path`` is not a path.
            FileNotFoundError: if there is no such file.
            PolicyFileError: if the file is damaged, was not written by this library, or has another schema.
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
