"""What the arguments of a pipeline call say besides its prompt: how strongly to guide, and how large the output is."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import numpy as np
from torch import Tensor

from ertacache.policy import Policy
from ertacache.runtime.unwrap import own_class

_STRENGTH = re.compile("guidance|guiding|cfg|scale|(?:^|_)eta$|guess_mode|sag_|stg_|sld_")
"""In the names of a call's arguments: how strongly to guide, condition, adapt, or renoise."""
_DECODER = re.compile("^decode")
_CONTAINERS = re.compile("(?:attention|cross_attention|joint_attention)_kwargs$")
"""Arguments that hold further ones for the denoiser; an adapter's ``scale`` is given there."""
_SIZES = ("height", "width", "num_frames", "frames", "video_length", "audio_length_in_s", "duration")


@dataclass(frozen=True)
class CallSetting:
    """The setting of one call.

    Args:
        takes: the names of the arguments that calls of the pipeline take; None if they take any. A refusal advises no
            other one.
        sizes: see `sizes_of`; None where no call is made yet. A refusal names the one that differs.
        guidance: see `guidance_of`.
    """

    takes: frozenset[str] | None
    sizes: Mapping[str, int] | None = None
    guidance: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def before_any(cls, pipe: Any) -> CallSetting:
        """What is known before a call of the pipeline."""
        parameters = inspect.signature(own_class(pipe).__call__).parameters
        takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        return cls(None if takes_any else frozenset(parameters))

    @classmethod
    def of(cls, pipe: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> CallSetting:
        """That of a call of the pipeline."""
        takes = cls.before_any(pipe).takes
        return cls(takes, sizes_of(pipe, args, kwargs), guidance_of(pipe, args, kwargs))

    def resized(self, policy: Policy) -> tuple[str, str] | None:
        """The arguments about size that calibration's calls had and this one has, where they are not alike."""
        if policy.origin is None or self.sizes is None:
            return None
        both = policy.origin.sizes, self.sizes
        names = [name for name in _SIZES if both[0].get(name) != both[1].get(name)]
        told = (", ".join(f"{name}={sizes[name]}" for name in names if name in sizes) for sizes in both)
        before, now = (text or f"the pipeline's own {' and '.join(names)}" for text in told)
        return (before, now) if names else None


def guidance_of(pipe: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a call that say how strongly to guide, by name, defaults included.

    They are told by their names: all that speak of guidance, cfg or scales, in the signature of the pipeline's call or
    among the arguments for its attention. Lists are numbered: ``controlnet_conditioning_scale.0``. Wan 2.2 takes
    ``guidance_scale`` for its second expert where ``guidance_scale_2`` is not given.
    """
    signature = inspect.signature(own_class(pipe).__call__)
    bound = signature.bind_partial(pipe, *args, **kwargs)
    bound.apply_defaults()
    given = dict(bound.arguments)
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            given |= given.pop(name, {})
    if "guidance_scale_2" in given and given["guidance_scale_2"] is None:
        given["guidance_scale_2"] = given.get("guidance_scale")
    found: dict[str, float] = {}
    for name, value in given.items():
        if is_strength(name):
            found |= _numbers(name, value)
        elif _CONTAINERS.search(name) and isinstance(value, Mapping):
            for inner, part in value.items():
                numbers = _numbers(f"{name}.{inner}", part)
                found |= numbers if numbers != {f"{name}.scale": 1.0} else {}  # an adapter's, as if not given
    return found


def is_strength(name: str) -> bool:
    """Whether an argument of a call says how strongly to guide, by its name."""
    return bool(_STRENGTH.search(name)) and not _DECODER.search(name)


def _numbers(name: str, value: Any) -> dict[str, float]:
    """The numbers in an argument's value; a few, since a large tensor or array is no scale."""
    if isinstance(value, (Tensor, np.ndarray, np.generic)):
        value = value.tolist() if np.prod(value.shape) <= _FEW else None
    if isinstance(value, Real):
        return {name: float(value)}
    if isinstance(value, (list, tuple)) and len(value) <= _FEW:
        return {key: v for k, part in enumerate(value) for key, v in _numbers(f"{name}.{k}", part).items()}
    return {}


_FEW = 64


def sizes_of(pipe: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, int]:
    """The arguments of a call that say how large its outputs are, where they are given or have a default."""
    bound = inspect.signature(own_class(pipe).__call__).bind_partial(pipe, *args, **kwargs)
    bound.apply_defaults()
    values = {name: bound.arguments.get(name) for name in _SIZES}
    return {n: int(v) for n, v in values.items() if isinstance(v, (int, float, np.number)) and v == int(v)}
