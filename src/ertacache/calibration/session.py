"""One calibration's ground: the full runs of all prompts, recorded, and closed loops over them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ertacache.calibration.checkpoint import Shelf, key_of, readable
from ertacache.calibration.closed_loop import ClosedLoops
from ertacache.calibration.progress import CalibrationProgress
from ertacache.calibration.prompts import calls_for
from ertacache.calibration.recording import Recording, Setting, gram_of, record
from ertacache.errors import PipelineError
from ertacache.policy import Policy
from ertacache.runtime import identity
from ertacache.runtime.call_setting import guidance_of
from ertacache.runtime.calls import Call
from ertacache.runtime.driver import Step
from ertacache.runtime.preserving import preserved
from ertacache.runtime.randomness import RandomState
from ertacache.runtime.schedulers import sampler_of
from ertacache.runtime.transfer import carries


@dataclass(frozen=True)
class Session:
    """A pipeline's prompts, recorded in full.

    Args:
        loops: closed loops over them; they count the full runs' denoiser calls too.
        circumstances: of all calls, from before the first.
        shown: where to show progress.
        folder: where more than the full runs can be kept for the next time, if there is a checkpoint.
    """

    loops: ClosedLoops
    circumstances: identity.Circumstances
    shown: CalibrationProgress
    folder: Path | None

    def finished(self, policy: Policy) -> Policy:
        """A policy whose steps count from the first one made, as one of the whole grid, with what it was made for."""
        setting = self.loops.setting
        origin = identity.origin_of(
            self.loops.pipe,
            self.circumstances,
            noise_levels=setting.grid,
            calls_per_step=setting.calls_per_step,
            latent_shape=setting.latent_shape,
            changes=setting.changes,
        )
        record = policy.calibration
        noted = replace(record, notes=(*record.notes, *self.circumstances.doubts))
        whole = replace(shifted(policy, setting.first_step), origin=origin, calibration=noted)
        if not carries(whole) or setting.forced:
            return whole
        return replace(whole, gram=torch.from_numpy(gram_of(self.loops.recordings)))


@contextmanager
def opened(
    pipe: Any,
    prompts: Sequence[str | Mapping[str, Any]],
    num_inference_steps: int,
    *,
    full_runs: float,
    traced: int = 0,
    hidden: bool = False,
    seed: int,
    progress: bool,
    checkpoint: str | os.PathLike[str] | None,
    memory_limit: float,
    call_arguments: Mapping[str, Any],
) -> Iterator[Session]:
    """Record every prompt's full run, or find it recorded.

    Args:
        pipe: a diffusers pipeline; left as it was found.
        prompts: see `ertacache.calibrate`, as are ``seed``, ``progress``, ``checkpoint``, ``memory_limit``.
        num_inference_steps: T.
        full_runs: the most that calibration will make in all, for what it shows.
        traced: how many computed steps of closed loops will be kept as well.
        hidden: whether the blocks' residuals are recorded too.
        call_arguments: of every call.
    """
    sampler_of(pipe.scheduler)
    calls = calls_for(pipe, prompts, {**call_arguments, "num_inference_steps": num_inference_steps}, seed)
    guidance = [guidance_of(pipe, (), call.arguments()) for call in calls]
    for k, other in enumerate(guidance):
        if other != guidance[0]:
            raise _not_one_setting(k, other, guidance[0])
    circumstances = identity.circumstances_of(pipe, (), calls[0].arguments())
    key = key_of(pipe, circumstances, calls, num_inference_steps, hidden=hidden) if checkpoint else ""
    shelf = Shelf(Path(checkpoint) if checkpoint else None, key, memory_limit)
    try:
        with preserved(pipe), RandomState.current().lent(), CalibrationProgress(progress) as shown:
            recordings, setting = record_all(
                pipe, calls, num_inference_steps, shelf, shown, hidden=hidden, traced=traced, full_runs=full_runs
            )
            loops = ClosedLoops(pipe, calls, recordings, setting, shown.advance, traces_in_files=shelf.in_files)
            loops.denoiser_calls = loops.full_run  # those of full runs that were found too
            yield Session(loops, circumstances, shown, Path(checkpoint) / key if checkpoint else None)
    finally:
        shelf.close()


def record_all(
    pipe: Any,
    calls: Sequence[Call],
    num_steps: int,
    shelf: Shelf,
    shown: CalibrationProgress,
    *,
    hidden: bool = False,
    traced: int = 0,
    full_runs: float = 1,
) -> tuple[list[Recording], Setting]:
    """Record every prompt's full run, or find it recorded."""

    def announce(sample: Tensor, output: Tensor, calls_per_step: int, residuals: Sequence[Tensor] = ()) -> None:
        kept = sample.nbytes * (num_steps + 1) + output.nbytes * num_steps
        kept += traced * (output.nbytes + 4 * output.numel())  # with the branches' contrast in float32
        live = 18 * sample.numel() * 4
        live += 2 * sum(residual.nbytes for residual in residuals)  # of level hidden
        one = (output.nbytes + 4 * output.numel()) * num_steps  # at a time, with the branches' contrast in float32
        shown.expect(int(full_runs * num_steps * calls_per_step * len(calls)))
        shown.say(
            f"calibration needs {readable(live * len(calls) + one)} beside the pipeline, and keeps "
            f"{readable(kept * len(calls))} of recordings in {shelf.expect(kept * len(calls))}; it makes at most "
            f"{full_runs:g} full runs' denoiser calls per prompt"
        )

    def on_first(step: Step) -> None:
        announce(step.sample, step.model_output, step.denoiser_calls, step.residuals)

    recordings: list[Recording] = []
    setting: Setting | None = None
    found = 0
    for k, call in enumerate(calls):
        shown.phase(f"full run {k + 1} of {len(calls)}")
        kept = shelf.find(k, shown.say)
        if kept is None:
            first = on_first if not recordings else lambda step: None
            tensors, here = record(pipe, call, k, num_steps, first, shown.advance, hidden=hidden)
            kept = shelf.keep(k, tensors, here), here
        else:
            if not recordings:
                announce(kept[0].sample(0), kept[0].model_output(0), kept[1].calls_per_step)
            found += 1
            shown.advance(num_steps * kept[1].calls_per_step)
        recording, here = kept
        if setting is not None and here != setting:
            shown_of = "latents {0.latent_shape} and {0.calls_per_step} denoiser calls a step".format
            raise _not_one_setting(k, shown_of(here), shown_of(setting))
        recordings.append(recording)
        setting = here
    assert setting is not None  # there is at least one prompt
    if found:
        shown.say(f"{found} of {len(calls)} full runs were found in the checkpoint")
    return recordings, setting


def _not_one_setting(prompt: int, its: object, first: object) -> PipelineError:
    return PipelineError(
        "the prompts do not share one setting",
        given=f"prompt {prompt} has {its}, the first one {first}",
        cure="Calibrate with one resolution, one noise schedule and one guidance setting; make a policy for each.",
    )


def shifted(policy: Policy, first_step: int) -> Policy:
    """A policy whose steps count from ``first_step`` of the grid, as one of the whole grid."""
    if not first_step:
        return policy
    predictions = {
        step + first_step: replace(p, history=tuple(i + first_step for i in p.history))
        for step, p in policy.predictions.items()
    }
    return replace(
        policy,
        num_inference_steps=policy.num_inference_steps + first_step,
        first_step=first_step,
        cached_steps=tuple(step + first_step for step in policy.cached_steps),
        predictions=predictions,
        envelope=policy.envelope and policy.envelope.shifted(first_step),
    )
