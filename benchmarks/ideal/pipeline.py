"""A diffusers pipeline around the ideal denoiser: text is a prompt's class, and latents are pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import PIL.Image
import torch
from diffusers import DiffusionPipeline
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from benchmarks.ideal.denoiser import ALL, IdealDenoiser


@dataclass
class IdealPipelineOutput(BaseOutput):  # type: ignore[misc]
    """The result of a call.

    Attributes:
        images: for output type "np" (B, H, W, 3) and for "pt" (B, 3, H, W), both float in 0 .. 1; for "pil" a list of
            images; for "latent" (B, 3, H, W), about -1 .. 1.
    """

    images: np.ndarray[Any, Any] | Tensor | list[PIL.Image.Image]


class IdealPipeline(DiffusionPipeline):  # type: ignore[misc]
    """Prompt to picture by the ideal denoiser.

    Args:
        transformer: the denoiser.
        scheduler: the sampler, of flow matching.
        prompts: the prompt of each class; the empty prompt stands for all pictures.
    """

    model_cpu_offload_seq = "transformer"
    _callback_tensor_inputs: ClassVar[list[str]] = ["latents"]

    def __init__(self, transformer: IdealDenoiser, scheduler: Any, prompts: Sequence[str] = ()) -> None:
        super().__init__()
        self.register_modules(transformer=transformer, scheduler=scheduler)
        self.register_to_config(prompts=list(prompts))
        self.image_processor = VaeImageProcessor(vae_scale_factor=1)
        self._interrupt = False

    @property
    def interrupt(self) -> bool:
        """Whether a callback has set ``_interrupt``, so that no further step is taken."""
        return self._interrupt

    def labels_of(self, prompt: str | Sequence[str], pictures_each: int, batch: int) -> Tensor:
        """The class of each picture of a batch, int64 (batch,).

        Args:
            prompt: one for all, or one for each ``pictures_each`` pictures.
            pictures_each: pictures for each prompt, at least 1.
            batch: how many pictures.

        Raises:
            ValueError: if there is no such prompt, or not as many as pictures need.
        """
        known: list[str] = self.config.prompts
        texts = [prompt] * (batch // pictures_each) if isinstance(prompt, str) else list(prompt)
        for text in texts:
            if text and text not in known:
                raise ValueError(f"no class is called {text!r}; choose one of {', '.join(known)}, or an empty prompt")
        if len(texts) * pictures_each != batch:
            raise ValueError(f"{len(texts)} prompts for {batch} pictures")
        labels = [known.index(text) if text else ALL for text in texts for _ in range(pictures_each)]
        return torch.tensor(labels, device=self._execution_device)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] = "",
        guidance_scale: float = 4.0,
        num_inference_steps: int = 30,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., dict[str, Any]] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> IdealPipelineOutput | tuple[Any]:
        """Sample pictures.

        Args:
            prompt: one or several, of the pipeline's prompts; an empty one for all pictures.
            negative_prompt: of the negative branch of guidance; by default all pictures.
            guidance_scale: guidance scale; 1 or less turns guidance off, and then a step calls the denoiser once.
            num_inference_steps: number of steps T.
            num_images_per_prompt: pictures for each prompt.
            generator: for the noise; one, or one for each picture.
            latents: the noise itself, (B, 3, S, S).
            output_type: "pil", "np", "pt" or "latent".
            return_dict: whether to wrap the result.
            callback_on_step_end: called as ``callback(pipe, step, timestep, tensors)``; the dictionary that it returns
                replaces the latents. It may set ``pipe._interrupt = True`` to skip the remaining steps.
            callback_on_step_end_tensor_inputs: which tensors it is given; "latents" is all there is.

        Returns:
            The pictures: see `IdealPipelineOutput`.

        Raises:
            ValueError: if a prompt is unknown, or there are not as many as pictures need.
        """
        self._interrupt = False
        batch = (1 if isinstance(prompt, str) else len(prompt)) * num_images_per_prompt
        labels = self.labels_of(prompt, num_images_per_prompt, batch)
        others = self.labels_of(negative_prompt, num_images_per_prompt, batch)
        if latents is None:
            shape = (batch, 3, self.transformer.config.size, self.transformer.config.size)
            latents = randn_tensor(shape, generator=generator, device=self._execution_device, dtype=torch.float32)
        self.scheduler.set_timesteps(num_inference_steps, device=self._execution_device)
        with self.progress_bar(total=num_inference_steps) as progress_bar:
            for index, timestep in enumerate(self.scheduler.timesteps):
                if self.interrupt:
                    continue
                velocity = self._velocity(latents, timestep, labels, others, guidance_scale)
                latents = self.scheduler.step(velocity, timestep, latents, return_dict=False)[0]
                if callback_on_step_end is not None:
                    given = {name: latents for name in callback_on_step_end_tensor_inputs if name == "latents"}
                    latents = callback_on_step_end(self, index, timestep, given).pop("latents", latents)
                progress_bar.update()
        pictures = latents if output_type == "latent" else self.image_processor.postprocess(latents, output_type)
        self.maybe_free_model_hooks()
        return IdealPipelineOutput(images=pictures) if return_dict else (pictures,)

    def _velocity(
        self, latents: Tensor, timestep: Tensor, labels: Tensor, others: Tensor, guidance_scale: float
    ) -> Tensor:
        """The velocity at one step, with guidance if it is on, (B, 3, S, S)."""
        velocity: Tensor = self.transformer(latents, timestep, labels, return_dict=False)[0]
        if guidance_scale > 1:
            negative = self.transformer(latents, timestep, others, return_dict=False)[0]
            velocity = negative + guidance_scale * (velocity - negative)
        return velocity
