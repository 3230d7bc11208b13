"""What the tests of rivals run on: the small pipelines, with few steps."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from benchmarks.rivals.base import Knobs, Rival, Subject
from ertacache import zoo

CALLS_PER_STEP = {"flux": 2, "wan": 2, "cogvideox": 1, "opensora": 1}
STEPS = 8
SMALLER: dict[str, Any] = {"flux": {"height": 48, "width": 48}}
"""What works there works at the trained size as well; how good it is no test here asks."""


@cache
def _work() -> TemporaryDirectory:
    return TemporaryDirectory(prefix="rivals-")


@cache
def subject_of(name: str) -> Subject:
    loaded = zoo.load(name)
    arguments = {**loaded.arguments, "num_inference_steps": STEPS, **SMALLER.get(name, {})}
    work = Path(_work().name) / name
    work.mkdir()
    return Subject(name, loaded.pipe, arguments, loaded.calibration_prompts[:2], CALLS_PER_STEP[name], work)


def generate(subject: Subject, steps: int = STEPS) -> Tensor:
    """The latents of one call."""
    made: Any = subject.pipe(
        prompt=subject.calibration_prompts[0],
        generator=torch.Generator().manual_seed(0),
        output_type="latent",
        **{**subject.arguments, "num_inference_steps": steps},
    )
    return made[0]


def generate_with(rival: Rival, subject: Subject, knobs: Knobs, prepared: Any = None) -> Tensor:
    """The same with a rival."""
    with rival.attach(subject, knobs, prepared):
        return generate(subject, rival.num_steps(subject, knobs))


def found(subject: Subject) -> Any:
    """What a rival may not change: of the pipeline and its scheduler, which any call writes into, the names alone."""
    pipe, parts = subject.pipe, {}
    for name, part in subject.denoiser.named_modules():
        attributes = {key: list(value) if isinstance(value, dict) else id(value) for key, value in vars(part).items()}
        parts[name] = attributes
    own = type(pipe), type(pipe).__call__, id(pipe.scheduler)
    return list(parts), parts, own, set(vars(pipe)), set(vars(pipe.scheduler))
