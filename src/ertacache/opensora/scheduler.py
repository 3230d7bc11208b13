"""The sampler of Open-Sora 1.2: Euler steps of a rectified flow, on a grid that depends on the size of the clip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from diffusers import ConfigMixin, SchedulerMixin
from diffusers.configuration_utils import register_to_config
from diffusers.utils import BaseOutput
from torch import Tensor

from ertacache.opensora.errors import OpenSoraError


@dataclass
class OpenSoraRectifiedFlowSchedulerOutput(BaseOutput):  # type: ignore[misc]
    """The result of a step.

    Attributes:
        prev_sample: the latents at the next noise level, shaped as the sample given.
    """

    prev_sample: Tensor


class OpenSoraRectifiedFlowScheduler(SchedulerMixin, ConfigMixin):  # type: ignore[misc]
    """``x_t = (1 - sigma) x_0 + sigma noise``, stepped along the velocity ``x_0 - noise`` that the model predicts.

    Note the sign: diffusers' flow-matching models predict ``noise - x_0``, and its schedulers subtract where this one
    adds. The arithmetic is that of https://github.com/hpcaitech/Open-Sora/tree/v1.2.0/opensora/schedulers/rf.

    Args:
        num_train_timesteps: the timestep at pure noise; the model is given ``sigma`` times this.
        use_timestep_transform: whether larger and longer clips spend more steps at high noise.
        base_resolution: pixels of a frame for which the grid is uniform.
        base_num_frames: latent frames of a clip for which the grid is uniform.
        micro_frame_size: frames that the autoencoder encodes together.
        micro_latent_frames: latent frames that it encodes them to.

    Attributes:
        timesteps: (T,) float32, falling from ``num_train_timesteps``.
        sigmas: (T + 1,) float32 noise levels, from 1 to 0.
    """

    _compatibles: ClassVar[list[str]] = []
    order = 1
    sigmas: Tensor
    timesteps: Tensor
    _step_index: int | None
    _begin_index: int | None

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        use_timestep_transform: bool = True,
        base_resolution: int = 512 * 512,
        base_num_frames: int = 1,
        micro_frame_size: int = 17,
        micro_latent_frames: int = 5,
    ) -> None:
        self._lay(num_train_timesteps, ratio=torch.tensor(1.0), device=None)

    @property
    def step_index(self) -> int | None:
        """Index of the next step; None before the first."""
        return self._step_index

    @property
    def begin_index(self) -> int | None:
        """Index of the first step, if a pipeline has set it."""
        return self._begin_index

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Set the index of the first step, so that it is not looked up by its timestep."""
        self._begin_index = begin_index

    def set_timesteps(
        self,
        num_inference_steps: int,
        device: str | torch.device | None = None,
        *,
        height: int | None = None,
        width: int | None = None,
        num_frames: int | None = None,
    ) -> None:
        """Set the grid of noise levels of a run.

        Args:
            num_inference_steps: number of steps T.
            device: device of ``timesteps``; ``sigmas`` stay on the CPU, as in diffusers.
            height, width: of the clip in pixels.
            num_frames: of the clip, not of its latents; 1 for a still image.

        Raises:
            OpenSoraError: if ``use_timestep_transform`` is on and the size of the clip is not given.
        """
        ratio = torch.tensor(1.0)
        if self.config.use_timestep_transform:
            if height is None or width is None or num_frames is None:
                raise OpenSoraError(
                    "the grid of noise levels depends on the size of the clip",
                    given=f"height={height}, width={width}, num_frames={num_frames}",
                    cure="Pass all three to set_timesteps, or make the scheduler with use_timestep_transform=False.",
                )
            ratio = self.ratio(height, width, num_frames)
        self._lay(num_inference_steps, ratio, device)

    def ratio(self, height: int, width: int, num_frames: int) -> Tensor:
        """How much larger the clip is than one with a uniform grid: in side, times the root of its latent frames.

        Only whole chunks of frames are counted, as in the original. Clips shorter than one chunk, for which the
        original divides by zero, count as one latent frame.

        Returns:
            A scalar, float32.
        """
        chunks = num_frames // self.config.micro_frame_size
        latent_frames = max(1, chunks * self.config.micro_latent_frames)
        in_space = torch.tensor(height * width / self.config.base_resolution).sqrt()
        in_time = torch.tensor(latent_frames / self.config.base_num_frames).sqrt()
        return in_space * in_time

    def _lay(self, steps: int, ratio: Tensor, device: str | torch.device | None) -> None:
        # In float32 and in this order, to match the original to the last bit: the embedding of a timestep near 1000
        # turns one rounding error into an error of 6e-5.
        last = self.config.num_train_timesteps
        uniform = torch.tensor([(1 - i / steps) * last for i in range(steps + 1)]) / last
        self.sigmas = ratio * uniform / (1 + (ratio - 1) * uniform)
        self.timesteps = (self.sigmas[:-1] * last).to(device)
        self.num_inference_steps = steps
        self._step_index = None
        self._begin_index = None

    def index_for_timestep(self, timestep: float | Tensor, schedule_timesteps: Tensor | None = None) -> int:
        """Find the index of a timestep.

        Raises:
            OpenSoraError: if it is not among ``timesteps``.
        """
        timesteps = self.timesteps if schedule_timesteps is None else schedule_timesteps
        places = (timesteps == torch.as_tensor(timestep, device=timesteps.device)).nonzero()
        if not len(places):
            raise OpenSoraError(
                "this is no timestep of the scheduler", given=timestep, cure="Pass one of scheduler.timesteps."
            )
        return int(places[0])

    def step(
        self, model_output: Tensor, timestep: float | Tensor, sample: Tensor, return_dict: bool = True
    ) -> OpenSoraRectifiedFlowSchedulerOutput | tuple[Tensor]:
        """``x + v (sigma_i - sigma_{i+1})``, computed in float32 or better.

        Args:
            model_output: the velocity ``x_0 - noise``, shaped as ``sample``.
            timestep: one of ``timesteps``; looked up at the first step only.
            sample: the latents at this step.
            return_dict: whether to wrap the result.

        Returns:
            The latents at the next step, in the dtype of ``model_output``.
        """
        if self._step_index is None:
            self._step_index = self.index_for_timestep(timestep) if self._begin_index is None else self._begin_index
        drop = self.sigmas[self._step_index] - self.sigmas[self._step_index + 1]
        wide = torch.promote_types(sample.dtype, torch.float32)
        prev_sample = (sample.to(wide) + model_output.to(wide) * drop.to(sample.device)).to(model_output.dtype)
        self._step_index += 1
        return OpenSoraRectifiedFlowSchedulerOutput(prev_sample) if return_dict else (prev_sample,)

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """``(1 - sigma) x_0 + sigma noise`` at any timesteps, on the grid or not.

        Args:
            original_samples, noise: (B, ...), of one shape.
            timesteps: (B,), from 0 to ``num_train_timesteps``.
        """
        sigma = timesteps.to(original_samples.device, torch.float32) / self.config.num_train_timesteps
        sigma = sigma.reshape(-1, *[1] * (original_samples.ndim - 1)).to(original_samples.dtype)
        noised: Tensor = (1 - sigma) * original_samples + sigma * noise
        return noised

    def scale_noise(self, sample: Tensor, timestep: Tensor, noise: Tensor) -> Tensor:
        """The same as `add_noise`, under the name that diffusers uses for flows."""
        return self.add_noise(sample, noise, timestep)

    def __len__(self) -> int:
        return int(self.config.num_train_timesteps)
