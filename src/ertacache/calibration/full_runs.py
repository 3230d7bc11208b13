"""Make every prompt's full run, or load it from the checkpoint; all closed loops of a calibration build on them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ertacache.calibration.announcement import RECORDINGS, Announcement, Workload
from ertacache.calibration.arithmetic import doubt_about
from ertacache.calibration.checkpoint_key import key_of
from ertacache.calibration.gram import gram_of, surrogate_of
from ertacache.calibration.loop_runner import ClosedLoops
from ertacache.calibration.options import CalibrationOptions
from ertacache.calibration.progress import CalibrationProgress
from ertacache.calibration.prompts import calls_for
from ertacache.calibration.recorder import record
from ertacache.calibration.recording import Recording, Setting
from ertacache.calibration.recording_store import RecordingStore
from ertacache.calibration.shard import current_shard, own_numbers
from ertacache.clock import now
from ertacache.errors import PipelineError
from ertacache.policy import Policy, StreamOrigin
from ertacache.runtime import identity
from ertacache.runtime.call_setting import guidance_of
from ertacache.runtime.grid_transfer import carries
from ertacache.runtime.guidance_transfer import strength_of
from ertacache.runtime.preserving import preserved
from ertacache.runtime.randomness import RandomState
from ertacache.runtime.repeatable_call import Call
from ertacache.runtime.schedulers import sampler_of


@dataclass(frozen=True)
class Session:
    """A calibration whose full runs are recorded.

    Args:
        loops: runs closed loops over all prompts; its count of denoiser calls includes the full runs.
        circumstances: the circumstances of the calls, read before the first one.
        progress: shows the progress.
        folder: a folder of the checkpoint for what is made of all these full runs; None without a checkpoint.
        asked_steps: the ``num_inference_steps`` of the calls, if the scheduler makes another number of steps of it.
        doubt: a note for policies; empty for none.
    """

    loops: ClosedLoops
    circumstances: identity.Circumstances
    progress: CalibrationProgress
    folder: Path | None
    asked_steps: int | None
    doubt: str = ""

    def with_origin(self, policy: Policy) -> Policy:
        """Complete a policy: renumber its steps as steps of the whole grid, and add its origin and Gram matrix.

        Args:
            policy: its steps count from the first one that the calls make.
        """
        setting = self.loops.setting
        origin = identity.origin_of(
            self.loops.pipe,
            self.circumstances,
            noise_levels=setting.grid,
            calls_per_step=setting.calls_per_step,
            latent_shape=setting.latent_shape,
            changes=setting.changes,
            streams=[StreamOrigin(s.scheduler_class, s.grid, s.latent_shape) for s in setting.streams],
            asked_steps=self.asked_steps,
        )
        record = policy.calibration
        doubts = [*self.circumstances.doubts, *([self.doubt] if self.doubt else [])]
        noted = replace(record, notes=(*record.notes, *doubts))
        whole = replace(policy.shifted(setting.first_step), origin=origin, calibration=noted)
        if not carries(whole) or setting.forced or setting.streams:
            return whole
        return replace(whole, gram=torch.from_numpy(gram_of(self.loops.recordings)))


@contextmanager
def open_session(
    pipe: Any,
    prompts: Sequence[str | Mapping[str, Any]],
    options: CalibrationOptions,
    workload: Workload,
) -> Iterator[Session]:
    """Record every prompt's full run, or load it from the checkpoint.

    Args:
        pipe: a diffusers pipeline; left as it was found.
        prompts: the prompts, as `ertacache.calibrate` takes them.
        options: the options of the calibration.
        workload: what follows after the full runs.

    Raises:
        CalibrationError: if a prompt is not valid, or its full run cannot be used.
        PipelineError: if the pipeline cannot be served, or the prompts do not share one setting.
    """
    sampler_of(pipe.scheduler)
    steps, folder = options.num_inference_steps, options.checkpoint
    calls = calls_for(pipe, prompts, options.all_call_arguments, options.seed)
    guidance = [guidance_of(pipe, (), call.arguments()) for call in calls]
    for k, other in enumerate(guidance):
        if other != guidance[0]:
            raise _not_one_setting(k, other, guidance[0])
    circumstances = identity.circumstances_of(pipe, (), calls[0].arguments())
    key = key_of(pipe, circumstances, calls, steps, hidden=workload.hidden) if folder else None
    store, shard = RecordingStore(folder, key, options.memory_limit), current_shard()
    own_calls = [calls[number] for number in own_numbers(shard, len(calls))]
    try:
        with preserved(pipe), RandomState.current().lent(), shard.progress(options.progress) as progress:
            doubt = doubt_about(shard, pipe, calls[0])
            if doubt:
                progress.say(f"note: {doubt}")
            recordings, setting = record_all(pipe, calls, steps, store, progress, workload)
            surrogate = surrogate_of(recordings, setting, strength_of(guidance[0]), workload.without)
            loops = ClosedLoops(
                pipe, own_calls, recordings, setting, surrogate, progress.advance, traces_in_files=store.in_files
            )
            loops.denoiser_calls = loops.full_run  # full runs from the checkpoint are counted too
            own = folder / key.setting / key.all_calls if folder and key else None
            asked = steps if steps != len(setting.grid) - 1 else None
            yield Session(loops, circumstances, progress, own, asked, doubt)
    finally:
        store.close()


def record_all(
    pipe: Any,
    calls: Sequence[Call],
    num_steps: int,
    store: RecordingStore,
    progress: CalibrationProgress,
    workload: Workload = RECORDINGS,
) -> tuple[list[Recording], Setting]:
    """Record the full run of every prompt of this process, or load it from the store.

    Args:
        pipe: the pipeline; left as it was found.
        calls: one call for each prompt of all.
        num_steps: T.
        store: keeps the recordings.
        progress: shows the progress.
        workload: what follows after the full runs.

    Returns:
        One recording for each own prompt, and the setting that all prompts share.

    Raises:
        CalibrationError: if a full run cannot be used.
        PipelineError: if the prompts do not share one setting.
    """
    shard = current_shard()
    own = own_numbers(shard, len(calls))
    announce = Announcement(num_steps, len(calls), len(own), workload, progress, store.reserve)
    recordings: list[Recording] = []
    settings: list[Setting] = []
    found = 0
    for k in own:
        call = calls[k]
        progress.phase(f"full run {k + 1} of {len(calls)}")
        kept = store.find(k, progress.say)
        if kept is None:
            first = (lambda step: None) if recordings else announce.first_step
            began = now()
            tensors, here = record(pipe, call, k, num_steps, first, progress.advance, hidden=workload.hidden)
            if not recordings:
                announce.first_run(now() - began)
            kept = store.keep(k, tensors, here), here
        else:
            if not recordings:
                announce.found(*kept)
            found += 1
            progress.advance(num_steps * kept[1].calls_per_step)
        recordings.append(kept[0])
        settings.append(kept[1])
        _check_one_setting(settings, own.start)
    if found:
        progress.say(f"{found} of {len(own)} full runs were found in the checkpoint")
    of_all = shard.gather(settings, "full runs")
    _check_one_setting(of_all)
    return recordings, of_all[0]


def _check_one_setting(settings: Sequence[Setting], first: int = 0) -> None:
    """Raise `PipelineError` unless the settings of these prompts, of which ``first`` is the first, are the same."""
    for k, setting in enumerate(settings, first):
        if setting != settings[0]:
            shown = "latents {0.latent_shape} and {0.calls_per_step} denoiser calls a step".format
            raise _not_one_setting(k, shown(setting), shown(settings[0]))


def _not_one_setting(prompt: int, its: object, first: object) -> PipelineError:
    return PipelineError(
        "the prompts do not share one setting",
        given=f"prompt {prompt} has {its}, the first one {first}",
        cure="Calibrate with one resolution, one noise schedule and one guidance setting; make a policy for each.",
    )
