"""The patch embedding, the spatial positions and the temporal rotation of Open-Sora 1.2."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_PERIOD = 10000.0


def inverse_frequencies(dim: int, device: torch.device | None = None) -> Tensor:
    """``10000^(-2k/dim)`` for ``k < dim/2``.

    Returns:
        (dim / 2,) float32, in (0, 1].
    """
    return 1.0 / _PERIOD ** (torch.arange(0, dim, 2, device=device, dtype=torch.float32) / dim)


def spatial_positions(
    rows: int, columns: int, dim: int, scale: float, dtype: torch.dtype, device: torch.device | None = None
) -> Tensor:
    """Sines and cosines of the position of each patch.

    The grid is stretched to a square of ``round(sqrt(rows * columns))`` patches and then divided by ``scale``. The
    first half of the channels encodes the column, the second the row. The frequencies are rounded to ``dtype`` because
    the original does so too, in training and in sampling.

    Args:
        rows, columns: patches along height and width.
        dim: channels, a multiple of 4.
        scale: side of the clip divided by the side that the model was trained for, both in pixels.
        dtype: dtype of the weights.

    Returns:
        (rows * columns, dim) of ``dtype``, in [-1, 1]; columns vary fastest.
    """
    side = round((rows * columns) ** 0.5)
    frequencies = inverse_frequencies(dim // 2, device).to(dtype).float()

    def along(length: int) -> Tensor:
        steps = torch.arange(length, device=device) / scale * (side / length)
        angles = steps[:, None] * frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=-1)

    of_columns = along(columns)[None].expand(rows, columns, dim // 2)
    of_rows = along(rows)[:, None].expand(rows, columns, dim // 2)
    return torch.cat([of_columns, of_rows], dim=-1).flatten(0, 1).to(dtype)


def temporal_rotation(
    frames: int, dim: int, dtype: torch.dtype, device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotary embedding of frames; two neighbouring channels share each angle.

    Positions, frequencies and angles are rounded to ``dtype``: see `spatial_positions`.

    Returns:
        Two (frames, dim) tensors of ``dtype``, as diffusers' ``apply_rotary_emb`` takes them.
    """
    steps = torch.arange(frames, device=device, dtype=dtype)
    angles = steps[:, None] * inverse_frequencies(dim, device).to(dtype)
    angles = angles.repeat_interleave(2, dim=-1)
    return angles.cos(), angles.sin()


class PatchEmbed3D(nn.Module):
    """A linear map of each patch; sizes that are no multiple of the patch are padded with zeros at the end.

    Args:
        patch_size: latent frames, rows and columns of a patch.
    """

    def __init__(self, patch_size: tuple[int, int, int], in_channels: int, dim: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv3d(in_channels, dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(B, C, T, H, W) to (B, t, h, w, dim), with t = ceil(T / patch_size[0]) and so on."""
        missing = [-size % patch for size, patch in zip(hidden_states.shape[2:], self.patch_size, strict=True)]
        if any(missing):
            hidden_states = F.pad(hidden_states, (0, missing[2], 0, missing[1], 0, missing[0]))
        return self.proj(hidden_states).permute(0, 2, 3, 4, 1)  # type: ignore[no-any-return]
