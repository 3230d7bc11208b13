"""A pipeline profiled once: policies from mild to strong, with the quality and the time of each, to choose from."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from statistics import fmean
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from ertacache.calibration.budget import QUALITIES, Budget, the_one
from ertacache.calibration.fitting import MIN_HELD_OUT
from ertacache.calibration.quality import lower_bound
from ertacache.calibration.session import Session, opened
from ertacache.calibration.solving import policy_of, searched, with_weights_of_all
from ertacache.calibration.timing import MARGIN, Costs, timed
from ertacache.errors import BudgetError, CalibrationError
from ertacache.files import reading, written_whole
from ertacache.method.named import Method
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
        CalibrationError: if there is none, or their numbers of computed steps do not fall.
    """

    policies: tuple[Policy, ...]

    def __post_init__(self) -> None:
        counts = [len(policy.computed_steps) for policy in self.policies]
        if not counts or counts != sorted(set(counts), reverse=True):
            raise CalibrationError(
                "a profile holds policies with ever fewer computed steps",
                given=f"{counts}",
                cure="Make it with ertacache.profile().",
            )

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
        """Write one safetensors file, whole or not at all."""
        plain = [policy.metadata() for policy in self.policies]
        tensors = {f"{k}.{name}": t for k, p in enumerate(self.policies) for name, t in p.tensors().items()}
        with written_whole(Path(path)) as unfinished:
            save_file(tensors, unfinished, metadata={"ertacache.profile": json.dumps(plain)})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Profile:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: if there is no such file.
            PolicyFileError: if it is damaged, or holds something else.
        """
        with reading(path, "profile") as (plain, named):
            tensors: list[dict[str, Tensor]] = [{} for _ in plain]
            for key, tensor in named.items():
                number, _, name = key.partition(".")
                tensors[int(number)][name] = tensor
            return cls(tuple(Policy.parsed(p, t, os.fspath(path)) for p, t in zip(plain, tensors, strict=True)))


def _meets(policy: Policy, name: str, value: float) -> bool:
    if name == "speedup":
        return policy.step_ratio >= value
    if name == "num_computed_steps":
        return len(policy.computed_steps) <= value
    seconds = policy.calibration.seconds
    return seconds is not None and seconds <= value * (1 - MARGIN)


def profile(
    pipe: Any,
    prompts: Sequence[str | Mapping[str, Any]],
    *,
    num_inference_steps: int,
    ratios: Sequence[float] = RATIOS,
    seed: int = 0,
    progress: bool = True,
    checkpoint: str | os.PathLike[str] | None = None,
    memory_limit: int = 2 << 30,
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
        BudgetError: if there is no ratio, or one that no policy can have.
        CalibrationError: with too few prompts, or when the denoiser returns NaN.
        PipelineError: if the pipeline cannot be served, or gives no pictures to judge.
    """
    if len(prompts) < MIN_HELD_OUT:
        raise CalibrationError(
            "a profile judges quality on prompts that the fit did not use, and there are too few",
            given=f"{len(prompts)} prompts",
            cure=f"Give {MIN_HELD_OUT} prompts or more; 16 or 32 make the intervals narrow.",
        )
    if not ratios or not all(1 < ratio < inf for ratio in ratios):
        raise _no_such_ratios(ratios, num_inference_steps, "Ask for ratios over 1.")
    with opened(
        pipe,
        prompts,
        num_inference_steps,
        full_runs=FULL_RUNS,
        traced=2 * num_inference_steps,
        seed=seed,
        progress=progress,
        checkpoint=checkpoint,
        memory_limit=memory_limit,
        call_arguments=call_arguments,
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
    if path and path.is_file():
        found = Policy.load(path)
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
