"""Train the FLUX-type denoiser and its text encoders together, by flow matching in the latent space."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, FluxPipeline, FluxTransformer2DModel
from transformers import CLIPTextModel, T5EncoderModel

from training.autoencoder import to_tensor
from training.loop import train
from training.text import WIDTH

BATCH = 32
CONDITION_DROPOUT = 0.1


def build() -> FluxTransformer2DModel:
    """4.5 million parameters, 12 x 12 image tokens: about 15 ms a call on two CPU cores."""
    torch.manual_seed(0)
    return FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=2,
        num_single_layers=3,
        attention_head_dim=48,
        num_attention_heads=4,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        guidance_embeds=False,
        axes_dims_rope=(8, 20, 20),
    )


@torch.no_grad()
def encode(vae: AutoencoderKL, pictures: np.ndarray, path: Path) -> torch.Tensor:
    """All latents as the denoiser sees them, packed: bfloat16 (n, 144, 16); computed once, kept at ``path``."""
    if not path.exists():
        rows = []
        for start in range(0, len(pictures), 100):
            x = to_tensor(pictures[start : start + 100]).contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16):
                z = vae.encode(x).latent_dist.mean
            z = (z.float() - vae.config.shift_factor) * vae.config.scaling_factor
            rows.append(FluxPipeline._pack_latents(z, *z.shape).bfloat16())
        torch.save(torch.cat(rows), path)
    return torch.load(path, weights_only=True)


def fit(
    transformer: FluxTransformer2DModel,
    clip: CLIPTextModel,
    t5: T5EncoderModel,
    latents: torch.Tensor,
    tokens: tuple[torch.Tensor, torch.Tensor],
    empty: tuple[torch.Tensor, torch.Tensor],
    folder: Path,
    *,
    num_steps: int,
    seconds: float,
) -> None:
    """Mean squared error on the velocity ``noise - data`` at logit-normal noise levels.

    ``latents`` (n, 144, 16); ``tokens`` the captions' ids for CLIP (n, 32) and T5 (n, 24); ``empty`` the ids of
    the empty caption (1, 32) and (1, 24), which replace one caption in ten so that guidance has its other branch.
    """
    side = int(latents.shape[1] ** 0.5)
    image_ids = FluxPipeline._prepare_latent_image_ids(1, side, side, "cpu", torch.float32)
    text_ids = torch.zeros(tokens[1].shape[1], 3)

    def loss_of(x, noise, t, clip_ids, t5_ids):
        with torch.autocast("cpu", torch.bfloat16):
            level = t[:, None, None]
            velocity = transformer(
                hidden_states=(1 - level) * x + level * noise,
                timestep=t,
                encoder_hidden_states=t5(t5_ids)[0],
                pooled_projections=clip(clip_ids).pooler_output,
                txt_ids=text_ids,
                img_ids=image_ids,
                return_dict=False,
            )[0]
        return (velocity.float() - (noise - x)).square().mean()

    compiled = torch.compile(loss_of)

    def loss_at(step: int, generator: torch.Generator) -> torch.Tensor:
        rows = torch.randint(len(latents), (BATCH,), generator=generator)
        x = latents[rows].float()
        noise = torch.randn(x.shape, generator=generator)
        t = torch.sigmoid(0.4 + torch.randn(BATCH, generator=generator))
        drop = torch.rand(BATCH, 1, generator=generator) < CONDITION_DROPOUT
        ids = [torch.where(drop, void, ids[rows]) for ids, void in zip(tokens, empty, strict=True)]
        return compiled(x, noise, t, *ids)

    train(
        "transformer",
        loss_at,
        [*transformer.parameters(), *clip.parameters(), *t5.parameters()],
        folder,
        num_steps=num_steps,
        learning_rate=1e-3,
        matrices=[
            parameter
            for blocks in (transformer.transformer_blocks, transformer.single_transformer_blocks)
            for name, parameter in blocks.named_parameters()
            if parameter.ndim == 2 and "norm" not in name  # modulation sees the time only, not the tokens
        ],
        seconds=seconds,
        warmup=500,
    )
