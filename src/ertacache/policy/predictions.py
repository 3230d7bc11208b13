"""The predictions of one latent, by step: their checks, and their form in a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import pairwise
from typing import Any

from ertacache.files import entries
from ertacache.method.prediction import Prediction
from ertacache.method.schedule import MOST_STEPS
from ertacache.value_checks import anything, instance, invalid, mapping, refused, whole

_step = partial(whole, at_least=0, at_most=MOST_STEPS)


def checked_predictions(name: str, value: Any) -> dict[int, Prediction]:
    """Check a dict of predictions by step.

    Raises:
        ArgumentError: if it is none.
    """
    if not isinstance(value, Mapping):
        raise refused(name, value, "a dict by step")
    check = instance(Prediction, "the factors of one step")
    return {_step(name, step): check(f"{name}[{step}]", prediction) for step, prediction in value.items()}


def inconsistent(
    predictions: Mapping[int, Prediction], cached_steps: Sequence[int], first_step: int, num_steps: int
) -> Iterator[str]:
    """Yield what does not fit together in predictions and their schedule.

    Args:
        predictions: by step.
        cached_steps: the schedule.
        first_step: the step of the grid at which the calls begin.
        num_steps: T.
    """
    cached = set(cached_steps)
    for i, p in predictions.items():
        if not first_step <= i < num_steps:
            yield "there are predictions for steps that the run does not make"
        if len(p.factors) != len(p.history) or not p.factors:
            yield "a prediction needs one factor for each step of its history"
        if len(p.contrast_factors) not in (0, len(p.history)):
            yield "a prediction needs one contrast factor for each step of its history, or none"
        if any(not first_step <= j <= i or j in cached for j in p.history):
            yield "a prediction's history has steps that are cached or come later"
        if any(a <= b for a, b in pairwise(p.history)):
            yield "a prediction's history must go from the newest step to the oldest"
        if i not in cached and p.history[0] != i:
            yield "the history of a computed step's correction must begin with that step"


def shifted(predictions: Mapping[int, Prediction], first_step: int) -> dict[int, Prediction]:
    """Renumber the steps as steps of a whole grid of which calls make the last part.

    Args:
        predictions: by step.
        first_step: the position in the grid of the step that is step 0 here.
    """
    return {
        step + first_step: replace(p, history=tuple(i + first_step for i in p.history))
        for step, p in predictions.items()
    }


def as_json(predictions: Mapping[int, Prediction]) -> dict[int, Any]:
    """Write predictions as JSON data; `parsed_predictions` reads it."""
    return {step: asdict(prediction) for step, prediction in predictions.items()}


def parsed_predictions(name: str, content: Any) -> dict[int, Prediction]:
    """Read what `as_json` wrote.

    Raises:
        PolicyFileError: if the content is something else.
    """
    return {
        _step_of(step): Prediction(**entries(Prediction, part, f"{name}[{step}]"))
        for step, part in mapping(anything)(name, content).items()
    }


def _step_of(written: str) -> int:
    if str(_step("a step", int(written))) != written:
        raise invalid("policy")(f"{written!r} is not a step")
    return int(written)
