"""The denoiser of Open-Sora 1.2, STDiT3: spatial and temporal blocks in alternation."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.cache_utils import CacheMixin
from diffusers.models.embeddings import PixArtAlphaTextProjection, TimestepEmbedding, Timesteps
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from torch import Tensor, nn

from ertacache.opensora.blocks import OpenSoraBlock
from ertacache.opensora.embeddings import PatchEmbed3D, spatial_positions, temporal_rotation


# The pipeline loader of diffusers looks up the names of the base classes in this module, so they are imported here.
class STDiT3Transformer3DModel(ModelMixin, ConfigMixin, CacheMixin):  # type: ignore[misc]
    """Predicts the velocity ``x_0 - noise`` of a latent clip from its caption.

    The arithmetic is that of STDiT3 in Open-Sora 1.2 (https://github.com/hpcaitech/Open-Sora/tree/v1.2.0), whose
    published weights `convert_transformer` reads. Defaults are those of the published model, 1.1 billion parameters.

    Args:
        in_channels: channels of the latents.
        patch_size: latent frames, rows and columns of a token.
        num_layers: pairs of a spatial and a temporal block.
        num_attention_heads: heads of every attention.
        attention_head_dim: channels of a head; heads times channels must be a multiple of 4.
        mlp_ratio: inner channels of a feed-forward divided by those of a token.
        caption_channels: channels of the text encoder's states.
        caption_length: tokens of ``null_caption``, the caption of the unconditional branch of guidance.
        sample_side: side, in pixels, of the square clip for which positions are not scaled.
        predict_sigma: whether there are twice as many output channels; samplers use the first half only.
        qk_norm: whether queries and keys of the self-attentions are normalised.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ("OpenSoraBlock",)
    _skip_layerwise_casting_patterns = ("patch_embed", "norm", "scale_shift_table")

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        in_channels: int = 4,
        patch_size: tuple[int, int, int] = (1, 2, 2),
        num_layers: int = 28,
        num_attention_heads: int = 16,
        attention_head_dim: int = 72,
        mlp_ratio: float = 4.0,
        caption_channels: int = 4096,
        caption_length: int = 300,
        sample_side: int = 512,
        predict_sigma: bool = True,
        qk_norm: bool = True,
    ) -> None:
        super().__init__()
        dim = num_attention_heads * attention_head_dim
        self.out_channels = in_channels * (2 if predict_sigma else 1)

        self.patch_embed = PatchEmbed3D((patch_size[0], patch_size[1], patch_size[2]), in_channels, dim)
        self.sinusoids = Timesteps(256, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embed = TimestepEmbedding(256, dim)
        self.fps_embed = TimestepEmbedding(256, dim)
        self.time_modulation = nn.Linear(dim, 6 * dim)
        self.caption_projection = PixArtAlphaTextProjection(caption_channels, dim)
        # A buffer, because the original never trains it.
        self.register_buffer("null_caption", torch.randn(caption_length, caption_channels) / caption_channels**0.5)

        def blocks(temporal: bool) -> nn.ModuleList:
            shape = (dim, num_attention_heads, mlp_ratio, qk_norm)
            return nn.ModuleList([OpenSoraBlock(*shape, temporal=temporal) for _ in range(num_layers)])

        self.spatial_blocks = blocks(temporal=False)
        self.temporal_blocks = blocks(temporal=True)

        self.norm_out = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.scale_shift_table = nn.Parameter(torch.randn(2, dim) / dim**0.5)
        self.proj_out = nn.Linear(dim, patch_size[0] * patch_size[1] * patch_size[2] * self.out_channels)
        self.gradient_checkpointing = False
        self._initialise()

    def _initialise(self) -> None:
        """Initialise as the original: temporal blocks pass frames through, and the frame rate has no effect."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.fps_embed.linear_1.weight, std=0.02)
        nn.init.zeros_(self.fps_embed.linear_2.weight)
        for block in self.temporal_blocks:
            assert isinstance(block, OpenSoraBlock)
            for layer in (block.attn.to_out, block.cross_attn.to_out, block.ff.net[2]):
                nn.init.zeros_(layer.weight)

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor | None = None,
        height: int = 512,
        width: int = 512,
        fps: float | Tensor = 24.0,
        return_dict: bool = True,
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        """Predict the velocity.

        Args:
            hidden_states: (B, in_channels, T, H, W) noisy latents, any T, H and W, in the dtype of the weights.
            timestep: (B,), from 1000 at pure noise down to 0.
            encoder_hidden_states: (B, L, caption_channels) states of the text encoder.
            encoder_attention_mask: (B, L), nonzero at the caption's tokens; None for all tokens.
            height, width: size of the clips in pixels, the same for the whole batch.
            fps: frames per second of the clip, a number or (B,); 120 stands for a still image.
            return_dict: whether to wrap the result.

        Returns:
            The velocity ``x_0 - noise`` as (B, out_channels, T, H, W), in the dtype of ``hidden_states``; with
            ``predict_sigma`` its second half of channels is not used for sampling.
        """
        batch, dtype, device = hidden_states.shape[0], hidden_states.dtype, hidden_states.device
        time = self._embed_scalar(self.time_embed, timestep.to(dtype), batch, dtype)
        time = time + self._embed_scalar(self.fps_embed, torch.as_tensor(fps, device=device), batch, dtype)
        modulation = self.time_modulation(nn.functional.silu(time)).unflatten(1, (6, -1))

        caption = self.caption_projection(encoder_hidden_states.to(dtype))
        mask = None if encoder_attention_mask is None else encoder_attention_mask.bool()[:, None, None]

        tokens = self.patch_embed(hidden_states)
        frames, rows, columns, dim = tokens.shape[1:]
        scale = (height * width) ** 0.5 / self.config.sample_side
        tokens = tokens.flatten(2, 3) + spatial_positions(rows, columns, dim, scale, dtype, device)
        rotation = temporal_rotation(frames, self.config.attention_head_dim, dtype, device)

        for spatial, temporal in zip(self.spatial_blocks, self.temporal_blocks, strict=True):
            tokens = self._run(spatial, tokens, caption, modulation, mask, None)
            tokens = self._run(temporal, tokens, caption, modulation, mask, rotation)

        shift, scale_out = (self.scale_shift_table + time[:, None])[:, None, None].unbind(dim=-2)
        patches = self.proj_out(self.norm_out(tokens) * (1 + scale_out) + shift)
        velocity = self._unpatchify(patches.reshape(batch, frames, rows, columns, -1), hidden_states.shape)
        return Transformer2DModelOutput(sample=velocity) if return_dict else (velocity,)

    def _embed_scalar(self, embed: nn.Module, values: Tensor, batch: int, dtype: torch.dtype) -> Tensor:
        """Embed a number or (B,) as (B, dim)."""
        return embed(self.sinusoids(values.expand(batch)).to(dtype))  # type: ignore[no-any-return]

    def _run(self, block: nn.Module, *inputs: Any) -> Tensor:
        if torch.is_grad_enabled() and self.gradient_checkpointing:
            return self._gradient_checkpointing_func(block, *inputs)  # type: ignore[no-any-return]
        return block(*inputs)  # type: ignore[no-any-return]

    def _unpatchify(self, patches: Tensor, shape: torch.Size) -> Tensor:
        """(B, t, h, w, patch * out_channels) to (B, out_channels, T, H, W), with the padding cut off."""
        frames, rows, columns = shape[2:]
        split = patches.reshape(*patches.shape[:4], *self.config.patch_size, self.out_channels)
        video: Tensor = split.permute(0, 7, 1, 4, 2, 5, 3, 6).flatten(6, 7).flatten(4, 5).flatten(2, 3)
        return video[:, :, :frames, :rows, :columns]
