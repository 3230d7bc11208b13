"""The names of full runs in a checkpoint folder: equal for equal calls of equal pipelines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from ertacache.errors import CalibrationError
from ertacache.runtime.identity import Circumstances, identify
from ertacache.runtime.pipeline_key import content_of, digest_of, pipeline_key
from ertacache.runtime.repeatable_call import Call


class CheckpointKey(NamedTuple):
    """The names of a calibration's full runs: calibrations on other prompts share those of the same calls.

    Args:
        setting: of the folder: equal for equal models, settings and numerical environments.
        calls: of each full run in it.
    """

    setting: str
    calls: tuple[str, ...]

    @property
    def all_calls(self) -> str:
        """A name for what was made of all these full runs."""
        return digest_of(self.calls)


def key_of(
    pipe: Any, circumstances: Circumstances, calls: Sequence[Call], num_inference_steps: int, *, hidden: bool = False
) -> CheckpointKey:
    """Compute the names of a calibration's full runs.

    If weights cannot be read, they may have changed, so the setting's name is a new one each time.

    Args:
        pipe: the pipeline.
        circumstances: the circumstances of the calls.
        calls: one call for each prompt.
        num_inference_steps: T.
        hidden: whether the blocks' residuals are recorded too.

    Raises:
        CalibrationError: if an argument of a call is a function, or cannot be told apart from others like it.
    """
    setting = digest_of([num_inference_steps, hidden, pipeline_key(pipe, circumstances)])
    runs = (digest_of([_plain(call.arguments()), _plain(call.random.torch[0])]) for call in calls)
    return CheckpointKey(setting, tuple(runs))


def _plain(value: Any) -> Any:
    """Turn a call argument into plain values, whose ``repr`` differs for different arguments."""
    if isinstance(value, (str, int, float, complex, bytes, type(None), torch.dtype, torch.device)):
        return value
    if isinstance(value, Mapping):
        return sorted((str(key), _plain(item)) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(repr(_plain(item)) for item in value)
    if isinstance(value, torch.Generator):
        return _plain(value.get_state())
    if isinstance(value, nn.Module):
        return identify(value)
    content = content_of(value)
    if content is not None:
        return content
    if is_dataclass(value) and not callable(value):  # such as the conditions of LTX-Video
        return [type(value).__module__, type(value).__qualname__, _plain(vars(value))]
    raise _not_hashable(value)


def _not_hashable(value: Any) -> CalibrationError:
    if callable(value):
        return CalibrationError(
            "a checkpoint cannot tell a function among the call arguments from another one",
            given=getattr(value, "__qualname__", type(value).__qualname__),
            cure="Calibrate without checkpoint=, or without the callback.",
        )
    return CalibrationError(
        "a checkpoint cannot tell this argument of the call from others like it",
        given=type(value).__name__,
        cure="Calibrate without checkpoint=, or give something made of numbers, texts, tensors and pictures.",
    )
