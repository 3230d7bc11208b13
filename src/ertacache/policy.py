"""The policy: what calibration decides once, and every later generation follows. Frozen, validated, one file."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ertacache._version import __version__
from ertacache.errors import PolicyFileError
from ertacache.files import written_whole
from ertacache.method.envelope import Envelope
from ertacache.method.named import Method
from ertacache.method.rectification import Granularity

SCHEMA = 2


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


@dataclass(frozen=True, eq=False)
class Rectification:
    """``K`` and ``B`` of Eq. (15), float64, stacked over the cached steps: (steps, *granularity's shape)."""

    granularity: Granularity
    axis: int
    k: Tensor
    b: Tensor


@dataclass(frozen=True)
class Denoiser:
    """What identifies one denoiser: class, configuration, a few weights, active adapters with their scales."""

    model_class: str
    config_hash: str
    weights: tuple[float, ...]
    adapters: tuple[str, ...] = ()


@dataclass(frozen=True)
class Origin:
    """What a policy was made for; a later call must agree with it.

    Args:
        pipeline_class: the pipeline's class name.
        denoisers: for each denoiser's attribute name, what identifies it.
        scheduler_class: the scheduler's class name.
        noise_levels: the T + 1 noise levels of the calibrated grid, before any adjustment.
        guidance: the guidance arguments of the calibrated call.
        calls_per_step: denoiser calls in one step (two with separate guidance branches).
        latent_shape: shape of one sample given to the scheduler, without the batch axis.
    """

    pipeline_class: str
    denoisers: Mapping[str, Denoiser]
    scheduler_class: str
    noise_levels: tuple[float, ...]
    guidance: Mapping[str, float]
    calls_per_step: int
    latent_shape: tuple[int, ...]


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
        steps, cached = self.num_inference_steps, self.cached_steps
        problem = None
        first = self.first_step
        if not 0 <= first < steps:
            problem = f"there are {steps} steps, of which the first is step {first}"
        elif list(cached) != sorted(set(cached)) or any(not first < i < steps for i in cached):
            problem = f"cached steps must rise within {first + 1} .. {steps - 1}, but are {cached}"
        elif any(not first <= i < steps for i in self.predictions):
            problem = "there are predictions for steps that are not made"
        elif any(len(p.factors) != len(p.history) or not p.factors for p in self.predictions.values()):
            problem = "a prediction has not one factor for each step of its history"
        elif any(len(p.contrast_factors) not in (0, len(p.history)) for p in self.predictions.values()):
            problem = "a prediction has not one contrast factor for each step of its history"
        elif not all(math.isfinite(f) for p in self.predictions.values() for f in (*p.factors, *p.contrast_factors)):
            problem = "a prediction's factors are not finite"
        elif any(not first <= j <= i or j in cached for i, p in self.predictions.items() for j in p.history):
            problem = "a prediction's history holds steps that are cached or come later"
        elif any(i not in cached and p.history[0] != i for i, p in self.predictions.items()):
            problem = "the correction of a computed step does not begin with its own output"
        elif self.rectification and not len(self.rectification.k) == len(self.rectification.b) == len(cached):
            problem = "the rectification has not one entry for each cached step"
        elif self.envelope is not None and (broken := self.envelope.problem(self.computed_steps)):
            problem = broken
        elif self.gram is not None and tuple(self.gram.shape) not in ((steps, steps), (2 * steps, 2 * steps)):
            problem = f"the outputs of {steps} steps have no Gram matrix of shape {tuple(self.gram.shape)}"
        elif self.gram is not None and not bool(self.gram.isfinite().all()):
            problem = "the Gram matrix of the outputs is not finite"
        elif self.time_grid is not None:
            grid = self.time_grid
            rises = all(b > a for a, b in pairwise(grid))  # False with NaN too
            if len(grid) != steps + 1 or grid[0] != 0 or grid[-1] != 1 or not rises:
                problem = f"the time grid must rise from 0 to 1 over {steps + 1} points"
        if problem:
            raise PolicyFileError(
                "this is not a valid policy", given=problem, cure="Make it with ertacache.calibrate()."
            )

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
        plain = {name: value for name, value in self.metadata().items() if name != "library"}
        digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode())
        tensors = [self.rectification.k, self.rectification.b] if self.rectification else []
        for tensor in tensors + ([] if self.gram is None else [self.gram]):
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
        """Write one safetensors file, whole or not at all."""
        with written_whole(Path(path)) as partial:
            save_file(self.tensors(), partial, metadata={"ertacache": json.dumps(self.metadata())})

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors by name, as a file takes them; `parsed` reads them."""
        tensors = {"cached_steps": torch.tensor(self.cached_steps, dtype=torch.int64)}
        if self.rectification:
            # Clones: safetensors refuses tensors that share memory.
            tensors |= {"rectification.k": self.rectification.k.clone().contiguous()}
            tensors |= {"rectification.b": self.rectification.b.clone().contiguous()}
        return tensors | ({} if self.gram is None else {"gram": self.gram.clone().contiguous()})

    def metadata(self) -> dict[str, Any]:
        """All of it but tensors, as JSON takes it; `parsed` reads it."""
        plain = asdict(replace(self, rectification=None, gram=None))
        del plain["gram"]  # a tensor
        plain["rectification"] = (
            {"granularity": self.rectification.granularity, "axis": self.rectification.axis}
            if self.rectification
            else None
        )
        if self.envelope is None:  # left out, so that fingerprints stay what they were before there were envelopes
            del plain["envelope"]
        return {"schema": SCHEMA, "library": __version__, **plain}

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Policy:
        """Read a policy file.

        Raises:
            FileNotFoundError: if there is none.
            PolicyFileError: if it is damaged, was not written by this library, or has another schema.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(
                f"there is no policy file at {os.fspath(path)!r}; make one with ertacache.calibrate()"
            )
        try:
            with safe_open(path, "pt") as file:
                text = (file.metadata() or {}).get("ertacache")
                names = list(file.keys()) if text is not None else []  # a foreign file may be many gigabytes
                tensors = {name: file.get_tensor(name) for name in names}
        except (SafetensorError, OSError) as error:
            raise PolicyFileError(
                f"the policy file cannot be read: {error}",
                given=os.fspath(path),
                cure="It is damaged or incomplete; make it again with ertacache.calibrate(), or copy it again.",
            ) from error
        if text is None:
            raise PolicyFileError(
                "this safetensors file is not a policy",
                given=os.fspath(path),
                cure="Pass a file that Policy.save() wrote.",
            )
        try:
            data = json.loads(text)
        except ValueError as error:
            raise _unreadable(error, os.fspath(path)) from error
        return cls.parsed(data, tensors, os.fspath(path))

    @classmethod
    def parsed(cls, data: Any, tensors: Mapping[str, Tensor], path: str) -> Policy:
        """What `metadata` wrote, and the tensors beside it, as a policy; ``path`` is named in errors.

        Raises:
            PolicyFileError: if they are no policy, or one of another schema.
        """
        try:
            schema = data["schema"]
            if schema == SCHEMA:
                return cls._parse(data, tensors)
        except PolicyFileError as error:
            raise PolicyFileError(f"{error.what}: {error.given}", given=path, cure=error.cure) from None
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise _unreadable(error, path) from error
        raise PolicyFileError(
            f"the policy has schema {schema}, and this version ({__version__}) reads schema {SCHEMA}",
            given=path,
            cure="Upgrade ertacache, or make the policy again.",
        )

    @classmethod
    def _parse(cls, data: dict[str, Any], tensors: Mapping[str, Tensor]) -> Policy:
        origin = data["origin"]
        if origin is not None:
            denoisers = {
                name: Denoiser(d["model_class"], d["config_hash"], tuple(d["weights"]), tuple(d["adapters"]))
                for name, d in origin["denoisers"].items()
            }
            origin = Origin(
                **{
                    **origin,
                    "denoisers": denoisers,
                    "noise_levels": tuple(origin["noise_levels"]),
                    "latent_shape": tuple(origin["latent_shape"]),
                }
            )
        record: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in data["calibration"].items()
        }
        error_model = data["rectification"]
        envelope = data.get("envelope")
        if envelope and "limit" not in envelope:  # an older version's, of another drift
            envelope = None
        return cls(
            num_inference_steps=data["num_inference_steps"],
            first_step=data.get("first_step", 0),
            cached_steps=tuple(tensors["cached_steps"].tolist()),
            method=Method(**data["method"]),
            predictions={
                int(i): Prediction(tuple(p["history"]), tuple(p["factors"]), tuple(p["contrast_factors"]))
                for i, p in data["predictions"].items()
            },
            origin=origin,
            time_grid=tuple(data["time_grid"]) if data["time_grid"] else None,
            rectification=error_model
            and Rectification(
                error_model["granularity"], error_model["axis"], tensors["rectification.k"], tensors["rectification.b"]
            ),
            calibration=CalibrationRecord(**record),
            envelope=envelope and _envelope_of(**envelope),
            gram=tensors.get("gram"),
        )


def _envelope_of(
    steps: list[int], mean: list[float], deviation: list[float], limit: float, middle: int | None = None
) -> Envelope:
    begin = steps[0] if middle is None else middle  # an older version's sum is of the whole run
    return Envelope(tuple(steps), begin, tuple(mean), tuple(deviation), limit)


def _unreadable(error: Exception, path: str) -> PolicyFileError:
    return PolicyFileError(
        f"the policy's metadata cannot be read: {type(error).__name__}: {error}",
        given=path,
        cure="It is damaged; make it again with ertacache.calibrate().",
    )
