"""The recording of one prompt's full run: every policy is fitted to it and judged by it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor

from ertacache.errors import CalibrationError
from ertacache.method.residual import Level, to_cache
from ertacache.method.schedule import fewest_computed
from ertacache.value_checks import each, flag, instance, normalized, number, text, whole


@dataclass(frozen=True)
class StreamSetting:
    """What is another latent's own in a loop that steps several, such as a clip and its sound.

    Args:
        scheduler_class: the class name of what steps it.
        grid, latent_shape, angles, same_shape: as in `Setting`.
    """

    scheduler_class: str
    grid: tuple[float, ...]
    latent_shape: tuple[int, ...]
    angles: tuple[float, ...]
    same_shape: bool

    def __post_init__(self) -> None:
        size = partial(whole, at_least=1)
        normalized(self, senseless, scheduler_class=text, grid=each(number), latent_shape=each(size))
        normalized(self, senseless, angles=each(number), same_shape=flag)


@dataclass(frozen=True)
class Setting:
    """The setting of a full run, which all prompts of a calibration share.

    Steps count from the first one made, which for image-to-image lies within the grid.

    Args:
        grid: the T + 1 noise levels of the whole grid.
        first_step: the step of the grid at which the call begins.
        forced: steps whose denoiser calls differ from the step before, so that they must be computed.
        calls_per_step: denoiser calls in the first step.
        latent_shape: the shape of one sample, without the batch axis.
        angles: the noise levels of the steps that are made, and the terminal one, as
            `ertacache.runtime.schedulers.angles_of` gives them.
        same_shape: whether sample and model output have the same shape.
        changes: the steps of the grid before which a callback changed more than the latent.
        streams: of the further latents that the loop steps.
        emptied: those of the ``forced`` steps at which guidance begins or ends, so that older outputs are not used.
    """

    grid: tuple[float, ...]
    first_step: int
    forced: tuple[int, ...]
    calls_per_step: int
    latent_shape: tuple[int, ...]
    angles: tuple[float, ...]
    same_shape: bool
    changes: tuple[int, ...] = ()
    streams: tuple[StreamSetting, ...] = ()
    emptied: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        step, size = partial(whole, at_least=0), partial(whole, at_least=1)
        normalized(self, senseless, grid=each(number), first_step=step, forced=each(size), calls_per_step=size)
        normalized(
            self,
            senseless,
            latent_shape=each(size),
            angles=each(number),
            same_shape=flag,
            changes=each(step),
            streams=each(instance(StreamSetting, "the setting of a further latent")),
            emptied=each(size),
        )
        steps, forced = self.num_steps, list(self.forced)
        if (
            steps < 1
            or len(self.angles) != steps + 1
            or forced != sorted(set(forced))
            or max(forced, default=0) >= steps
            or any(len(stream.grid) != len(self.grid) for stream in self.streams)
        ):
            levels = f"{len(self.grid)} noise levels from step {self.first_step} on"
            raise senseless(f"{levels}, {len(self.angles)} angles, steps {forced} forced")

    @property
    def noise_levels(self) -> tuple[float, ...]:
        """The noise levels of the steps that are made, and the terminal one."""
        return self.grid[self.first_step :]

    @property
    def num_steps(self) -> int:
        """The number of steps that are made: T, or fewer for image-to-image."""
        return len(self.noise_levels) - 1

    @property
    def num_streams(self) -> int:
        """How many latents the loop steps."""
        return 1 + len(self.streams)

    def of_stream(self, stream: int) -> Setting:
        """The setting as one of the latents has it.

        Args:
            stream: which of them; 0 is that of ``pipe.scheduler``.
        """
        if stream == 0:
            return replace(self, streams=())
        own = self.streams[stream - 1]
        return replace(
            self,
            streams=(),
            grid=own.grid,
            latent_shape=own.latent_shape,
            angles=own.angles,
            same_shape=own.same_shape,
        )

    @property
    def fewest_computed(self) -> int:
        """The fewest steps that a policy can compute."""
        return fewest_computed(self.num_steps, self.forced)


class Recording:
    """The tensors of one prompt's full run: ``v_i`` and ``x_i`` for every step, and the final latent.

    Args:
        tensors: the tensors by name, on the CPU; None if they are in a file.
        path: the path of that file, from which each tensor is read when it is asked for.
        stream: which of the latents that the loop steps.
    """

    def __init__(self, tensors: dict[str, Tensor] | None, path: Path | None = None, stream: int = 0) -> None:
        self._tensors, self._path, self._stream = tensors, path, stream

    def of_stream(self, stream: int) -> Recording:
        """The same run of another latent."""
        return Recording(self._tensors, self._path, stream)

    def _get(self, name: str) -> Tensor:
        name = of_stream(name, self._stream)
        if self._tensors is not None:
            return self._tensors[name]
        with safe_open(self._path, "pt") as file:
            tensor: Tensor = file.get_tensor(name)
        return tensor

    def model_output(self, step: int) -> Tensor:
        """Return ``v_i``, (batch, ...), in the pipeline's dtype."""
        return self._get(f"v{step}")

    def residual(self, step: int) -> Tensor:
        """Return the sketch of the blocks' residuals, (elements,), float32, if the run recorded them."""
        return self._get(f"r{step}")

    def sample(self, step: int) -> Tensor:
        """Return ``x_i``, (batch, ...); ``sample(T)`` is the final latent."""
        return self._get(f"x{step}")

    def entry(self, step: int, level: Level) -> Tensor:
        """Return the residual that Eq. (12) compares at this level, float32."""
        if level == "hidden":
            return self.residual(step)
        return to_cache(self.sample(step).float(), self.model_output(step).float(), level)

    def gram(self) -> NDArray[np.float64]:
        """Return ``<v_i, v_j>`` for all pairs of steps, (T, T), float64.

        With guidance branches, their contrasts are further rows: (2T, 2T).
        """
        gram: NDArray[np.float64] = self._get("gram").numpy()
        return gram

    def response(self) -> NDArray[np.float64]:
        """Return the response of the sampler, (T, T), float64, see `ertacache.runtime.sampler_response.response_of`."""
        response: NDArray[np.float64] = self._get("response").numpy()
        return response


def of_stream(name: str, stream: int) -> str:
    """The name of a tensor for one of the latents that the loop steps."""
    return f"{name}@{stream}" if stream else name


def senseless(problem: str) -> CalibrationError:
    """Make the error for a recording whose parts do not fit together."""
    return CalibrationError("a recording makes no sense", given=problem, cure="Make it again.")
