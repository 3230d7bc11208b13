"""The block of Open-Sora 1.2: attention over space or over time, attention to the caption, feed-forward."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers.models.attention import FeedForward
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.normalization import RMSNorm
from torch import Tensor, nn


class OpenSoraAttention(nn.Module):
    """Multi-head attention of tokens to each other, or to a caption.

    Args:
        dim: channels.
        heads: number of heads; it divides ``dim``.
        qk_norm: whether queries and keys are normalised by head.
    """

    def __init__(self, dim: int, heads: int, qk_norm: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(dim, dim)
        self.to_k = nn.Linear(dim, dim)
        self.to_v = nn.Linear(dim, dim)
        self.norm_q = RMSNorm(dim // heads, eps=1e-6) if qk_norm else nn.Identity()
        self.norm_k = RMSNorm(dim // heads, eps=1e-6) if qk_norm else nn.Identity()
        self.to_out = nn.Linear(dim, dim)

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotation: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Attend.

        Args:
            hidden_states: (B, N, dim).
            encoder_hidden_states: (B, L, dim) tokens to attend to; by default ``hidden_states``.
            attention_mask: bool, broadcast to (B, heads, N, L), True where to attend.
            rotation: cosines and sines for queries and keys, each (N, dim / heads).

        Returns:
            (B, N, dim).
        """
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states

        def by_head(states: Tensor) -> Tensor:
            return states.reshape(*states.shape[:2], self.heads, -1).transpose(1, 2)

        query = self.norm_q(by_head(self.to_q(hidden_states)))
        key = self.norm_k(by_head(self.to_k(context)))
        value = by_head(self.to_v(context))
        if rotation is not None:
            query, key = apply_rotary_emb(query, rotation), apply_rotary_emb(key, rotation)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask)
        return self.to_out(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class OpenSoraBlock(nn.Module):
    """One block; tokens attend to the same place in other frames if ``temporal``, else to the rest of their frame.

    Args:
        dim: channels.
        heads: heads of both attentions.
        mlp_ratio: inner channels of the feed-forward divided by ``dim``.
        qk_norm: whether the self-attention normalises queries and keys; the attention to the caption does not.
    """

    def __init__(self, dim: int, heads: int, mlp_ratio: float = 4.0, qk_norm: bool = True, temporal: bool = False):
        super().__init__()
        self.temporal = temporal
        self.norm1 = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.attn = OpenSoraAttention(dim, heads, qk_norm)
        self.cross_attn = OpenSoraAttention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.ff = FeedForward(dim, inner_dim=int(dim * mlp_ratio), activation_fn="gelu-approximate")
        self.scale_shift_table = nn.Parameter(torch.randn(6, dim) / dim**0.5)

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        modulation: Tensor,
        attention_mask: Tensor | None = None,
        rotation: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Run the block.

        Args:
            hidden_states: (B, T, S, dim): frames, and places in a frame.
            encoder_hidden_states: (B, L, dim), the projected caption.
            modulation: (B, 6, dim): shift, scale and gate of the attention, then of the feed-forward.
            attention_mask: (B, 1, 1, L) bool, True at the caption's tokens.
            rotation: for a temporal block, cosines and sines (T, dim / heads).

        Returns:
            (B, T, S, dim).
        """
        table = (self.scale_shift_table + modulation)[:, None, None]
        shift, scale, gate, shift_ff, scale_ff, gate_ff = table.unbind(dim=-2)

        normed = self.norm1(hidden_states) * (1 + scale) + shift
        if self.temporal:
            normed = normed.transpose(1, 2)
        attended = self.attn(normed.flatten(0, 1), rotation=rotation).unflatten(0, normed.shape[:2])
        if self.temporal:
            attended = attended.transpose(1, 2)
        hidden_states = hidden_states + gate * attended

        attended = self.cross_attn(hidden_states.flatten(1, 2), encoder_hidden_states, attention_mask)
        hidden_states = hidden_states + attended.unflatten(1, hidden_states.shape[1:3])

        normed = self.norm2(hidden_states) * (1 + scale_ff) + shift_ff
        return hidden_states + gate_ff * self.ff(normed)  # type: ignore[no-any-return]
