"""What is known of a pipeline's scheduler, and which others of diffusers are supported too."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import diffusers

from ertacache.diagnosis.facts import SchedulerFacts, refusal_of
from ertacache.runtime.denoisers import has_experts
from ertacache.runtime.grid_transfer import measured_with
from ertacache.runtime.scheduler_seam import schedulers_beside
from ertacache.runtime.schedulers import fresh_twin, sampler_of
from ertacache.runtime.unwrap import own_class

STEPS = 8
"""How many steps a copy of a scheduler is set to, to see its noise levels."""


def scheduler_facts(pipe: Any) -> SchedulerFacts:
    """Look at a pipeline's schedulers.

    Args:
        pipe: the pipeline; left unchanged.
    """
    scheduler = pipe.scheduler
    refusal = refusal_of(lambda: noise_levels(scheduler))
    beside = () if scheduler is None else tuple(own_class(other).__name__ for other in schedulers_beside(pipe))
    levels = None if refusal else noise_levels(scheduler)
    return SchedulerFacts(
        own_class(scheduler).__name__ if scheduler is not None else "none",
        refusal,
        measured_with(own_class(scheduler).__name__, levels) and not has_experts(pipe) if levels else None,
        refusal is None and sampler_of(scheduler).retime is not None,
        tuple(_others(scheduler)),
        beside,
    )


def noise_levels(scheduler: Any) -> Sequence[float] | None:
    """The noise levels of a copy of a scheduler, or None if a call alone can set them.

    Raises:
        PipelineError: if the scheduler is not supported; some show that only once their timesteps are set.
    """
    sampler = sampler_of(scheduler)
    try:
        twin = fresh_twin(scheduler, STEPS)
    except Exception:  # it needs what only a call of its pipeline gives, or is somebody's own
        return None
    return sampler.noise_levels(twin)


def _others(scheduler: Any) -> list[str]:
    """diffusers' schedulers for the same kind of model that are supported, by name."""
    config = getattr(scheduler, "config", None)
    if not isinstance(config, Mapping):
        return []
    names = set()
    with _unlogged():
        for kind, options in _alike(scheduler):
            try:
                supported = noise_levels(kind.from_config(config, **options)) is not None
            except Exception:  # not supported, not installed, or whatever it raises on another one's configuration
                continue
            if supported and kind is not own_class(scheduler):
                names.add(kind.__name__)
    return sorted(names)


@contextmanager
def _unlogged() -> Iterator[None]:
    """Hide the warnings of diffusers, which are about schedulers that nobody asked for."""
    log = logging.getLogger("diffusers")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def _alike(scheduler: Any) -> list[tuple[Any, dict[str, Any]]]:
    """The classes of schedulers for the same kind of model, with the options that make them so."""
    if _is_of_flow(scheduler):
        options = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
        named = [getattr(diffusers, name) for name in _OF_FLOW]
        return [(diffusers.FlowMatchEulerDiscreteScheduler, {}), *((kind, options) for kind in named)]
    return [(kind, {}) for kind in getattr(scheduler, "compatibles", ())]


def _is_of_flow(scheduler: Any) -> bool:
    flow = scheduler.config.get("use_flow_sigmas") or scheduler.config.get("prediction_type") == "flow_prediction"
    return bool(flow) or "FlowMatch" in own_class(scheduler).__name__


_OF_FLOW = (
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "UniPCMultistepScheduler",
)
"""The schedulers that take flow matching's noise levels by an option."""
