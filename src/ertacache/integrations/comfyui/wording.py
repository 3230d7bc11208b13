"""What the library says, in the words of ComfyUI's nodes and their inputs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import comfy.samplers

from ertacache.errors import Difference, ERTACacheError, PolicyMismatchError
from ertacache.learning.learnt import NO_AUDIT
from ertacache.policy import Policy
from ertacache.runtime.instant import NOTE
from ertacache.runtime.report import Report

WITHOUT = "Or take the policy off the ERTACache node: without one it follows any setting."
_OF_CODE = re.compile(r"ertacache[.( ]|\bpipe\b|set_timesteps|[a-z]\w+=")
"""What a cure says to somebody who writes Python."""
_INPUTS = {
    "num_inference_steps": "steps",
    "the number of steps that the scheduler makes": "steps",
    "true_cfg_scale": "cfg",
    "cfg_2": "the second cfg",
    "guidance_scale": "the guidance of FluxGuidance",
}
"""The inputs of nodes, by the library's names of what they set."""
_IN_REPORTS = {
    NOTE: "not calibrated: schedule and weights are what other models have in common. Learn and Calibrate come closer "
    "to the full run",
    NO_AUDIT: "not compared with a full generation since",
}


def report_text(report: Report) -> str:
    """A report, for those who use nodes."""
    text = str(report)
    for said, worded in _IN_REPORTS.items():
        text = text.replace(said, worded)
    return text


@contextmanager
def worded_for_nodes(model: Any, policy: Policy | None = None, levels: Sequence[float] = ()) -> Iterator[None]:
    """Raise the library's errors with cures that name nodes and their inputs.

    Args:
        model: the ``ModelPatcher``.
        policy: what is followed, if one is given.
        levels: the noise levels of the sampling, (T + 1,).
    """
    try:
        yield
    except PolicyMismatchError as error:
        if policy is None or error.difference is None:
            raise
        what, given, cure = _mismatch(error.difference, policy, model, levels)
        raise PolicyMismatchError(
            f"the policy does not fit this sampling: {what}", given=given, cure=f"{cure} {WITHOUT}"
        ) from error
    except ERTACacheError as error:
        if not _OF_CODE.search(error.cure):
            raise
        cure = "Sample with euler, or take ERTACache's nodes out of this workflow."
        raise type(error)(error.what, given=error.given, cure=cure) from error


def _mismatch(found: Difference, policy: Policy, model: Any, levels: Sequence[float]) -> tuple[str, str, str]:
    """What differs, what was given, and the cure."""
    field, was, now = found
    if field in _INPUTS:
        return _input(_INPUTS[field], _plain(was), _plain(now))
    if field == "scheduler class":
        return _input("sampler_name", _sampler(was), _sampler(now))
    if field.startswith("noise levels"):
        return _other_levels(policy, model, levels, (was, now))
    if field.endswith(", patches"):
        return (
            "the LoRAs or other patches on the model are not those of its calibration",
            "other patches" if "none" not in now else "no patches",
            "Load the same ones at the same strengths, or queue Calibrate with these.",
        )
    if field == "weights":
        return "the checkpoint is another one", "other weights", "Load its own, or queue Calibrate with this one."
    if field == "pipeline":
        return (
            f"it was calibrated on another model, or outside of ComfyUI: {was}",
            now,
            "Use it there, or queue Calibrate with this model.",
        )
    return f"{field} was {was}, and is {now}", now, "Set it back, or queue Calibrate with it."


def _input(name: str, was: str, now: str) -> tuple[str, str, str]:
    """The same for an input of a node."""
    why = ""
    if name in _INPUTS.values() and name != "steps":
        why = "; the nodes see guided outputs only, so weights cannot follow another scale"
    return (
        f"{name} was {was} in its calibration, and is {now} now{why}",
        f"{name} {now}",
        f"Set {name} to {was}, or queue Calibrate with {name} {now}.",
    )


def _other_levels(policy: Policy, model: Any, levels: Sequence[float], first: tuple[str, str]) -> tuple[str, str, str]:
    """The same for noise levels, with the names of the schedulers that make them, where they are ComfyUI's."""
    origin = policy.origin
    sampler = _sampler(origin.scheduler_class) if origin else ""
    was, now = (scheduler_of(some, model, sampler) for some in (origin.noise_levels if origin else (), levels))
    if was and now and was != now:
        return _input("scheduler", was, now)
    whose = f"those of {was}" if was else f"others, with {first[0]} where this has {first[1]}"
    return (
        f"its calibration had other noise levels, {whose}",
        f"the scheduler {now}" if now else "denoise below 1, another shift, or sigmas of your own",
        "Set scheduler, shift and denoise as in its calibration, or connect these sigmas to Calibrate.",
    )


def scheduler_of(levels: Sequence[float], model: Any, sampler: str) -> str:
    """The name of ComfyUI's scheduler that makes these noise levels; nothing if none does.

    Args:
        levels: (T + 1,).
        model: the ``ModelPatcher``; its shift counts.
        sampler: by name; some samplers leave one level out.
    """
    for name in comfy.samplers.SCHEDULER_NAMES if len(levels) > 1 else ():
        try:
            made = comfy.samplers.KSampler(
                model, len(levels) - 1, model.load_device, sampler, name, 1.0, model.model_options
            ).sigmas.tolist()
        except Exception:  # some cannot make so few, or need another package
            continue
        if len(made) == len(levels) and all(
            abs(a - b) <= 1e-4 * max(a, 1e-3) for a, b in zip(made, levels, strict=True)
        ):
            return str(name)
    return ""


def _sampler(text: str) -> str:
    return text.strip("'").removeprefix("ComfyUI ")


def _plain(text: str) -> str:
    """A number as people write it."""
    return text.removesuffix(".0")
