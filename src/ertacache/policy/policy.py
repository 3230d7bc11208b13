"""The policy: what calibration decides once and every later generation follows.

It is immutable, checked when it is made, and saved in one safetensors file.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import chain, pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor

from ertacache.files import entries, newer, reading, save
from ertacache.method.named_methods import Method
from ertacache.method.prediction import Prediction
from ertacache.method.schedule import MOST_STEPS
from ertacache.policy.calibration_record import CalibrationRecord
from ertacache.policy.drift_envelope import Envelope
from ertacache.policy.origin import Origin
from ertacache.policy.predictions import as_json, checked_predictions, inconsistent, parsed_predictions, shifted
from ertacache.policy.rectification import Rectification
from ertacache.value_checks import each, instance, invalid, normalized, number, optional, whole

_wrong = invalid("policy")
_step = partial(whole, at_least=0, at_most=MOST_STEPS)


_NOTHING = CalibrationRecord(budget="none")


@dataclass(frozen=True, eq=False)
class Policy:
    """Which steps to skip, and what replaces the denoiser's output there.

    `ertacache.calibrate` makes policies. They can also be written by hand; the methods ``reuse`` and ``taylor`` need no
    more than this:

    >>> from ertacache import Method, Policy
    >>> policy = Policy(num_inference_steps=8, cached_steps=(2, 4, 5), method=Method.named("taylor"))
    >>> policy.computed_steps
    (0, 1, 3, 6, 7)
    >>> policy.step_ratio
    1.6
    >>> policy
    Policy(taylor: 5 of 8 steps computed, 1.60x, not measured)
      ●●○●○○●●

    `save` and `load` keep a policy in a file. ``push_to_hub`` uploads it to the Hugging Face Hub, and
    ``from_pretrained`` loads it from there, from a folder or from a file (`ertacache.sharing`).

    Args:
        num_inference_steps: T, 1 to 10,000.
        cached_steps: S, rising, within 1 .. T-1; all methods but `aligned` compute the last step too.
        method: the method that made the policy.
        predictions: by step: for a cached step, its prediction; for a computed step, its correction.
        origin: the pipeline and settings of the calibration, which calls are compared with. None for a policy written
            by hand: calls must then have its number of steps, and nothing else is compared.
        time_grid: T + 1 points rising from 0 to 1 (see `ertacache.method.timesteps`); None for the scheduler's own
            grid.
        rectification: the paper's error model, one entry for each cached step; None without one.
        calibration: what calibration did and measured.
        first_step: the step of the grid at which the calls begin; over 0 for image-to-image.
        envelope: how far calibration's prompts drifted, which a guard needs, or None if unknown.
        gram: ``<v_i, v_j>`` of the full runs' outputs, summed over prompts, (T, T), float64; or (2T, 2T) with the
            contrasts of the guidance branches as further rows. Transfers to other noise levels need it; None for a
            policy that cannot be transferred.
        streams: the ``predictions`` of the further latents that the pipeline's loop steps, such as sound, in the order
            in which it steps them.

    Raises:
        PolicyFileError: if a value has the wrong type or range, or the values do not fit together.

    Notes:
        The parts are ``Origin``, ``Rectification``, ``CalibrationRecord`` and ``Envelope`` from `ertacache.policy`, and
        ``Prediction`` from `ertacache.method.prediction`. A cached step of ``aligned`` without a prediction is
        extrapolated with Taylor's weights, and the report notes it.
    """

    num_inference_steps: int
    cached_steps: tuple[int, ...]
    method: Method
    predictions: Mapping[int, Prediction] = field(default_factory=dict)
    origin: Origin | None = None
    time_grid: tuple[float, ...] | None = None
    rectification: Rectification | None = None
    calibration: CalibrationRecord = _NOTHING
    first_step: int = 0
    envelope: Envelope | None = None
    gram: Tensor | None = None
    streams: tuple[Mapping[int, Prediction], ...] = ()

    def __post_init__(self) -> None:
        normalized(
            self,
            _wrong,
            num_inference_steps=partial(whole, at_least=1, at_most=MOST_STEPS),
            cached_steps=each(_step),
            method=instance(Method, "such as Method.named('aligned')"),
            predictions=checked_predictions,
            origin=optional(instance(Origin, "the pipeline and settings it was calibrated on")),
            time_grid=optional(each(number)),
            rectification=optional(instance(Rectification, "an error model")),
            calibration=instance(CalibrationRecord, "what calibration did"),
            first_step=_step,
            envelope=optional(instance(Envelope, "how far calibration's prompts drifted")),
            gram=optional(instance(Tensor, "float64")),
            streams=each(checked_predictions),
        )
        problem = next(chain(self._in_steps(), self._in_predictions(), self._in_measured()), None)
        if problem:
            raise _wrong(problem)

    def _in_steps(self) -> Iterator[str]:
        """Yield what is inconsistent in the schedule and its grid."""
        steps, cached, first = self.num_inference_steps, self.cached_steps, self.first_step
        if not first < steps:
            yield f"first_step must be below the number of steps, {steps}, but is {first}"
        if list(cached) != sorted(set(cached)) or any(not first < i < steps for i in cached):
            yield f"cached steps must rise within {first + 1} .. {steps - 1}, but are {cached}"
        if self.origin and len(self.origin.noise_levels) != steps + 1:
            yield f"{steps} steps need {steps + 1} noise levels, but its origin has {len(self.origin.noise_levels)}"
        if self.time_grid is not None:
            grid = self.time_grid
            if len(grid) != steps + 1 or grid[0] != 0 or grid[-1] != 1 or any(b <= a for a, b in pairwise(grid)):
                yield f"the time grid must rise from 0 to 1 over {steps + 1} points"
            if any(b - a < 1e-3 / steps for a, b in pairwise(grid)):  # solvers divide by the gap
                yield "the time grid has points that are closer than a thousandth of an even step"

    def _in_predictions(self) -> Iterator[str]:
        """Yield what is inconsistent in the predictions."""
        for predictions in (self.predictions, *self.streams):
            yield from inconsistent(predictions, self.cached_steps, self.first_step, self.num_inference_steps)

    def _in_measured(self) -> Iterator[str]:
        """Yield what was fitted or measured and does not fit the schedule."""
        steps, model, record, gram = self.num_inference_steps, self.rectification, self.calibration, self.gram
        if model and len(model.k) != len(self.cached_steps):
            yield "the rectification needs one entry for each cached step"
        if model and self.origin and model.part_of(self.origin.latent_shape) != model.k.shape[1:]:
            yield f"a rectification of shape {[*model.k.shape]} is not for latents of shape {self.origin.latent_shape}"
        if self.envelope is not None and (broken := self.envelope.problem(self.computed_steps)):
            yield broken
        if len(record.step_errors) not in (0, self.num_made_steps):
            yield f"there are {len(record.step_errors)} errors after {self.num_made_steps} steps, not one for each"
        if len(record.psnr) != len(record.ssim):
            yield f"there are {len(record.psnr)} PSNRs but {len(record.ssim)} SSIMs"
        if gram is not None and (gram.dtype != torch.float64 or gram.shape not in ((steps,) * 2, (2 * steps,) * 2)):
            yield f"the Gram matrix of {steps} steps cannot have {gram.dtype} and shape {tuple(gram.shape)}"
        if gram is not None and not bool(gram.isfinite().all()):
            yield "the Gram matrix of the outputs is not finite"
        if gram is not None and not _is_of_dot_products(gram):
            yield "the Gram matrix holds no dot products: it is not symmetric, or an entry is too large for its lengths"

    def __repr__(self) -> str:
        return (
            f"Policy({self.method.name}: {len(self.computed_steps)} of {self.num_made_steps} steps computed, "
            f"{self.step_ratio:.2f}x, {self.calibration.measured()})\n  {self.pattern}"
        )

    @property
    def pattern(self) -> str:
        """The steps that a call makes, in order: ``●`` for a computed one, ``○`` for a cached one."""
        cached = set(self.cached_steps)
        return "".join("○" if i in cached else "●" for i in range(self.first_step, self.num_inference_steps))

    @property
    def computed_steps(self) -> tuple[int, ...]:
        """The steps at which the denoiser runs."""
        cached = set(self.cached_steps)
        return tuple(i for i in range(self.first_step, self.num_inference_steps) if i not in cached)

    @property
    def asked_steps(self) -> int:
        """The ``num_inference_steps`` of its calls: T, but for schedulers that make another number of steps of it."""
        return (self.origin and self.origin.asked_steps) or self.num_inference_steps

    @property
    def num_made_steps(self) -> int:
        """The number of steps that a call makes, computed or cached: T, or fewer for image-to-image."""
        return self.num_inference_steps - self.first_step

    @property
    def step_ratio(self) -> float:
        """The number of steps over the number of computed steps. The speedup in seconds is for you to measure."""
        return self.num_made_steps / len(self.computed_steps)

    @property
    def fingerprint(self) -> str:
        """A digest of all that the policy contains: 16 hexadecimal digits, the same before saving and after loading."""
        digest = hashlib.sha256(json.dumps(self.metadata(), sort_keys=True).encode())
        for _, tensor in sorted(self.tensors().items()):
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def shifted(self, first_step: int) -> Policy:
        """The same policy, its steps renumbered as steps of a whole grid of which calls make the last part.

        Args:
            first_step: the position in the grid of the step that is step 0 here.
        """
        if not first_step:
            return self
        return replace(
            self,
            num_inference_steps=self.num_inference_steps + first_step,
            first_step=first_step,
            cached_steps=tuple(step + first_step for step in self.cached_steps),
            predictions=shifted(self.predictions, first_step),
            streams=tuple(shifted(predictions, first_step) for predictions in self.streams),
            envelope=self.envelope and self.envelope.shifted(first_step),
        )

    push_to_hub: ClassVar[Callable[..., str]]
    """`ertacache.sharing.push` as a method; `ertacache.sharing` puts it here."""
    from_pretrained: ClassVar[Callable[..., Policy]]
    """`ertacache.sharing.pretrained` as a constructor; `ertacache.sharing` puts it here."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one safetensors file, whole or not at all.

        Args:
            path: the file to write; missing folders are made.

        Raises:
            ArgumentError: if ``path`` is not a path.
            OutputError: if the file cannot be written.
        """
        save(path, "policy", self.metadata(), self.tensors())

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name, for a file; `parsed` reads them."""
        tensors = {"cached_steps": torch.tensor(self.cached_steps, dtype=torch.int64)}
        if self.rectification:
            tensors |= self.rectification.tensors()
        if self.origin:
            tensors |= self.origin.tensors()
        return tensors | ({} if self.gram is None else {"gram": self.gram.clone().contiguous()})

    def metadata(self) -> dict[str, Any]:
        """All but the tensors, as JSON data; `parsed` reads it."""
        streams = {"streams": [as_json(predictions) for predictions in self.streams]}  # older files have none
        return (streams if self.streams else {}) | {
            "num_inference_steps": self.num_inference_steps,
            "first_step": self.first_step,
            "method": asdict(self.method),
            "predictions": as_json(self.predictions),
            "origin": self.origin and self.origin.metadata(),
            "time_grid": self.time_grid,
            "rectification": self.rectification and self.rectification.metadata(),
            "calibration": self.calibration.metadata(),
            "envelope": self.envelope and asdict(self.envelope),
        }

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Policy:
        """Read a policy file.

        Args:
            path: a file that `save` wrote.

        Raises:
            ArgumentError: if ``path`` is not a path.
            FileNotFoundError: if there is no such file.
            PolicyFileError: if the file is damaged, was not written by this library, or has another schema.
        """
        with reading(path, "policy") as (content, tensors):
            return cls.parsed(content, tensors)

    @classmethod
    def parsed(cls, content: Any, tensors: Mapping[str, Tensor]) -> Policy:
        """Make a policy from what `metadata` and `tensors` returned; anything left over is refused.

        Raises:
            PolicyFileError: if the content is not a policy.
        """
        left = dict(tensors)
        plain = entries(cls, content, "the policy", {"cached_steps", "gram"})
        origin, model, envelope = (plain.get(name) for name in ("origin", "rectification", "envelope"))
        steps = left.pop("cached_steps")
        if steps.dtype != torch.int64 or steps.ndim != 1:
            raise _wrong(f"the cached steps cannot have {steps.dtype} and shape {tuple(steps.shape)}")
        parts = {
            "cached_steps": steps.tolist(),
            "method": Method(**entries(Method, plain["method"], "method")),
            "predictions": parsed_predictions("predictions", plain.get("predictions", {})),
            "streams": [parsed_predictions("streams", part) for part in plain.get("streams", ())],
            "origin": None if origin is None else Origin.parsed(origin, left),
            "rectification": None if model is None else Rectification.parsed(model, left),
            "calibration": CalibrationRecord(**entries(CalibrationRecord, plain.get("calibration"), "calibration")),
            "envelope": None if envelope is None else Envelope(**entries(Envelope, envelope, "envelope")),
            "gram": left.pop("gram", None),
        }
        if left:
            raise newer(f"tensors {', '.join(sorted(left))}")
        return cls(**{**plain, **parts})


def _is_of_dot_products(gram: Tensor) -> bool:
    """Whether a matrix can hold dot products, up to rounding. (Only its eigenvalues would prove it.)"""
    squares = gram.diagonal()
    if bool((squares < 0).any()):
        return False
    most = squares.sqrt().outer(squares.sqrt())
    return bool((gram.abs() <= most * (1 + 1e-6)).all() and ((gram - gram.T).abs() <= 1e-6 * most).all())
