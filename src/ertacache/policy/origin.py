"""What a policy was made for: the pipeline, its models and settings. A later call must agree with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ertacache.arguments import (
    anything,
    each,
    instance,
    invalid,
    mapping,
    normalized,
    number,
    plain_json,
    refused,
    text,
    whole,
)
from ertacache.files import entries

_wrong = invalid("policy")
_size = partial(whole, at_least=1, at_most=1 << 31)


def _floats(name: str, value: Any) -> tuple[float, ...]:
    """Numbers of which some may be none, NaN."""
    if not isinstance(value, (list, tuple)) or set(map(type, value)) - {float}:
        raise refused(name, value, "floats")
    return tuple(value)


def _run(name: str, value: Any) -> tuple[str, int]:
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise refused(name, value, "a text and how many")
    return text(name, value[0]), whole(name, value[1], at_least=0)


@dataclass(frozen=True)
class Weights:
    """A few elements of every parameter of a model, by which another checkpoint is told.

    Args:
        layout: a digest of the parameters' names; empty where nothing was sampled.
        storage: how the elements are stored, in runs: ("bfloat16", 400), ("int8 of AffineQuantizedTensor", 8), ...
        elements: as they are stored, float32; NaN where they could not be read.
        values: where some are quantised, what a few elements of every parameter stand for, NaN where that is not known;
            else empty.
    """

    layout: str
    storage: tuple[tuple[str, int], ...] = ()
    elements: tuple[float, ...] = ()
    values: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        normalized(self, _wrong, layout=text, storage=each(_run), elements=_floats, values=_floats)
        count = sum(count for _, count in self.storage)
        if len(self.elements) != count:
            raise _wrong(f"{len(self.elements)} elements of weights, where {count} are named")

    def __len__(self) -> int:
        """How many elements were sampled."""
        return len(self.elements)


@dataclass(frozen=True)
class Denoiser:
    """What identifies one module that runs in the sampling loop.

    Args:
        model_class: the name of its class.
        config: its configuration, as JSON has it.
        weights: samples of its parameters.
        adapters: those that take part, with their scales.
        adapter_weights: samples of the parameters of those.
    """

    model_class: str
    config: Mapping[str, Any]
    weights: Weights
    adapters: tuple[str, ...] = ()
    adapter_weights: Weights = Weights("")

    def __post_init__(self) -> None:
        of = instance(Weights, "samples of parameters")
        normalized(self, _wrong, model_class=text, config=mapping(plain_json), weights=of)
        normalized(self, _wrong, adapters=each(text), adapter_weights=of)


@dataclass(frozen=True)
class Origin:
    """What a policy was made for; a later call must agree with it.

    Args:
        pipeline_class: the pipeline's class name.
        denoisers: for each denoiser's attribute name, and each ControlNet's, what identifies it.
        scheduler_class: the scheduler's class name.
        noise_levels: the T + 1 noise levels of the calibrated grid, before any adjustment.
        guidance: the call's numbers that say how strongly to guide, by name; see
            `ertacache.runtime.identity.guidance_of`.
        calls_per_step: denoiser calls in one step (two with separate guidance branches).
        latent_shape: shape of one sample given to the scheduler, without the batch axis.
        settings: what else changes what a call computes, as JSON has it: the pipeline's, the guiders' and the
            scheduler's configuration, attention processors and switches of the models; see
            `ertacache.runtime.settings`.
        sizes: the arguments of the calibrated calls that say how large their outputs are, where they were given.
        versions: of torch, diffusers and this library.
        changes: the steps before which a callback changed more than the latent in calibration.
    """

    pipeline_class: str
    denoisers: Mapping[str, Denoiser]
    scheduler_class: str
    noise_levels: tuple[float, ...]
    guidance: Mapping[str, float]
    calls_per_step: int
    latent_shape: tuple[int, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    changes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        normalized(
            self,
            _wrong,
            pipeline_class=text,
            denoisers=mapping(instance(Denoiser, "what identifies a module")),
            scheduler_class=text,
            noise_levels=each(number),
            guidance=mapping(number),
            calls_per_step=_size,
            latent_shape=each(_size),
            settings=mapping(plain_json),
            sizes=mapping(whole),
            versions=mapping(text),
            changes=each(whole),
        )

    def tensors(self) -> dict[str, Tensor]:
        """The sampled weights by name, as a file takes them."""
        return {
            name: torch.tensor(getattr(weights, part), dtype=torch.float32)
            for weights, part, name in _sampled(self.denoisers)
        }

    def metadata(self) -> dict[str, Any]:
        """The rest of it, as JSON takes it."""
        plain = asdict(self)
        for denoiser in plain["denoisers"].values():
            for kind in _KINDS:
                for part in _PARTS:
                    del denoiser[kind][part]
        return plain

    @classmethod
    def parsed(cls, content: Any, tensors: dict[str, Tensor]) -> Origin:
        """What `metadata` and `tensors` wrote; its tensors are taken out of the mapping.

        Raises:
            PolicyFileError: if they are no origin.
        """
        plain = entries(cls, content, "origin")
        plain["denoisers"] = {
            name: _denoiser(name, found, tensors)
            for name, found in mapping(anything)("denoisers", plain["denoisers"]).items()
        }
        return cls(**plain)


_KINDS = ("weights", "adapter_weights")
"""The fields of `Denoiser` that are samples."""
_PARTS = ("elements", "values")
"""The fields of `Weights` that a file has as tensors."""


def _sampled(denoisers: Mapping[str, Denoiser]) -> Iterator[tuple[Weights, str, str]]:
    """Samples, the name of one of their parts, and that of its tensor in a file."""
    for name, denoiser in denoisers.items():
        for kind in _KINDS:
            for part in _PARTS:
                yield getattr(denoiser, kind), part, f"{kind}.{name}.{part}"


def _denoiser(name: str, plain: Any, tensors: dict[str, Tensor]) -> Denoiser:
    found = entries(Denoiser, plain, name)
    for kind in _KINDS:
        own = entries(Weights, found[kind], f"{kind} of {name}", set(_PARTS))
        for part in _PARTS:
            tensor = tensors.pop(f"{kind}.{name}.{part}")
            if tensor.dtype != torch.float32 or tensor.ndim != 1:
                raise _wrong(f"{kind} of {name} of {tensor.dtype} and shape {tuple(tensor.shape)}")
            own[part] = tensor.tolist()
        found[kind] = Weights(**own)
    return Denoiser(**found)
