"""The temporal autoencoder of Open-Sora 1.2: causal convolutions that reduce the number of frames to a quarter.

The arithmetic is that of ``VAE_Temporal`` in https://github.com/hpcaitech/Open-Sora/tree/v1.2.0/opensora/models/vae.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class CausalConv3d(nn.Conv3d):
    """A convolution that sees no later frame: padding in time is in front only. All padding is zeros.

    Args:
        kernel_size: odd, the same for time, height and width.
        time_stride: 2 halves the frames.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, time_stride: int = 1, bias: bool = True
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride=(time_stride, 1, 1), bias=bias)
        around = kernel_size // 2
        self._around = (around, around, around, around, kernel_size - time_stride, 0)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(B, C, T, H, W) to (B, C', T / time_stride, H, W)."""
        return super().forward(F.pad(hidden_states, self._around))


class CausalResnetBlock(nn.Module):
    """Norm, SiLU and convolution, twice, added to the input."""

    def __init__(self, in_channels: int, out_channels: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, in_channels)
        self.conv1 = CausalConv3d(in_channels, out_channels, 3, bias=False)
        self.norm2 = nn.GroupNorm(groups, out_channels)
        self.conv2 = CausalConv3d(out_channels, out_channels, 3, bias=False)
        self.conv_shortcut = (
            CausalConv3d(in_channels, out_channels, 1, bias=False) if in_channels != out_channels else None
        )

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(B, C, T, H, W) to (B, C', T, H, W)."""
        residual = self.conv1(F.silu(self.norm1(hidden_states)))
        residual = self.conv2(F.silu(self.norm2(residual)))
        if self.conv_shortcut is not None:
            hidden_states = self.conv_shortcut(hidden_states)
        return hidden_states + residual  # type: ignore[no-any-return]


class Level(nn.Module):
    """The residual blocks of one width, and the convolution that changes the number of frames, if there is one."""

    def __init__(self, resnets: list[CausalResnetBlock], resample: CausalConv3d | None) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(resnets)
        self.resample = resample

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Run the residual blocks only."""
        for resnet in self.resnets:
            hidden_states = resnet(hidden_states)
        return hidden_states


def _level(
    in_channels: int, out_channels: int, layers: int, groups: int, resample: CausalConv3d | None = None
) -> Level:
    widths = [in_channels] + [out_channels] * (layers - 1)
    return Level([CausalResnetBlock(width, out_channels, groups) for width in widths], resample)


class TemporalEncoder(nn.Module):
    """Encodes frames to moments; the levels are in order of execution. For the arguments see `TemporalAutoencoder`."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        widths: Sequence[int],
        layers: int,
        halves: Sequence[bool],
        groups: int,
    ) -> None:
        super().__init__()
        self.conv_in = CausalConv3d(in_channels, widths[0], 3, bias=False)
        befores = [widths[0], *widths]
        self.levels = nn.ModuleList()
        for before, width, halve in zip(befores, widths, [*halves, False], strict=False):
            resample = CausalConv3d(width, width, 3, time_stride=2) if halve else None
            self.levels.append(_level(before, width, layers, groups, resample))
        self.mid = _level(widths[-1], widths[-1], layers, groups)
        self.norm_out = nn.GroupNorm(groups, widths[-1])
        self.conv_out = CausalConv3d(widths[-1], out_channels, 1)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(B, in_channels, T, H, W) to (B, out_channels, T / 4, H, W)."""
        hidden_states = self.conv_in(hidden_states)
        for level in self.levels:
            assert isinstance(level, Level)
            hidden_states = level(hidden_states)
            if level.resample is not None:
                hidden_states = level.resample(hidden_states)
        return self.conv_out(F.silu(self.norm_out(self.mid(hidden_states))))  # type: ignore[no-any-return]


class TemporalDecoder(nn.Module):
    """Decodes latents to frames; the levels are numbered as in the encoder, and run in reverse order."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        widths: Sequence[int],
        layers: int,
        halves: Sequence[bool],
        groups: int,
    ) -> None:
        super().__init__()
        self.conv_in = CausalConv3d(in_channels, widths[-1], 3)
        self.mid = _level(widths[-1], widths[-1], layers, groups)
        self.levels = nn.ModuleList()
        for before, width, double in zip([*widths[1:], widths[-1]], widths, [*halves, False], strict=True):
            resample = CausalConv3d(before, 2 * before, 3) if double else None
            self.levels.append(_level(before, width, layers, groups, resample))
        self.norm_out = nn.GroupNorm(groups, widths[0])
        self.conv_out = CausalConv3d(widths[0], out_channels, 3)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(B, in_channels, T, H, W) to (B, out_channels, 4 T, H, W)."""
        hidden_states = self.mid(self.conv_in(hidden_states))
        for level in reversed(self.levels):
            assert isinstance(level, Level)
            if level.resample is not None:
                # Neighbouring channels become neighbouring frames.
                pairs = level.resample(hidden_states).unflatten(1, (-1, 2))
                hidden_states = pairs.transpose(2, 3).flatten(2, 3)
            hidden_states = level(hidden_states)
        return self.conv_out(F.silu(self.norm_out(hidden_states)))  # type: ignore[no-any-return]


class TemporalAutoencoder(nn.Module):
    """Encodes latents to fewer frames, and decodes them.

    Args:
        channels: channels of the latents, before and after.
        widths: channels of each level.
        layers: residual blocks of a level.
        halves: for each gap between two levels, whether the number of frames is halved there.
        groups: groups of the group norms.
    """

    def __init__(self, channels: int, widths: Sequence[int], layers: int, halves: Sequence[bool], groups: int) -> None:
        super().__init__()
        self.compression: int = 2 ** sum(halves)
        self.encoder = TemporalEncoder(channels, 2 * channels, widths, layers, halves, groups)
        self.quant_conv = CausalConv3d(2 * channels, 2 * channels, 1)
        self.post_quant_conv = CausalConv3d(channels, channels, 1)
        self.decoder = TemporalDecoder(channels, channels, widths, layers, halves, groups)

    def missing(self, frames: int) -> int:
        """Number of frames to pad in front, so that the latent frames are complete."""
        return -frames % self.compression

    def encode(self, frames: Tensor) -> Tensor:
        """(B, channels, T, H, W) to moments (B, 2 channels, ceil(T / 4), H, W), mean first, then log variance."""
        padded = F.pad(frames, (0, 0, 0, 0, self.missing(frames.shape[2]), 0))
        return self.quant_conv(self.encoder(padded))  # type: ignore[no-any-return]

    def decode(self, latents: Tensor, num_frames: int) -> Tensor:
        """(B, channels, t, H, W) to (B, channels, num_frames, H, W), with t = ceil(num_frames / 4)."""
        frames: Tensor = self.decoder(self.post_quant_conv(latents))
        return frames[:, :, self.missing(num_frames) :]
