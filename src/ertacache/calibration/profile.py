"""A pipeline profiled once: policies from mild to strong, with the quality and the time of each, to choose from."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from ertacache.arguments import anything, as_error, each, instance, normalized, number
from ertacache.calibration.budget import QUALITIES, Budget, the_one
from ertacache.calibration.fitting import MIN_HELD_OUT
from ertacache.calibration.options import checked, checked_steps
from ertacache.calibration.prompts import prompts_of
from ertacache.calibration.quality import lower_bound
from ertacache.calibration.session import Session, opened
from ertacache.calibration.solving import policy_of, searched, with_weights_of_all
from ertacache.calibration.timing import MARGIN, Costs, timed
from ertacache.errors import BudgetError, CalibrationError, PolicyFileError
from ertacache.files import entries, newer, reading, save
from ertacache.method.choice import Method
from ertacache.policy import Policy

FULL_RUNS = 10
"""A profile costs at most so many full runs' denoiser calls per prompt."""
RATIOS = (1.2, 1.5, 2.0, 2.5, 3.0, 3.75, 4.25, 5.0)
"""The step ratios of its policies."""


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
        name, value = the_one(
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


def profile(
    pipe: Any,
    prompts: Iterable[str | Mapping[str, Any]],
    *,
    num_inference_steps: int,
    ratios: Sequence[float] = RATIOS,
    seed: int = 0,
    progress: bool = True,
    checkpoint: str | os.PathLike[str] | None = None,
    memory_limit: float = 2 << 30,
    **call_arguments: Any,
) -> Profile:
    """Make policies from mild to strong in one go, and measure what each costs and saves.

    At most `FULL_RUNS` full runs' denoiser calls per prompt: the full runs once, and for each policy the closed loops
    of a small search. Quality is judged on pictures, each prompt's by weights that were fitted on the others.

    Args:
        pipe: a diffusers pipeline; left as it was found.
        prompts: as `ertacache.calibrate` takes them, twelve or more; the more, the narrower the intervals.
        num_inference_steps: T.
        ratios: the step ratios wanted; where two mean the same number of steps, there is one policy.
        seed: prompt k gets a generator seeded ``seed + k``, unless its dict brings one.
        progress: show a progress bar.
        checkpoint: a folder in which full runs and finished policies are kept, so that an interrupted profile goes on.
        memory_limit: bytes; larger recordings go to files.
        **call_arguments: go to every pipeline call.

    Raises:
        ArgumentError: if an argument has another type, or a value that it cannot have.
        BudgetError: if there is no ratio, or one that no policy can have.
        CalibrationError: with too few prompts, or when the denoiser returns NaN.
        OutputError: if nothing can be written to the checkpoint.
        PipelineError: if the pipeline cannot be served, its call takes no such argument, or it gives no pictures to
            judge.
    """
    num_inference_steps = checked_steps(num_inference_steps)
    ratios = as_error(each(number), BudgetError)("ratios", ratios)
    listed = prompts_of(prompts)
    if len(listed) < MIN_HELD_OUT:
        raise CalibrationError(
            "a profile judges quality on prompts that the fit did not use, and there are too few",
            given=f"{len(listed)} prompts",
            cure=f"Give {MIN_HELD_OUT} prompts or more; 16 or 32 make the intervals narrow.",
        )
    if not ratios or not all(ratio > 1 for ratio in ratios):
        raise _no_such_ratios(ratios, num_inference_steps, "Ask for ratios over 1.")
    options = checked(
        pipe, call_arguments, seed=seed, progress=progress, checkpoint=checkpoint, memory_limit=memory_limit
    )
    with opened(
        pipe,
        listed,
        num_inference_steps,
        full_runs=FULL_RUNS,
        traced=2 * num_inference_steps,
        call_arguments=call_arguments,
        **options,
    ) as session:
        loops, setting = session.loops, session.loops.setting
        least = setting.fewest_computed
        counts = sorted({int(setting.num_steps / ratio + 1e-9) for ratio in ratios}, reverse=True)
        if not least <= counts[-1] or counts[0] >= setting.num_steps:
            cure = f"Ask for ratios over 1 and up to {setting.num_steps / least:g}."
            raise _no_such_ratios(ratios, setting.num_steps, cure)
        session.shown.phase("timing computed and cached steps")
        costs = timed(pipe, loops.calls[0].as_given(), setting)
        loops.denoiser_calls += costs.denoiser_calls
        loops.judge_pictures()
        found = []
        for position, computed in enumerate(counts):
            session.shown.phase(f"{computed} of {setting.num_steps} steps ({position + 1} of {len(counts)})")
            found.append(_point(session, computed, counts[position:], costs))
        return Profile(tuple(found))


def _no_such_ratios(ratios: Sequence[float], num_steps: int, cure: str) -> BudgetError:
    given = f"{', '.join(f'{ratio:g}' for ratio in ratios) or 'none'} at {num_steps} steps"
    return BudgetError("these ratios cannot be had", given=given, cure=cure)


def _point(session: Session, computed: int, left: Sequence[int], costs: Costs) -> Policy:
    """One policy, with its share of the denoiser calls that are left, or as an interrupted profile kept it."""
    loops, method = session.loops, Method.named("aligned")
    path = session.folder and session.folder / f"profile-{'-'.join(map(str, left))}.safetensors"
    found = _kept(path, computed, session.shown.say) if path and path.is_file() else None
    if found:
        loops.denoiser_calls = found.calibration.denoiser_calls
        return replace(found, calibration=replace(found.calibration, seconds=costs.seconds(computed)))
    available = FULL_RUNS * loops.full_run - loops.denoiser_calls
    limit = loops.denoiser_calls + available * computed / sum(left)
    notes: list[str] = []
    fit = searched(loops, method, computed, limit, notes)
    if notes:  # the user interrupted one of many searches: the whole goes on from its checkpoint another time
        raise KeyboardInterrupt
    fit = with_weights_of_all(loops, method, fit)  # a loop more, to judge it, does not fit into the ten full runs
    policy = session.finished(policy_of(loops, method, Budget(f"num_computed_steps={computed}", computed), fit))
    if path:
        policy.save(path)
    return replace(policy, calibration=replace(policy.calibration, seconds=costs.seconds(computed)))


def _kept(path: Path, computed: int, tell: Callable[[str], None]) -> Policy | None:
    """The policy that an interrupted profile kept; None if it is damaged, or is none of a profile."""
    try:
        found = Policy.load(path)
    except PolicyFileError as error:
        tell(f"{path.name} is made anew: {error.what}")
        return None
    if len(found.computed_steps) != computed or len(found.calibration.psnr) < 2:
        tell(f"{path.name} is made anew: it is no policy of a profile that computes {computed} steps")
        return None
    return found
