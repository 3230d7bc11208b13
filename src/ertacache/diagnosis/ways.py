"""Which ways to accelerate a pipeline work, and at which levels, by the checks that calls and calibrations make."""

from __future__ import annotations

from typing import Any

import torch

from ertacache.accelerate import accelerated
from ertacache.calibration.recorder import check_sampler
from ertacache.diagnosis.denoiser_facts import is_compiled_whole
from ertacache.diagnosis.facts import LevelFacts, Refusal, Way, refusal_of
from ertacache.diagnosis.scheduler_facts import STEPS
from ertacache.errors import CalibrationError
from ertacache.runtime.block_stack import Stack
from ertacache.runtime.denoisers import denoisers_of
from ertacache.runtime.driver import Step
from ertacache.runtime.scheduler_step import is_affine
from ertacache.runtime.schedulers import check_copies, check_weights_fit, fresh_twin


def refusal_of_pipeline(pipe: Any) -> Refusal | None:
    """Why `ertacache.accelerated` refuses a pipeline whatever its policy, or None if it does not.

    Args:
        pipe: the pipeline, not accelerated; left unchanged.
    """

    def check() -> None:
        with accelerated(pipe, speedup=2.0):
            pass

    return refusal_of(check)


def ways_of(pipe: Any, refusal: Refusal | None, steps: int | None) -> tuple[Way, ...]:
    """Find which ways to accelerate a pipeline work, as far as no call shows more.

    Args:
        pipe: the pipeline; left unchanged.
        refusal: why it is not served at all, or None.
        steps: T, or None if it is not known.
    """
    shown = "T" if steps is None else steps
    codes = {
        "instant": "ertacache.accelerated(pipe, speedup=2.0)",
        "learn": 'ertacache.accelerated(pipe, speedup=2.0, learn="learnt/")',
        "calibrate": f"ertacache.calibrate(pipe, prompts, num_inference_steps={shown}, speedup=2.0)",
        "by hand": f"ertacache.Policy(num_inference_steps={shown}, cached_steps=..., "
        'method=ertacache.Method.named("taylor"))',
    }
    refusals: dict[str, Refusal | None] = dict.fromkeys(codes, refusal)
    if refusal is None:
        refusals["instant"] = refusals["learn"] = refusal_of(lambda: check_weights_fit(pipe.scheduler))
        refusals["calibrate"] = refusal_of(lambda: _check_calibrates(pipe.scheduler))
    return tuple(Way(name, code, refusals[name]) for name, code in codes.items())


def _check_calibrates(scheduler: Any) -> None:
    """Raise what calibration would raise over a scheduler, as far as a step on a latent of zeros shows it."""
    check_copies(scheduler)
    try:
        twin = fresh_twin(scheduler, STEPS)
    except Exception:  # it needs what only a call of its pipeline gives
        return
    latent = torch.zeros(1, 4, 8, 8)
    step = Step(0, {"model_output": latent, "timestep": twin.timesteps[0], "sample": latent}, True, (), twin)
    try:
        is_affine(twin, step.arguments)
    except CalibrationError:  # its step takes more arguments, or another latent
        return
    check_sampler(step)


def levels_of(pipe: Any, refusal: Refusal | None) -> tuple[LevelFacts, ...]:
    """Find what can be cached, as far as no call shows more.

    Args:
        pipe: the pipeline; left unchanged.
        refusal: why it is not served at all, or None.
    """
    refusals = {"velocity": refusal, "output": refusal, "hidden": refusal or refusal_of(lambda: _check_blocks(pipe))}
    return tuple(LevelFacts(name, why, False) for name, why in refusals.items())


def _check_blocks(pipe: Any) -> None:
    for module in denoisers_of(pipe).values():
        stack = Stack(module)
        if is_compiled_whole(module):
            raise stack.unseen()
