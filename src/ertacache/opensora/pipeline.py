"""Text to video with Open-Sora 1.2, as a diffusers pipeline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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

from ertacache.opensora.arguments import check_call
from ertacache.opensora.autoencoder import AutoencoderOpenSora
from ertacache.opensora.captions import CaptionEncoder
from ertacache.opensora.errors import OpenSoraError
from ertacache.opensora.scheduler import OpenSoraRectifiedFlowScheduler
from ertacache.opensora.transformer import STDiT3Transformer3DModel

_STILL_FPS = 120
"""What the model was told of images in training."""


@dataclass
class OpenSoraPipelineOutput(BaseOutput):  # type: ignore[misc]
    """What the pipeline gives.

    Attributes:
        frames: for output type "np" (B, T, H, W, 3) and for "pt" (B, T, 3, H, W), both float in [0, 1]; for "pil" a
            list of images for each clip; for "latent" (B, C, t, h, w).
    """

    frames: np.ndarray[Any, Any] | Tensor | list[list[PIL.Image.Image]]


class OpenSoraPipeline(CaptionEncoder, DiffusionPipeline):  # type: ignore[misc]
    """Text to video with Open-Sora 1.2.

    `load_opensora` makes one of the published weights; ``save_pretrained`` and ``OpenSoraPipeline.from_pretrained``
    keep and restore it. (``DiffusionPipeline.from_pretrained`` knows only classes of diffusers.)

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
        """Of the running call; a callback may change ``_guidance_scale``."""
        return self._guidance_scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Whether the running call takes both branches."""
        return self._guidance_scale > 1

    @property
    def num_timesteps(self) -> int:
        """Steps of the running call."""
        return self._num_timesteps

    @property
    def current_timestep(self) -> Tensor | None:
        """Of the running call; None outside of one."""
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
        """Noise (batch, C, t, h, w) in float32, which is also what the loop keeps latents in.

        Raises:
            OpenSoraError: if ``latents`` are given in another shape.
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
            negative_prompt: what the other branch of guidance is given; by default the transformer's null caption.
            height, width: in pixels, at least 8. The clip has the next smaller multiples of 8, as in the original.
            num_frames: of the clip, at least 1. Multiples of 17 are what the model was trained for, and 1, an image.
            num_inference_steps: T.
            guidance_scale: at most 1 for no guidance.
            fps: frames a second that the clip should have.
            num_videos_per_prompt: clips for each prompt.
            generator: of the noise, one or one for each clip.
            latents: the noise itself, (B, C, t, h, w).
            prompt_embeds, prompt_attention_mask: captions as `encode_text` gives them, in place of ``prompt``.
            negative_prompt_embeds, negative_prompt_attention_mask: likewise.
            output_type: "np", "pil", "pt" or "latent".
            return_dict: whether to wrap the result.
            callback_on_step_end: called as ``callback(pipe, step, timestep, tensors)``; what it returns replaces
                tensors of the loop. It may set ``pipe._interrupt = True``.
            callback_on_step_end_tensor_inputs: the tensors that it is given: "latents", and "prompt_embeds" and
                "prompt_attention_mask", in both of which the negative branch comes first.
            max_sequence_length: see `encode_text`.
            clean_caption: see `encode_text`.

        Returns:
            The clips: see `OpenSoraPipelineOutput`.

        Raises:
            OpenSoraError: if arguments do not fit each other or the models.
        """
        if isinstance(callback_on_step_end, PipelineCallback | MultiPipelineCallbacks):
            callback_on_step_end_tensor_inputs = callback_on_step_end.tensor_inputs
        check_call(
            prompt=prompt,
            negative_prompt=negative_prompt,
            prompt_embeds=prompt_embeds,
            prompt_attention_mask=prompt_attention_mask,
            negative_prompt_embeds=negative_prompt_embeds,
            negative_prompt_attention_mask=negative_prompt_attention_mask,
            height=height,
            width=width,
            num_frames=num_frames,
            output_type=output_type,
            smallest_side=self.vae.spatial_compression,
            callback_tensors=callback_on_step_end_tensor_inputs,
            possible_tensors=self._callback_tensor_inputs,
        )
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
        latents = self.prepare_latents(batch, height, width, num_frames, generator, latents)

        self.scheduler.set_timesteps(
            num_inference_steps, self._execution_device, height=height, width=width, num_frames=num_frames
        )
        self.scheduler.set_begin_index(0)
        timesteps = self.scheduler.timesteps
        self._num_timesteps = len(timesteps)
        told_fps = fps if num_frames > 1 else _STILL_FPS

        with self.progress_bar(total=num_inference_steps) as progress_bar:
            for index, timestep in enumerate(timesteps):
                if self.interrupt:
                    continue
                self._current_timestep = timestep
                inputs = torch.cat([latents] * 2) if self.do_classifier_free_guidance else latents
                with self.transformer.cache_context("cond_uncond"):
                    output = self.transformer(
                        hidden_states=inputs.to(self.transformer.dtype),
                        timestep=timestep.expand(len(inputs)),
                        encoder_hidden_states=prompt_embeds,
                        encoder_attention_mask=prompt_attention_mask,
                        height=height,
                        width=width,
                        fps=told_fps,
                        return_dict=False,
                    )[0]
                velocity = output[:, : latents.shape[1]].float()
                if self.do_classifier_free_guidance:
                    negative, positive = velocity.chunk(2)
                    velocity = negative + self.guidance_scale * (positive - negative)
                latents = self.scheduler.step(velocity, timestep, latents, return_dict=False)[0]

                if callback_on_step_end is not None:
                    loop = {
                        "latents": latents,
                        "prompt_embeds": prompt_embeds,
                        "prompt_attention_mask": prompt_attention_mask,
                    }
                    chosen = {name: loop[name] for name in callback_on_step_end_tensor_inputs}
                    loop |= callback_on_step_end(self, index, timestep, chosen)
                    latents, prompt_embeds = loop["latents"], loop["prompt_embeds"]
                    prompt_attention_mask = loop["prompt_attention_mask"]
                progress_bar.update()
        self._current_timestep = None

        frames: Any = latents
        if output_type != "latent":
            video = self.vae.decode(latents.to(self.vae.dtype), num_frames=num_frames).sample
            frames = self.video_processor.postprocess_video(video, output_type=output_type)
        self.maybe_free_model_hooks()
        return OpenSoraPipelineOutput(frames=frames) if return_dict else (frames,)
