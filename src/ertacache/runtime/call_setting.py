"""Read the setting of a pipeline call off its arguments: the strength of guidance, and the size of the output."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import numpy as np
from torch import Tensor

from ertacache.policy import Policy
from ertacache.runtime.call_signature import CallSignature, all_arguments
from ertacache.runtime.unwrap import is_guider

_STRENGTH = re.compile("guidance|guiding|cfg|scale|(?:^|_)eta$|guess_mode|sag_|stg_|sld_")
"""Names of arguments that set how strongly to guide, condition, adapt, or renoise."""
_DECODER = re.compile("^decode")
"""Names of arguments for the decoder, which do not count."""
_CONTAINERS = re.compile("(?:attention|cross_attention|joint_attention)_kwargs$")
"""Names of dict arguments for the denoiser's attention, where an adapter's ``scale`` is given."""
_SIZES = ("height", "width", "num_frames", "frames", "video_length", "audio_length_in_s", "duration")


@dataclass(frozen=True)
class CallSetting:
    """The setting of one call.

    Args:
        takes: the names of the arguments that the pipeline's calls take, so that messages advise no others, or None if
            they take any.
        sizes: see `sizes_of`, or None if no call is made yet.
        guidance: see `guidance_of`.
    """

    takes: frozenset[str] | None
    sizes: Mapping[str, int] | None = None
    guidance: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def before_any(cls, pipe: Any) -> CallSetting:
        """Read what is known of the pipeline before a call."""
        signature = CallSignature.of(pipe)
        return cls(None if signature.takes_any else frozenset(signature.defaults))

    @classmethod
    def of(cls, pipe: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> CallSetting:
        """Read the setting of a call of the pipeline with these arguments."""
        takes = cls.before_any(pipe).takes
        return cls(takes, sizes_of(pipe, args, kwargs), guidance_of(pipe, args, kwargs))

    def resized(self, policy: Policy) -> tuple[str, str] | None:
        """Compare the call's size arguments with those of the policy's calibration.

        Returns:
            The differing arguments in calibration and in this call, as text for a message, or None if none differ.
        """
        if policy.origin is None or self.sizes is None:
            return None
        both = policy.origin.sizes, self.sizes
        names = [name for name in _SIZES if both[0].get(name) != both[1].get(name)]
        texts = (", ".join(f"{name}={sizes[name]}" for name in names if name in sizes) for sizes in both)
        before, now = (text or f"the pipeline's own {' and '.join(names)}" for text in texts)
        return (before, now) if names else None


def guidance_of(pipe: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, float]:
    """Find the numeric arguments of a call that set the strength of guidance, defaults included.

    They are recognised by name (see `is_strength`), among the arguments of the call and of its attention. Lists are
    numbered: ``controlnet_conditioning_scale.0``. If ``guidance_scale_2`` is not given, it is ``guidance_scale``, as
    Wan 2.2 has it for its second expert.

    Args:
        pipe: the pipeline.
        args: the positional arguments of the call.
        kwargs: the keyword arguments of the call.

    Returns:
        The numbers by name.
    """
    arguments = _of_guiders(pipe) | all_arguments(pipe, args, kwargs)
    if "guidance_scale_2" in arguments and arguments["guidance_scale_2"] is None:
        arguments["guidance_scale_2"] = arguments.get("guidance_scale")
    strengths: dict[str, float] = {}
    for name, value in arguments.items():
        if is_strength(name):
            strengths |= _numbers(name, value)
        elif _CONTAINERS.search(name) and isinstance(value, Mapping):
            for inner, part in value.items():
                numbers = _numbers(f"{name}.{inner}", part)
                strengths |= numbers if numbers != {f"{name}.scale": 1.0} else {}  # an adapter's default
    return strengths


def to_name(guidance: Mapping[str, float]) -> dict[str, float]:
    """Those of `guidance_of` that a call has to name: the second expert's is left out where it is the first's.

    It defaults to that, and pipelines with one denoiser refuse it.
    """
    second = guidance.get("guidance_scale_2")
    default = second is not None and second == guidance.get("guidance_scale")
    return {name: value for name, value in guidance.items() if not (default and name == "guidance_scale_2")}


def _of_guiders(pipe: Any) -> dict[str, Any]:
    """The scale of a pipeline's guiders, as arguments; modular pipelines keep it there."""
    found: dict[str, Any] = {}
    for name, part in getattr(pipe, "__dict__", {}).items():
        if is_guider(part) and "guidance_scale" in part.config:
            found["guidance_scale" + name.removeprefix("guider")] = part.config["guidance_scale"]
    return found


def is_strength(name: str) -> bool:
    """Whether an argument of this name sets the strength of guidance: it contains "guidance", "scale", "cfg" ..."""
    return bool(_STRENGTH.search(name)) and not _DECODER.search(name)


def _numbers(name: str, value: Any) -> dict[str, float]:
    """The numbers in an argument's value; none of a large list or tensor, which cannot be a scale."""
    if isinstance(value, (Tensor, np.ndarray, np.generic)):
        value = value.tolist() if np.prod(value.shape) <= _FEW else None
    if isinstance(value, Real):
        return {name: float(value)}
    if isinstance(value, (list, tuple)) and len(value) <= _FEW:
        return {key: v for k, part in enumerate(value) for key, v in _numbers(f"{name}.{k}", part).items()}
    return {}


_FEW = 64
"""The most numbers that one argument may have to count as a scale."""


def sizes_of(pipe: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, int]:
    """Find the arguments of a call that set the size of its output, such as ``height``, if given or with a default.

    Args:
        pipe: the pipeline.
        args: the positional arguments of the call.
        kwargs: the keyword arguments of the call.

    Returns:
        Whole numbers by name.
    """
    arguments = all_arguments(pipe, args, kwargs)
    values = {name: arguments.get(name) for name in _SIZES}
    return {n: int(v) for n, v in values.items() if isinstance(v, (int, float, np.number)) and v == int(v)}
