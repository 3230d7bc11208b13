"""The full run of each prompt, recorded: what every policy is fitted to and judged by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor

from ertacache.arguments import each, flag, normalized, number, whole
from ertacache.errors import CalibrationError, PipelineError, PolicyFileError
from ertacache.files import entries, opening, save
from ertacache.method.schedule import fewest_computed
from ertacache.runtime.block_stack import sketch
from ertacache.runtime.calls import Call, twin_of
from ertacache.runtime.driver import Driver, Step
from ertacache.runtime.guidance_contrast import contrast
from ertacache.runtime.run import Run
from ertacache.runtime.scheduler_probe import is_affine, output_coefficient
from ertacache.runtime.schedulers import sampler_of


@dataclass(frozen=True)
class Setting:
    """What a full run shows of the setting besides its tensors.

    Steps count from the first one made, which for image-to-image lies within the grid.

    Args:
        grid: the T + 1 noise levels of the whole grid.
        first_step: the step of the grid at which the call begins.
        forced: steps whose denoiser calls differ from the step before, so that they must be computed.
        calls_per_step: denoiser calls in the first step.
        latent_shape: shape of one sample, without the batch axis.
        slopes: ``b_i`` for every step: how far the sampler moves the latent for a unit of model output.
        same_shape: whether sample and model output agree in shape.
        changes: the steps of the grid before which a callback changed more than the latent.
    """

    grid: tuple[float, ...]
    first_step: int
    forced: tuple[int, ...]
    calls_per_step: int
    latent_shape: tuple[int, ...]
    slopes: tuple[float, ...]
    same_shape: bool
    changes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        step, size = partial(whole, at_least=0), partial(whole, at_least=1)
        normalized(self, _senseless, grid=each(number), first_step=step, forced=each(size), calls_per_step=size)
        normalized(self, _senseless, latent_shape=each(size), slopes=each(number), same_shape=flag, changes=each(step))
        steps, forced = self.num_steps, list(self.forced)
        if steps < 1 or len(self.slopes) != steps or forced != sorted(set(forced)) or max(forced, default=0) >= steps:
            levels = f"{len(self.grid)} noise levels from step {self.first_step} on"
            raise _senseless(f"{levels}, {len(self.slopes)} slopes, steps {forced} forced")

    @property
    def noise_levels(self) -> tuple[float, ...]:
        """Of the steps that are made, and the terminal one."""
        return self.grid[self.first_step :]

    @property
    def num_steps(self) -> int:
        """How many steps are made: T, or less for image-to-image."""
        return len(self.noise_levels) - 1

    @property
    def fewest_computed(self) -> int:
        """How many of them are computed by every policy."""
        return fewest_computed(self.num_steps, self.forced)


class Recording:
    """One prompt's full run: ``v_i`` and ``x_i`` for every step, and the final latent; in memory or in a file."""

    def __init__(self, tensors: dict[str, Tensor] | None, path: Path | None = None) -> None:
        self._tensors, self._path = tensors, path

    def _get(self, name: str) -> Tensor:
        if self._tensors is not None:
            return self._tensors[name]
        with safe_open(self._path, "pt") as file:
            tensor: Tensor = file.get_tensor(name)
        return tensor

    def model_output(self, step: int) -> Tensor:
        """``v_i``."""
        return self._get(f"v{step}")

    def residual(self, step: int) -> Tensor:
        """A sketch of the blocks' residuals, if the run recorded them."""
        return self._get(f"r{step}")

    def sample(self, step: int) -> Tensor:
        """``x_i``; ``sample(T)`` is the final latent."""
        return self._get(f"x{step}")

    def gram(self) -> NDArray[np.float64]:
        """``<v_i, v_j>`` for all pairs of steps, (T, T); with the branches' contrasts as further rows, (2T, 2T)."""
        gram: NDArray[np.float64] = self._get("gram").numpy()
        return gram


class Recorder(Driver):
    """The driver of a full run: keeps everything, changes nothing."""

    def __init__(
        self, prompt: int, on_first: Callable[[Step], None], on_step: Callable[[int], None], hidden: bool
    ) -> None:
        self.prompt, self._on_first, self._on_step = prompt, on_first, on_step
        self.residuals_kept = int(hidden)
        self.tensors: dict[str, Tensor] = {}
        self.contrasts: list[Tensor | None] = []
        self.patterns: list[tuple[Any, ...]] = []
        self.noise_levels: tuple[float, ...] = ()
        self.slopes: list[float] = []
        self.shapes: tuple[torch.Size, torch.Size] | None = None
        self.first_step = 0
        self.changes: list[int] = []
        self.over = False

    def open_segment(self, scheduler: Any) -> None:
        self.over = bool(self.patterns)  # unless more steps are made: some lay a grid once more that they do not use
        if not self.over:
            self.noise_levels = tuple(sampler_of(scheduler).noise_levels(scheduler))

    def conditions_changed(self, step: int, what: str) -> None:
        if step not in self.changes:
            self.changes.append(step)

    def model_output(self, step: Step) -> Tensor:
        check_finite(step.model_output, self.prompt, step.index)
        if self.over:
            raise PipelineError(
                "this call samples more than once, and calibration needs one sampling run",
                given=f"a second set_timesteps() after {len(self.patterns)} steps",
                cure="Calibrate the stages one by one.",
            )
        if self.shapes and step.sample.shape != self.shapes[0]:
            raise PipelineError(
                "the latents change their shape on the way, and calibration needs one shape",
                given=f"{tuple(step.sample.shape)} after {tuple(self.shapes[0])}",
                cure="Calibrate without what cuts them.",
            )
        if not self.patterns:
            self.shapes = step.sample.shape, step.model_output.shape
            self.first_step = step.index
            check_sampler(step)
            self._on_first(step)
            self.tensors["x0"] = step.sample.detach().cpu().clone()
        index = step.index - self.first_step
        self.tensors[f"v{index}"] = step.model_output.detach().cpu().clone()
        between = contrast(step)
        self.contrasts.append(None if between is None else between.to("cpu", copy=True))
        if self.residuals_kept:
            self.tensors[f"r{index}"] = sketch(step.residuals)
        self.patterns.append(step.pattern)
        self.slopes.append(output_coefficient(step.scheduler, step.arguments))
        self._on_step(step.denoiser_calls)
        return step.model_output

    def stepped(self, index: int, sample: Tensor) -> None:
        self.tensors[f"x{index - self.first_step + 1}"] = sample.detach().cpu().clone()


def check_sampler(step: Step) -> None:
    """Raise `CalibrationError` where nothing can be fitted to a step of this sampler."""
    scheduler, arguments = step.scheduler, step.arguments
    name = type(scheduler).__name__
    timestep = arguments["timestep"]
    if (getattr(timestep, "ndim", 0) and timestep.numel() > 1) or arguments.get("per_token_timesteps") is not None:
        raise CalibrationError(
            "the parts of a sample stand at different noise levels, and calibration needs one for all",
            given=f"{name}, timesteps of shape {tuple(getattr(timestep, 'shape', ()))}",
            cure="Use the pipeline without conditioning frames or tokens of their own noise level.",
        )
    if step.sample.shape != step.model_output.shape and str(scheduler.config.get("variance_type")).startswith(
        "learned"
    ):
        raise CalibrationError(
            "the model predicts the sampler's noise as well, and nothing can be fitted to that",
            given=f"{name}, variance_type={scheduler.config['variance_type']!r}",
            cure="Use a sampler that adds no noise.",
        )
    if not is_affine(scheduler, arguments):
        raise CalibrationError(
            "this sampler's step is no affine function of the model output",
            given=name,
            cure="Switch off what clips or bends its prediction, or use another sampler.",
        )


def check_finite(output: Tensor, prompt: int, step: int) -> None:
    """Raise `CalibrationError` where a model output is not finite: nothing can be fitted to it."""
    if not bool(torch.isfinite(output).all()):
        raise CalibrationError(
            "the denoiser returned NaN or infinity during calibration",
            given=f"prompt {prompt}, step {step}",
            cure="Check the model's dtype (float16 overflows), the prompt, and the pipeline without a cache.",
        )


def record(
    pipe: Any,
    call: Call,
    prompt: int,
    num_inference_steps: int,
    on_first: Callable[[Step], None],
    on_step: Callable[[int], None],
    *,
    hidden: bool = False,
) -> tuple[dict[str, Tensor], Setting]:
    """Make one full run; with ``hidden``, a sketch of the blocks' residuals is recorded too.

    Raises:
        CalibrationError: if a model output is not finite, or not every step was made.
    """
    recorder = Recorder(prompt, on_first, on_step, hidden)
    twin = twin_of(pipe)
    with call.random.lent(), Run(twin, recorder) as run:
        run.call(**call.arguments())
    steps = len(recorder.patterns)
    whole = steps + recorder.first_step == len(recorder.noise_levels) - 1 == num_inference_steps
    if not whole or recorder.shapes is None:
        raise CalibrationError(
            "the full run did not make every step of its grid to the end",
            given=f"{steps} steps from step {recorder.first_step} on, of {num_inference_steps}",
            cure="Calibrate with a call that no callback interrupts and that samples once, to the end.",
        )
    outputs = [recorder.tensors[f"v{i}"] for i in range(steps)]
    contrasts = [between for between in recorder.contrasts if between is not None]
    recorder.tensors["gram"] = gram_of_rows([*outputs, *(contrasts if len(contrasts) == steps else [])])
    patterns, (sample, output) = recorder.patterns, recorder.shapes
    setting = Setting(
        grid=recorder.noise_levels,
        first_step=recorder.first_step,
        forced=tuple(i for i in range(1, steps) if patterns[i] != patterns[i - 1]),
        calls_per_step=len(patterns[0]),
        latent_shape=tuple(sample[1:]),
        slopes=tuple(recorder.slopes),
        same_shape=sample == output,
        changes=tuple(recorder.changes),
    )
    return recorder.tensors, setting


def write(tensors: dict[str, Tensor], setting: Setting, path: Path) -> None:
    """Keep a recording as a file, whole or not at all."""
    save(path, "recording", asdict(setting), tensors)
    _intact[path] = _state_of(path)


def read(path: Path, tell: Callable[[str], None] = lambda line: None) -> tuple[Recording, Setting] | None:
    """A recording that an earlier, interrupted calibration kept; None if there is none that can be used.

    All of it is looked at, once in a process.

    Args:
        path: of the file.
        tell: is told why a file cannot be used.
    """
    if not path.is_file():
        return None
    try:
        with opening(path, "recording") as held:
            setting = Setting(**entries(Setting, held.content, "the recording"))
            if _intact.get(path) != _state_of(path):
                _check(setting, held.tensors())
    except PolicyFileError as error:
        tell(f"{path.name} is made anew: {error.what}")
        return None
    _intact[path] = _state_of(path)
    return Recording(None, path), setting


def _check(setting: Setting, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Raise `CalibrationError` where the tensors of a file are not those of a full run in this setting."""
    steps = setting.num_steps
    shapes: dict[str, tuple[int, ...]] = {}
    for name, tensor in tensors:
        finite = all(bool(extreme.isfinite()) for extreme in tensor.aminmax())  # both are NaN if one element is
        if not tensor.is_floating_point() or not finite:
            raise _senseless(f"{name} is not finite")
        shapes[name] = tuple(tensor.shape)
    samples = {shapes.pop(f"x{i}", ()) for i in range(steps + 1)}
    outputs = {shapes.pop(f"v{i}", ()) for i in range(steps)}
    alike = len(samples) == len(outputs) == 1 and (samples == outputs) == setting.same_shape
    if not alike or () in outputs or {shape[1:] for shape in samples} != {setting.latent_shape}:
        raise _senseless(f"latents of {setting.latent_shape} in {samples}, outputs in {outputs}")
    if shapes.pop("gram", None) not in ((steps,) * 2, (2 * steps,) * 2):
        raise _senseless(f"{steps} steps and another Gram matrix")
    residuals = {f"r{i}" for i in range(steps)}
    if shapes.keys() not in (set(), residuals):
        raise _senseless(f"tensors {', '.join(sorted(shapes))}")


def _senseless(problem: str) -> CalibrationError:
    return CalibrationError("a recording makes no sense", given=problem, cure="Make it again.")


def _state_of(path: Path) -> tuple[int, ...]:
    state = path.stat()
    return state.st_ino, state.st_size, state.st_mtime_ns


_intact: dict[Path, tuple[int, ...]] = {}
"""The files that this process has written or looked at, as they were then."""


def pairwise(recordings: Sequence[Recording], entry: Callable[[Recording, int], Tensor]) -> Callable[[int, int], float]:
    """The distance of Eq. (12) between any two recorded steps, summed over prompts; computed when asked, kept."""
    known: dict[tuple[int, int], float] = {}
    sizes: dict[int, float] = {}

    def distance(last: int, step: int) -> float:
        if (last, step) not in known:
            error = 0.0
            size = 0.0
            for recording in recordings:
                fresh = entry(recording, step)
                error += float((entry(recording, last) - fresh).abs().sum())
                size += float(fresh.abs().sum()) if step not in sizes else 0.0
            sizes.setdefault(step, size)
            known[last, step] = error / sizes[step] if sizes[step] else 0.0
        return known[last, step]

    return distance


def gram_of(recordings: Sequence[Recording], num_steps: int | None = None) -> NDArray[np.float64]:
    """``<v_i, v_j>`` for all pairs of steps, summed over prompts, (T, T); all that is known, without ``num_steps``."""
    total: NDArray[np.float64] = np.sum([recording.gram()[:num_steps, :num_steps] for recording in recordings], axis=0)
    return total


def gram_of_rows(rows: Sequence[Tensor]) -> Tensor:
    """The dot products of tensors of one size, (rows, rows), float64."""
    flat = [row.flatten() for row in rows]
    total = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    for start in range(0, len(flat[0]), _PART):
        wide = torch.stack([row[start : start + _PART].double() for row in flat])
        total += wide @ wide.T
    return total


_PART = 1 << 16  # elements of a tensor that are widened at a time
