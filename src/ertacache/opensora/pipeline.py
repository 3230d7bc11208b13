"""Text to video with Open-Sora 1.2, as a diffusers pipeline."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import PIL.Image
import torch
from diffusers import DiffusionPipeline
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from diffusers.video_processor import VideoProcessor
from torch import Tensor
from transformers import PreTrainedTokenizerBase, T5EncoderModel

from ertacache.opensora.arguments import Captions, check_captions, check_clip, check_outputs
from ertacache.opensora.autoencoder import AutoencoderOpenSora
from ertacache.opensora.captions import CaptionEncoder
from ertacache.opensora.errors import OpenSoraError
from ertacache.opensora.scheduler import OpenSoraRectifiedFlowScheduler
from ertacache.opensora.transformer import STDiT3Transformer3DModel

_STILL_FPS = 120
"""The frame rate that stands for a still image, as in training."""


@dataclass
class OpenSoraPipelineOutput(BaseOutput):  # type: ignore[misc]
    """The result of a call.

    Attributes:
        frames: for output type "np" (B, T, H, W, 3) and for "pt" (B, T, 3, H, W), both float in [0, 1]; for "pil" a
            list of images for each clip; for "latent" (B, C, t, h, w).
    """

    frames: np.ndarray[Any, Any] | Tensor | list[list[PIL.Image.Image]]


class OpenSoraPipeline(CaptionEncoder, DiffusionPipeline):  # type: ignore[misc]
    """Text to video with Open-Sora 1.2.

    `load_opensora` makes one from the published weights; ``save_pretrained`` and ``OpenSoraPipeline.from_pretrained``
    save and load it. (``DiffusionPipeline.from_pretrained`` knows only classes of diffusers.)

    Args:
        tokenizer: that of T5.
        text_encoder: T5.
        vae: the autoencoder.
        transformer: the denoiser.
        scheduler: the sampler.
    """

    model_cpu_offload_seq = "text_encoder->transformer->vae"
    _callback_tensor_inputs: ClassVar[list[str]] = ["latents", "prompt_embeds", "prompt_attention_mask"]

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        text_encoder: T5EncoderModel,
        vae: AutoencoderOpenSora,
        transformer: STDiT3Transformer3DModel,
        scheduler: OpenSoraRectifiedFlowScheduler,
    ) -> None:
        super().__init__()
        self.register_modules(
            tokenizer=tokenizer, text_encoder=text_encoder, vae=vae, transformer=transformer, scheduler=scheduler
        )
        self.video_processor = VideoProcessor(vae_scale_factor=vae.spatial_compression if vae is not None else 8)
        self._guidance_scale = 1.0
        self._num_timesteps = 0
        self._current_timestep: Tensor | None = None
        self._interrupt = False

    @property
    def guidance_scale(self) -> float:
        """Guidance scale of the running call; a callback may change ``_guidance_scale``."""
        return self._guidance_scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Whether the running call uses guidance, so that the transformer runs on two branches."""
        return self._guidance_scale > 1

    @property
    def num_timesteps(self) -> int:
        """Number of steps of the running call."""
        return self._num_timesteps

    @property
    def current_timestep(self) -> Tensor | None:
        """Timestep of the running call; None outside a call."""
        return self._current_timestep

    @property
    def interrupt(self) -> bool:
        """Whether a callback has set ``_interrupt``, so that no further step is taken."""
        return self._interrupt

    def prepare_latents(
        self,
        batch: int,
        height: int,
        width: int,
        num_frames: int,
        generator: torch.Generator | list[torch.Generator] | None,
        latents: Tensor | None,
    ) -> Tensor:
        """Draw the noise, or check the one that is given.

        Returns:
            The noise (batch, C, t, h, w) in float32, the dtype of the latents throughout the loop.

        Raises:
            OpenSoraError: if ``latents`` have another shape.
        """
        compression = self.vae.spatial_compression
        shape = (
            batch,
            self.transformer.config.in_channels,
            self.vae.latent_frames(num_frames),
            height // compression,
            width // compression,
        )
        if latents is None:
            return randn_tensor(shape, generator=generator, device=self._execution_device, dtype=torch.float32)  # type: ignore[no-any-return]
        if latents.shape != shape:
            raise OpenSoraError("these latents do not fit", given=tuple(latents.shape), cure=f"Their shape is {shape}.")
        return latents.to(self._execution_device, torch.float32)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        negative_prompt: str | list[str] | None = None,
        height: int = 240,
        width: int = 426,
        num_frames: int = 51,
        num_inference_steps: int = 30,
        guidance_scale: float = 7.0,
        fps: float = 24,
        num_videos_per_prompt: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        prompt_attention_mask: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        negative_prompt_attention_mask: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., dict[str, Any]] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        max_sequence_length: int | None = None,
        clean_caption: bool = True,
    ) -> OpenSoraPipelineOutput | tuple[Any]:
        """Generate clips. Defaults are those of the original, 51 frames of 240p.

        Args:
            prompt: one or several captions. The original ends each with " aesthetic score: 6.5."
            negative_prompt: captions of the negative branch of guidance; by default the transformer's null caption.
            height, width: in pixels, at least 8; rounded down to multiples of 8, as in the original.
            num_frames: of the clip, at least 1. The model was trained on multiples of 17, and on 1, a still image.
            num_inference_steps: number of steps T.
            guidance_scale: guidance scale; 1 or less turns guidance off.
            fps: frames per second of the clip.
            num_videos_per_prompt: clips for each prompt.
            generator: for the noise; one, or one for each clip.
            latents: the noise itself, (B, C, t, h, w).
            prompt_embeds, prompt_attention_mask: captions as `encode_text` returns them, instead of ``prompt``.
            negative_prompt_embeds, negative_prompt_attention_mask: the same for ``negative_prompt``.
            output_type: "np", "pil", "pt" or "latent".
            return_dict: whether to wrap the result.
            callback_on_step_end: called as ``callback(pipe, step, timestep, tensors)``; the dictionary that it returns
                replaces tensors of the loop. It may set ``pipe._interrupt = True`` to skip the remaining steps.
            callback_on_step_end_tensor_inputs: which tensors it is given, among "latents", "prompt_embeds" and
                "prompt_attention_mask"; in the last two the negative branch comes first.
            max_sequence_length: see `encode_text`.
            clean_caption: see `encode_text`.

        Returns:
            The clips: see `OpenSoraPipelineOutput`.

        Raises:
            OpenSoraError: if the arguments contradict each other, or do not fit the models.
        """
        if isinstance(callback_on_step_end, PipelineCallback | MultiPipelineCallbacks):
            callback_on_step_end_tensor_inputs = callback_on_step_end.tensor_inputs
        captions = Captions(
            prompt,
            negative_prompt,
            prompt_embeds,
            prompt_attention_mask,
            negative_prompt_embeds,
            negative_prompt_attention_mask,
        )
        check_captions(captions)
        check_clip(height, width, num_frames, smallest_side=self.vae.spatial_compression)
        check_outputs(output_type, callback_on_step_end_tensor_inputs, self._callback_tensor_inputs)
        self._guidance_scale, self._interrupt, self._current_timestep = guidance_scale, False, None

        prompt_embeds, prompt_attention_mask = self.encode_prompt(
            prompt,
            negative_prompt,
            num_videos_per_prompt,
            self.do_classifier_free_guidance,
            prompt_embeds,
            prompt_attention_mask,
            negative_prompt_embeds,
            negative_prompt_attention_mask,
            max_sequence_length,
            clean_caption,
        )
        batch = len(prompt_embeds) // (2 if self.do_classifier_free_guidance else 1)
        loop = {
            "latents": self.prepare_latents(batch, height, width, num_frames, generator, latents),
            "prompt_embeds": prompt_embeds,
            "prompt_attention_mask": prompt_attention_mask,
        }
        self.scheduler.set_timesteps(
            num_inference_steps, self._execution_device, height=height, width=width, num_frames=num_frames
        )
        self.scheduler.set_begin_index(0)
        clip = {"height": height, "width": width, "fps": fps if num_frames > 1 else _STILL_FPS}
        with self.progress_bar(total=num_inference_steps) as progress_bar:
            self._denoise(loop, clip, progress_bar, callback_on_step_end, callback_on_step_end_tensor_inputs)

        frames = self._decode(loop["latents"], num_frames, output_type)
        self.maybe_free_model_hooks()
        return OpenSoraPipelineOutput(frames=frames) if return_dict else (frames,)

    def _denoise(
        self,
        loop: dict[str, Tensor],
        clip: Mapping[str, float],
        progress_bar: Any,
        callback: Callable[..., dict[str, Any]] | None,
        callback_tensors: Sequence[str],
    ) -> None:
        """Take all steps of the scheduler's grid.

        Args:
            loop: "latents", "prompt_embeds" and "prompt_attention_mask"; updated in place at every step.
            clip: height and width in pixels, and frames per second, as the transformer takes them.
            progress_bar: updated at every step.
            callback: called after every step; what it returns replaces tensors of ``loop``.
            callback_tensors: names of the tensors that the callback is given.
        """
        timesteps = self.scheduler.timesteps
        self._num_timesteps = len(timesteps)
        for index, timestep in enumerate(timesteps):
            if self.interrupt:
                continue
            self._current_timestep = timestep
            velocity = self._velocity(loop, timestep, clip)
            loop["latents"] = self.scheduler.step(velocity, timestep, loop["latents"], return_dict=False)[0]
            if callback is not None:
                chosen = {name: loop[name] for name in callback_tensors}
                loop |= callback(self, index, timestep, chosen)
            progress_bar.update()
        self._current_timestep = None

    def _velocity(self, loop: Mapping[str, Tensor], timestep: Tensor, clip: Mapping[str, float]) -> Tensor:
        """The velocity at one step, with guidance if it is on: float32, of the shape of the latents."""
        latents = loop["latents"]
        inputs = torch.cat([latents] * 2) if self.do_classifier_free_guidance else latents
        with self.transformer.cache_context("cond_uncond"):
            output = self.transformer(
                hidden_states=inputs.to(self.transformer.dtype),
                timestep=timestep.expand(len(inputs)),
                encoder_hidden_states=loop["prompt_embeds"],
                encoder_attention_mask=loop["prompt_attention_mask"],
                **clip,
                return_dict=False,
            )[0]
        velocity: Tensor = output[:, : latents.shape[1]].float()
        if self.do_classifier_free_guidance:
            negative, positive = velocity.chunk(2)
            velocity = negative + self.guidance_scale * (positive - negative)
        return velocity

    def _decode(self, latents: Tensor, num_frames: int, output_type: str) -> Any:
        """The clips in the type that the caller wants: see `OpenSoraPipelineOutput`."""
        if output_type == "latent":
            return latents
        video = self.vae.decode(latents.to(self.vae.dtype), num_frames=num_frames).sample
        return self.video_processor.postprocess_video(video, output_type=output_type)
