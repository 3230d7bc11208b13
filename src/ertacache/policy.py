"""The policy: what calibration decides once, and every later generation follows. Frozen, validated, one file."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import chain, pairwise
from typing import Any

import torch
from torch import Tensor

from ertacache.arguments import (
    anything,
    each,
    flag,
    instance,
    mapping,
    normalized,
    number,
    one_of,
    optional,
    plain_json,
    refused,
    text,
    whole,
)
from ertacache.errors import PolicyFileError
from ertacache.files import entries, newer, reading, save
from ertacache.method.envelope import Envelope
from ertacache.method.named import Method
from ertacache.method.rectification import GRANULARITIES, Granularity

MOST_STEPS = 10_000
"""Of a policy; no sampler makes as many."""
LARGEST = 1e9
"""No factor that was fitted comes near this; what is made with much larger ones is not finite."""


def _wrong(problem: str) -> PolicyFileError:
    return PolicyFileError("this is not a valid policy", given=problem, cure="Make it with ertacache.calibrate().")


_step = partial(whole, at_least=0, at_most=MOST_STEPS)
_count = partial(whole, at_least=0)
_size = partial(whole, at_least=1, at_most=1 << 31)
_factor = partial(number, at_least=-LARGEST, at_most=LARGEST)
_quality = partial(number, at_least=-1000, at_most=1000)


def _fitted(name: str, value: Any) -> Tensor:
    """A tensor of factors, float64."""
    fits = isinstance(value, Tensor) and value.dtype == torch.float64 and not value.is_meta
    if not fits or not bool((value.abs() <= LARGEST).all()):  # false of NaN too
        raise refused(name, value, f"a tensor of float64, finite and within {LARGEST:g}")
    return value  # type: ignore[no-any-return]  # a tensor


def _floats(name: str, value: Any) -> tuple[float, ...]:
    """Numbers of which some may be none, NaN."""
    if not isinstance(value, (list, tuple)) or set(map(type, value)) - {float}:
        raise refused(name, value, "floats")
    return tuple(value)


def _run(name: str, value: Any) -> tuple[str, int]:
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise refused(name, value, "a text and how many")
    return text(name, value[0]), _count(name, value[1])


def _predictions(name: str, value: Any) -> dict[int, Prediction]:
    if not isinstance(value, Mapping):
        raise refused(name, value, "a mapping from steps")
    check = instance(Prediction, "how a step is predicted")
    return {_step(name, step): check(f"{name}[{step}]", found) for step, found in value.items()}


@dataclass(frozen=True)
class Prediction:
    """What a step goes on with: ``sum_k factors[k] * h_k + sum_k contrast_factors[k] * d_k``.

    Args:
        history: the computed steps, newest first; a computed step's own correction has itself in front.
        factors: of what the cache holds of each.
        contrast_factors: of how the guidance branches differed at each, or empty.
    """

    history: tuple[int, ...]
    factors: tuple[float, ...]
    contrast_factors: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        normalized(self, _wrong, history=each(_step), factors=each(_factor), contrast_factors=each(_factor))


@dataclass(frozen=True, eq=False)
class Rectification:
    """``K`` and ``B`` of Eq. (15), float64, stacked over the cached steps: (steps, *granularity's shape)."""

    granularity: Granularity
    axis: int
    k: Tensor
    b: Tensor

    def __post_init__(self) -> None:
        normalized(self, _wrong, granularity=one_of(*GRANULARITIES), axis=partial(whole, at_least=1, at_most=8))
        normalized(self, _wrong, k=_fitted, b=_fitted)
        axes = {"step": (1,), "channel": (2,), "element": range(2, 9)}[self.granularity]
        if self.k.shape != self.b.shape or self.k.ndim not in axes:
            raise _wrong(f"the rectification has K and B of shapes {[*self.k.shape]} and {[*self.b.shape]}")

    def part_of(self, shape: Sequence[int]) -> tuple[int, ...]:
        """What K and B have one entry for, in outputs of this shape, which is without the batch axis."""
        axes = {"step": slice(0), "channel": slice(self.axis - 1, self.axis), "element": slice(None)}
        return tuple(shape[axes[self.granularity]])


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


@dataclass(frozen=True)
class CalibrationRecord:
    """What calibration did and measured.

    Args:
        budget: the budget as it was asked for, e.g. ``speedup=2.0``.
        num_prompts: how many prompts it ran on.
        denoiser_calls: all of them, the full runs included.
        full_runs: the same per prompt, in units of one full run.
        error: ``||x_T - x_T_gt|| / ||x_T_gt||`` over the calibration prompts, closed loop.
        step_errors: the same for the latent after each step.
        threshold: the lambda of Eq. (12), where Algorithm 2 chose the schedule.
        notes: what the user should know, e.g. that Taylor weights were kept.
        psnr: of each calibration prompt's pictures against its full run's, in dB, by weights that were fitted without
            it; empty where nobody asked.
        ssim: the same.
        seconds: of one whole call on the machine of the calibration, where that was timed or follows from what was.
        taylor_kept: whether Taylor's weights were nearer to the full runs than fitted ones, and are the policy's.
    """

    budget: str
    num_prompts: int = 0
    denoiser_calls: int = 0
    full_runs: float = 0.0
    error: float | None = None
    step_errors: tuple[float, ...] = ()
    threshold: float | None = None
    notes: tuple[str, ...] = ()
    psnr: tuple[float, ...] = ()
    ssim: tuple[float, ...] = ()
    seconds: float | None = None
    taylor_kept: bool = False

    def __post_init__(self) -> None:
        normalized(
            self,
            _wrong,
            budget=text,
            num_prompts=_count,
            denoiser_calls=_count,
            full_runs=partial(number, at_least=0),
            error=optional(partial(number, at_least=0)),
            step_errors=each(partial(number, at_least=0)),
            threshold=optional(number),
            notes=each(text),
            psnr=each(_quality),
            ssim=each(_quality),
            seconds=optional(partial(number, above=0)),
            taylor_kept=flag,
        )


@dataclass(frozen=True, eq=False)
class Policy:
    """Which steps to skip and what to use there.

    Args:
        num_inference_steps: T.
        cached_steps: S, within {1 .. T-1}; all methods but `aligned` compute the last step too.
        method: what made it.
        predictions: for each cached step, how it is predicted, and for computed steps, how they are corrected.
        origin: what it was made for; None for a policy written by hand, which is then not checked.
        time_grid: T + 1 points from 0 to 1 (Eq. 14), or None for the scheduler's own grid.
        rectification: the error model, one entry a cached step.
        calibration: what calibration did and measured.
        first_step: the step of the grid with which the calls begin, for image-to-image.
        envelope: how far calibration's prompts drifted, for a guard; None where that is not known.
        gram: ``<v_i, v_j>`` of the full runs' outputs, summed over prompts, (T, T), float64; where the guidance
            branches were seen, their contrasts are further rows, (2T, 2T). What a transfer to other noise levels
            needs; None where there can be none.

    Raises:
        PolicyFileError: if these do not fit together.
    """

    num_inference_steps: int
    cached_steps: tuple[int, ...]
    method: Method
    predictions: Mapping[int, Prediction] = field(default_factory=dict)
    origin: Origin | None = None
    time_grid: tuple[float, ...] | None = None
    rectification: Rectification | None = None
    calibration: CalibrationRecord = CalibrationRecord(budget="none")
    first_step: int = 0
    envelope: Envelope | None = None
    gram: Tensor | None = None

    def __post_init__(self) -> None:
        normalized(
            self,
            _wrong,
            num_inference_steps=partial(whole, at_least=1, at_most=MOST_STEPS),
            cached_steps=each(_step),
            method=instance(Method, "such as Method.named('aligned')"),
            predictions=_predictions,
            origin=optional(instance(Origin, "what it was made for")),
            time_grid=optional(each(number)),
            rectification=optional(instance(Rectification, "an error model")),
            calibration=instance(CalibrationRecord, "what calibration did"),
            first_step=_step,
            envelope=optional(instance(Envelope, "how far calibration's prompts drifted")),
            gram=optional(instance(Tensor, "float64")),
        )
        problem = next(chain(self._in_steps(), self._in_predictions(), self._in_measured()), None)
        if problem:
            raise _wrong(problem)

    def _in_steps(self) -> Iterator[str]:
        """What does not fit together in the schedule and on its grid."""
        steps, cached, first = self.num_inference_steps, self.cached_steps, self.first_step
        if not first < steps:
            yield f"there are {steps} steps, of which the first is step {first}"
        if list(cached) != sorted(set(cached)) or any(not first < i < steps for i in cached):
            yield f"cached steps must rise within {first + 1} .. {steps - 1}, but are {cached}"
        if self.origin and len(self.origin.noise_levels) != steps + 1:
            yield f"{steps} steps go along {steps + 1} noise levels, and it has {len(self.origin.noise_levels)}"
        if self.time_grid is not None:
            grid = self.time_grid
            if len(grid) != steps + 1 or grid[0] != 0 or grid[-1] != 1 or any(b <= a for a, b in pairwise(grid)):
                yield f"the time grid must rise from 0 to 1 over {steps + 1} points"
            if any(b - a < 1e-3 / steps for a, b in pairwise(grid)):  # solvers divide by the gap
                yield "the time grid has points that lie closer than a thousandth of an even step"

    def _in_predictions(self) -> Iterator[str]:
        cached = set(self.cached_steps)
        for i, p in self.predictions.items():
            if not self.first_step <= i < self.num_inference_steps:
                yield "there are predictions for steps that are not made"
            if len(p.factors) != len(p.history) or not p.factors:
                yield "a prediction has not one factor for each step of its history"
            if len(p.contrast_factors) not in (0, len(p.history)):
                yield "a prediction has not one contrast factor for each step of its history"
            if any(not self.first_step <= j <= i or j in cached for j in p.history):
                yield "a prediction's history holds steps that are cached or come later"
            if any(a <= b for a, b in pairwise(p.history)):
                yield "a prediction's history does not begin with the newest step and go back from there"
            if i not in cached and p.history[0] != i:
                yield "the correction of a computed step does not begin with its own output"

    def _in_measured(self) -> Iterator[str]:
        """What does not fit to the schedule in what was fitted and measured."""
        steps, model, record, gram = self.num_inference_steps, self.rectification, self.calibration, self.gram
        if model and len(model.k) != len(self.cached_steps):
            yield "the rectification has not one entry for each cached step"
        if model and self.origin and model.part_of(self.origin.latent_shape) != model.k.shape[1:]:
            yield f"a rectification of shape {[*model.k.shape]} is not for latents of {self.origin.latent_shape}"
        if self.envelope is not None and (broken := self.envelope.problem(self.computed_steps)):
            yield broken
        if len(record.step_errors) not in (0, self.num_made_steps):
            yield f"there are {len(record.step_errors)} errors after {self.num_made_steps} steps"
        if len(record.psnr) != len(record.ssim):
            yield f"there are {len(record.psnr)} PSNRs and {len(record.ssim)} SSIMs"
        if gram is not None and (gram.dtype != torch.float64 or gram.shape not in ((steps,) * 2, (2 * steps,) * 2)):
            yield f"the outputs of {steps} steps have no Gram matrix of {gram.dtype} and shape {tuple(gram.shape)}"
        if gram is not None and not bool(gram.isfinite().all()):
            yield "the Gram matrix of the outputs is not finite"
        if gram is not None and not _is_of_dot_products(gram):
            yield "the Gram matrix is none: it is not symmetric, or products are larger than lengths allow"

    @property
    def computed_steps(self) -> tuple[int, ...]:
        """The steps at which the denoiser runs."""
        cached = set(self.cached_steps)
        return tuple(i for i in range(self.first_step, self.num_inference_steps) if i not in cached)

    @property
    def num_made_steps(self) -> int:
        """The steps that are made, computed or cached: T, or less for image-to-image."""
        return self.num_inference_steps - self.first_step

    @property
    def step_ratio(self) -> float:
        """Steps over computed steps; the speedup on a clock is for you to measure."""
        return self.num_made_steps / len(self.computed_steps)

    @property
    def fingerprint(self) -> str:
        """What tells this policy from every other: 16 hexadecimal digits, the same before saving and after loading."""
        digest = hashlib.sha256(json.dumps(self.metadata(), sort_keys=True).encode())
        for _, tensor in sorted(self.tensors().items()):
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def push_to_hub(
        self,
        repo_id: str,
        *,
        evaluation: str | os.PathLike[str] | None = None,
        base_model: str | None = None,
        private: bool | None = None,
        revision: str | None = None,
        token: str | None = None,
        endpoint: str | None = None,
    ) -> str:
        """Upload to the Hugging Face Hub, with a card: model, settings, quality, and how to measure it again.

        Args:
            repo_id: ``"you/name"``; made if there is none. Its card is written anew.
            evaluation: what ``ertacache evaluate`` wrote about this policy; its prompts, arguments and figures are
                published. Without it the card says that nothing was measured.
            base_model: the Hub id of the model that it is for; by default the one that was evaluated.
            private: of a repository that is made now; by default as your account has it.
            revision: the branch to commit to, made if there is none; by default main.
            token: by default the one you are logged in with.
            endpoint: another Hub than the public one; by default that of ``HF_ENDPOINT``.

        Returns:
            The address of the commit.

        Raises:
            ArgumentError: if an argument has another type.
            SharingError: if the upload fails, or the evaluation is damaged or of other policies.
        """
        from ertacache.sharing import push

        return push(
            self,
            repo_id,
            evaluation=evaluation,
            base_model=base_model,
            private=private,
            revision=revision,
            token=token,
            endpoint=endpoint,
        )

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike[str],
        *,
        revision: str | None = None,
        token: str | None = None,
        endpoint: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
    ) -> Policy:
        """Load a policy from a file, a folder, or the Hugging Face Hub.

        Args:
            name: a policy file, a folder that holds ``policy.safetensors``, or a repository, ``"you/name"``.
            revision: a branch, tag or commit; with a commit, what you get cannot change.
            token: by default the one you are logged in with.
            endpoint: another Hub than the public one; by default that of ``HF_ENDPOINT``.
            cache_dir: where downloads are kept; by default where all of the Hub's are.
            local_files_only: take what was downloaded before, and ask nobody.

        Raises:
            ArgumentError: if an argument has another type.
            SharingError: if there is none.
            PolicyFileError: if it is damaged, was not written by this library, or has another schema.
        """
        from ertacache.sharing import fetched

        path = fetched(
            name,
            revision=revision,
            token=token,
            endpoint=endpoint,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
        )
        return cls.load(path)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one safetensors file, whole or not at all.

        Raises:
            ArgumentError: if ``path`` is none.
            OutputError: if it cannot be written.
        """
        save(path, "policy", self.metadata(), self.tensors())

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors by name, as a file takes them; `parsed` reads them."""
        tensors = {"cached_steps": torch.tensor(self.cached_steps, dtype=torch.int64)}
        if self.rectification:
            # Clones: safetensors refuses tensors that share memory.
            tensors |= {"rectification.k": self.rectification.k.clone().contiguous()}
            tensors |= {"rectification.b": self.rectification.b.clone().contiguous()}
        for name, denoiser in (self.origin.denoisers if self.origin else {}).items():
            for kind in ("weights", "adapter_weights"):
                for part in ("elements", "values"):
                    numbers = getattr(getattr(denoiser, kind), part)
                    tensors[f"{kind}.{name}.{part}"] = torch.tensor(numbers, dtype=torch.float32)
        return tensors | ({} if self.gram is None else {"gram": self.gram.clone().contiguous()})

    def metadata(self) -> dict[str, Any]:
        """All of it but tensors, as JSON takes it; `parsed` reads it."""
        model = self.rectification
        plain: dict[str, Any] = {
            "num_inference_steps": self.num_inference_steps,
            "first_step": self.first_step,
            "method": asdict(self.method),
            "predictions": {step: asdict(prediction) for step, prediction in self.predictions.items()},
            "origin": self.origin and asdict(self.origin),
            "time_grid": self.time_grid,
            "rectification": model and {"granularity": model.granularity, "axis": model.axis},
            "calibration": asdict(self.calibration),
            "envelope": self.envelope and asdict(self.envelope),
        }
        for denoiser in (plain["origin"] or {"denoisers": {}})["denoisers"].values():
            for kind in ("weights", "adapter_weights"):
                del denoiser[kind]["elements"], denoiser[kind]["values"]  # tensors too
        return plain

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Policy:
        """Read a policy file.

        Raises:
            ArgumentError: if ``path`` is none.
            FileNotFoundError: if there is no such file.
            PolicyFileError: if it is damaged, was not written by this library, or has another schema.
        """
        with reading(path, "policy") as (content, tensors):
            return cls.parsed(content, tensors)

    @classmethod
    def parsed(cls, content: Any, tensors: Mapping[str, Tensor]) -> Policy:
        """What `metadata` wrote, and the tensors beside it, as a policy; all of both is made use of.

        Raises:
            PolicyFileError: if they are no policy.
        """
        left = dict(tensors)
        plain = entries(cls, content, "the policy", {"cached_steps", "gram"})
        origin, model, envelope = (plain.get(name) for name in ("origin", "rectification", "envelope"))
        if origin is not None:
            origin = entries(Origin, origin, "origin")
            origin["denoisers"] = {
                name: _denoiser(name, found, left)
                for name, found in mapping(anything)("denoisers", origin["denoisers"]).items()
            }
        if model is not None:
            model = entries(Rectification, model, "rectification", {"k", "b"})
            model = Rectification(k=left.pop("rectification.k"), b=left.pop("rectification.b"), **model)
        steps = left.pop("cached_steps")
        if steps.dtype != torch.int64 or steps.ndim != 1:
            raise _wrong(f"cached steps of {steps.dtype} and shape {tuple(steps.shape)}")
        policy = cls(
            **{
                **plain,
                "cached_steps": steps.tolist(),
                "method": Method(**entries(Method, plain["method"], "method")),
                "predictions": {
                    _step_of(step): Prediction(**entries(Prediction, found, f"predictions[{step}]"))
                    for step, found in mapping(anything)("predictions", plain.get("predictions", {})).items()
                },
                "origin": origin and Origin(**origin),
                "rectification": model,
                "calibration": CalibrationRecord(**entries(CalibrationRecord, plain.get("calibration"), "calibration")),
                "envelope": None if envelope is None else Envelope(**entries(Envelope, envelope, "envelope")),
                "gram": left.pop("gram", None),
            }
        )
        if left:
            raise newer(f"tensors {', '.join(sorted(left))}")
        return policy


def _denoiser(name: str, plain: Any, tensors: dict[str, Tensor]) -> Denoiser:
    found = entries(Denoiser, plain, name)
    for kind in ("weights", "adapter_weights"):
        own = entries(Weights, found[kind], f"{kind} of {name}", {"elements", "values"})
        for part in ("elements", "values"):
            tensor = tensors.pop(f"{kind}.{name}.{part}")
            if tensor.dtype != torch.float32 or tensor.ndim != 1:
                raise _wrong(f"{kind} of {name} of {tensor.dtype} and shape {tuple(tensor.shape)}")
            own[part] = tensor.tolist()
        found[kind] = Weights(**own)
    return Denoiser(**found)


def _step_of(written: str) -> int:
    if str(_step("a step", int(written))) != written:
        raise _wrong(f"a step that is written {written!r}")
    return int(written)


def _is_of_dot_products(gram: Tensor) -> bool:
    """Whether a matrix can be one of dot products, up to rounding; to know it surely would take its eigenvalues."""
    squares = gram.diagonal()
    if bool((squares < 0).any()):
        return False
    most = squares.sqrt().outer(squares.sqrt())
    return bool((gram.abs() <= most * (1 + 1e-6)).all() and ((gram - gram.T).abs() <= 1e-6 * most).all())
