"""The origin of a policy: the pipeline, models and settings that it was calibrated on.

`ertacache.runtime.identity` reads it off a pipeline; `ertacache.runtime.policy_checks` compares later calls with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ertacache.files import entries
from ertacache.value_checks import (
    anything,
    each,
    instance,
    invalid,
    mapping,
    normalized,
    number,
    optional,
    plain_json,
    refused,
    text,
    whole,
)

_wrong = invalid("policy")
_size = partial(whole, at_least=1, at_most=1 << 31)


def _floats(name: str, value: Any) -> tuple[float, ...]:
    """Check a list of floats, which may contain NaN."""
    if not isinstance(value, (list, tuple)) or set(map(type, value)) - {float}:
        raise refused(name, value, "a list of floats")
    return tuple(value)


def _run(name: str, value: Any) -> tuple[str, int]:
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise refused(name, value, "a string and a count")
    return text(name, value[0]), whole(name, value[1], at_least=0)


@dataclass(frozen=True)
class Weights:
    """A few elements of every parameter of a model, to tell checkpoints apart.

    Args:
        layout: a digest of the parameters' names; empty if nothing was sampled.
        storage: how the elements are stored, in runs: ("bfloat16", 400), ("int8 of AffineQuantizedTensor", 8), ...
        elements: the sampled elements as they are stored, as floats; NaN where they could not be read.
        values: if some parameters are quantised, the dequantised values of a few elements of every parameter, NaN where
            unknown; else empty.

    Raises:
        PolicyFileError: if a value has the wrong type, or ``elements`` and ``storage`` disagree in length.
    """

    layout: str
    storage: tuple[tuple[str, int], ...] = ()
    elements: tuple[float, ...] = ()
    values: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        normalized(self, _wrong, layout=text, storage=each(_run), elements=_floats, values=_floats)
        count = sum(count for _, count in self.storage)
        if len(self.elements) != count:
            raise _wrong(f"there are {len(self.elements)} sampled weights, where {count} are named")

    def __len__(self) -> int:
        """The number of sampled elements."""
        return len(self.elements)


ANY_ADAPTERS = "*"
"""Before the calibrated adapters of a `Denoiser`: calls with others are followed too, at a cost that is not known."""


@dataclass(frozen=True)
class Denoiser:
    """The identity of one module that runs in the sampling loop: a denoiser, or a ControlNet.

    Args:
        model_class: the name of the module's class.
        config: the module's configuration, as JSON data.
        weights: samples of the module's parameters.
        adapters: the active adapters, with their scales; after `ANY_ADAPTERS`, if any others are followed too.
        adapter_weights: samples of the parameters of the active adapters.

    Raises:
        PolicyFileError: if a value has the wrong type.
    """

    model_class: str
    config: Mapping[str, Any]
    weights: Weights
    adapters: tuple[str, ...] = ()
    adapter_weights: Weights = Weights("")

    def __post_init__(self) -> None:
        samples = instance(Weights, "samples of parameters")
        normalized(self, _wrong, model_class=text, config=mapping(plain_json), weights=samples)
        normalized(self, _wrong, adapters=each(text), adapter_weights=samples)


@dataclass(frozen=True)
class StreamOrigin:
    """A further latent that the calibrated loop stepped, such as sound.

    Args:
        scheduler_class: the class name of what stepped it.
        noise_levels: the T + 1 noise levels of its grid.
        latent_shape: shape of one sample, without the batch axis.

    Raises:
        PolicyFileError: if a value has the wrong type, or is out of range.
    """

    scheduler_class: str
    noise_levels: tuple[float, ...]
    latent_shape: tuple[int, ...]

    def __post_init__(self) -> None:
        normalized(self, _wrong, scheduler_class=text, noise_levels=each(number), latent_shape=each(_size))


@dataclass(frozen=True)
class Origin:
    """What a policy was calibrated on; a later call must agree with it.

    Args:
        pipeline_class: the pipeline's class name.
        denoisers: the identity of each denoiser and ControlNet, by attribute name of the pipeline.
        scheduler_class: the scheduler's class name.
        noise_levels: the T + 1 noise levels of the calibrated grid, before any adjustment.
        guidance: the numeric arguments of the calls that set the strength of guidance, by name; see
            `ertacache.runtime.call_setting.guidance_of`.
        calls_per_step: denoiser calls in one step (two with separate guidance branches).
        latent_shape: shape of one sample given to the scheduler, without the batch axis.
        settings: what else changes the result of a call, as JSON data: the configuration of the pipeline, the guiders
            and the scheduler, attention processors and switches of the models; see
            `ertacache.runtime.pipeline_settings`.
        sizes: the arguments of the calls that set the size of their outputs, such as ``height``, where given.
        versions: of torch, diffusers and this library.
        changes: the steps before which a callback changed more than the latent during calibration.
        streams: the further latents that the loop stepped, in the order in which it stepped them.
        asked_steps: the ``num_inference_steps`` of the calls, if the scheduler made another number of steps of it.

    Raises:
        PolicyFileError: if a value has the wrong type, or is out of range.
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
    streams: tuple[StreamOrigin, ...] = ()
    asked_steps: int | None = None

    def __post_init__(self) -> None:
        normalized(
            self,
            _wrong,
            pipeline_class=text,
            denoisers=mapping(instance(Denoiser, "the identity of a module")),
            scheduler_class=text,
            noise_levels=each(number),
            guidance=mapping(number),
            calls_per_step=_size,
            latent_shape=each(_size),
            settings=mapping(plain_json),
            sizes=mapping(whole),
            versions=mapping(text),
            changes=each(whole),
            streams=each(instance(StreamOrigin, "a further latent of the loop")),
            asked_steps=optional(_size),
        )

    def tensors(self) -> dict[str, Tensor]:
        """The sampled weights by name, for a file; `parsed` reads them."""
        return {
            name: torch.tensor(getattr(weights, part), dtype=torch.float32)
            for weights, part, name in _sampled(self.denoisers)
        }

    def metadata(self) -> dict[str, Any]:
        """All but the sampled weights, as JSON data; `parsed` reads it."""
        plain = asdict(self)
        for name in ("streams", "asked_steps"):  # older versions read files without them
            if not plain[name]:
                del plain[name]
        for denoiser in plain["denoisers"].values():
            for kind in _KINDS:
                for part in _PARTS:
                    del denoiser[kind][part]
        return plain

    @classmethod
    def parsed(cls, content: Any, tensors: dict[str, Tensor]) -> Origin:
        """Read what `metadata` and `tensors` returned; the tensors used are removed from the mapping.

        Raises:
            PolicyFileError: if the content is not an origin.
        """
        plain = entries(cls, content, "origin")
        plain["denoisers"] = {
            name: _denoiser(name, part, tensors)
            for name, part in mapping(anything)("denoisers", plain["denoisers"]).items()
        }
        streams = each(anything)("streams", plain.get("streams", ()))
        plain["streams"] = tuple(StreamOrigin(**entries(StreamOrigin, part, "a stream")) for part in streams)
        return cls(**plain)


_KINDS = ("weights", "adapter_weights")
"""The fields of `Denoiser` that hold samples."""
_PARTS = ("elements", "values")
"""The fields of `Weights` that a file stores as tensors."""


def _sampled(denoisers: Mapping[str, Denoiser]) -> Iterator[tuple[Weights, str, str]]:
    """Yield, for each tensor of a file: the samples, the field of them that it holds, and its name in the file."""
    for name, denoiser in denoisers.items():
        for kind in _KINDS:
            for part in _PARTS:
                yield getattr(denoiser, kind), part, f"{kind}.{name}.{part}"


def _denoiser(name: str, plain: Any, tensors: dict[str, Tensor]) -> Denoiser:
    values = entries(Denoiser, plain, name)
    for kind in _KINDS:
        samples = entries(Weights, values[kind], f"{kind} of {name}", set(_PARTS))
        for part in _PARTS:
            tensor = tensors.pop(f"{kind}.{name}.{part}")
            if tensor.dtype != torch.float32 or tensor.ndim != 1:
                raise _wrong(f"{kind} of {name} cannot have {tensor.dtype} and shape {tuple(tensor.shape)}")
            samples[part] = tensor.tolist()
        values[kind] = Weights(**samples)
    return Denoiser(**values)
