"""Calibrate a policy on a ComfyUI model: on a list of conditionings, with the sampler and schedule of the workflow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.utils
from torch import Tensor

from ertacache.calibration import calibrate
from ertacache.integrations.comfyui.line import ComfyLine, attach, guidance_of
from ertacache.policy import Policy


@dataclass(frozen=True)
class Workflow:
    """What a workflow samples with.

    Args:
        model: the ``ModelPatcher``.
        positives: the conditionings, one for each prompt.
        negative: the negative conditioning of all.
        latent: the empty latent, (1, ...), whose size the pictures have.
        sampler: a ``comfy.samplers.KSAMPLER``.
        sigmas: the noise levels, (T + 1,).
        cfg: the guidance scale.
        seed: of the first prompt; each next one has the next.
    """

    model: Any
    positives: Sequence[Any]
    negative: Any
    latent: Tensor
    sampler: Any
    sigmas: Tensor
    cfg: float
    seed: int

    def sampling(self, prompt: int) -> Callable[[ComfyLine], Tensor]:
        """How ComfyUI samples a prompt through a line."""
        seed = self.seed + prompt

        def begin(line: ComfyLine) -> Tensor:
            result: Tensor = comfy.sample.sample_custom(
                attach(self.model, line.through),
                comfy.sample.prepare_noise(self.latent, seed),
                self.cfg,
                self.sampler,
                self.sigmas.clone(),  # uni_pc writes into it
                self.positives[prompt],
                self.negative,
                self.latent,
                callback=_interruptible,
                disable_pbar=True,
                seed=seed,
            )
            return result

        return begin


def calibrated(workflow: Workflow, speedup: float, full_runs: float) -> Policy:
    """Calibrate method ``aligned``, with ComfyUI's progress bar and interrupt.

    Args:
        workflow: what it samples with.
        speedup: at least so many steps for each computed one.
        full_runs: the limit of the whole calibration, in full samplings.

    Raises:
        ERTACacheError: with the cure, if it cannot be done.
    """
    steps = len(workflow.sigmas) - 1
    guidance: dict[str, Any] = dict(guidance_of(_Conditioned(workflow.cfg, workflow.positives[0])))
    progress = _Progress(round(full_runs * steps))
    return calibrate(
        ComfyLine(workflow.model, workflow.sampler, live=False, counted=progress.one_more),
        [{"begin": workflow.sampling(prompt)} for prompt in range(len(workflow.positives))],
        num_inference_steps=steps,
        speedup=speedup,
        full_runs=full_runs,
        progress=False,
        **guidance,
    )


class _Conditioned:
    """What `guidance_of` asks of a guider."""

    def __init__(self, cfg: float, positive: Any) -> None:
        self.cfg = cfg
        self.conds = {"positive": [options for _, options in positive]}


def _interruptible(step: int, denoised: Tensor, latent: Tensor, steps: int) -> None:
    comfy.model_management.throw_exception_if_processing_interrupted()


class _Progress:
    """ComfyUI's progress bar, over evaluations of the model."""

    def __init__(self, total: int) -> None:
        self.bar, self.total, self.done = comfy.utils.ProgressBar(total), total, 0

    def one_more(self) -> None:
        self.done += 1
        self.bar.update_absolute(min(self.done, self.total), self.total)
