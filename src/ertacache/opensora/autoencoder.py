"""The autoencoder of Open-Sora 1.2: a spatial one for single frames, then a temporal one for chunks of them."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor

from ertacache.opensora.errors import OpenSoraError
from ertacache.opensora.temporal_autoencoder import TemporalAutoencoder


class AutoencoderOpenSora(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """A spatial ``AutoencoderKL`` inside a causal temporal autoencoder.

    Latents are shifted and scaled, as the denoiser expects them. The arithmetic is that of ``OpenSoraVAE_V1_2`` in
    https://github.com/hpcaitech/Open-Sora/tree/v1.2.0, whose published weights `convert_autoencoder` reads. Defaults
    are those of the published model.

    Args:
        latent_channels: channels of the latents of both autoencoders.
        spatial_channels: channels of each level of the spatial one, which halves height and width between levels.
        spatial_layers: residual blocks per level of the spatial one.
        spatial_norm_groups: groups of its group norms.
        spatial_scaling_factor: factor on its latents.
        temporal_channels: channels of each level of the temporal one.
        temporal_layers: residual blocks per level of the temporal one.
        temporal_halves: for each gap between two levels, whether the number of frames is halved there.
        temporal_norm_groups: groups of its group norms.
        micro_frame_size: frames that the temporal one encodes together; None for all.
        micro_batch_size: frames that the spatial one encodes together, which saves memory; None for all.
        shift, scale: mean and standard deviation of the latents, for each channel.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        latent_channels: int = 4,
        spatial_channels: tuple[int, ...] = (128, 256, 512, 512),
        spatial_layers: int = 2,
        spatial_norm_groups: int = 32,
        spatial_scaling_factor: float = 0.18215,
        temporal_channels: tuple[int, ...] = (128, 256, 256, 512),
        temporal_layers: int = 4,
        temporal_halves: tuple[bool, ...] = (False, True, True),
        temporal_norm_groups: int = 32,
        micro_frame_size: int | None = 17,
        micro_batch_size: int | None = 4,
        shift: tuple[float, ...] = (-0.10, 0.34, 0.27, 0.98),
        scale: tuple[float, ...] = (3.85, 2.32, 2.33, 3.06),
    ) -> None:
        super().__init__()
        levels = len(spatial_channels)
        self.spatial = AutoencoderKL(
            block_out_channels=tuple(spatial_channels),
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            layers_per_block=spatial_layers,
            norm_num_groups=spatial_norm_groups,
            latent_channels=latent_channels,
            scaling_factor=spatial_scaling_factor,
        )
        self.temporal = TemporalAutoencoder(
            latent_channels, temporal_channels, temporal_layers, temporal_halves, temporal_norm_groups
        )
        self.register_buffer("latents_shift", torch.tensor(shift)[None, :, None, None, None])
        self.register_buffer("latents_scale", torch.tensor(scale)[None, :, None, None, None])

    @property
    def spatial_compression(self) -> int:
        """Pixels along a side per latent."""
        return int(2 ** (len(self.config.spatial_channels) - 1))

    def latent_frames(self, num_frames: int) -> int:
        """Number of latent frames of a clip: 5 for each 17 frames, and a quarter of the rest, rounded up."""
        return sum(-(-frames // self.temporal.compression) for frames in self._chunks(num_frames))

    def _chunks(self, num_frames: int) -> list[int]:
        """Number of frames of each chunk that the temporal autoencoder encodes together."""
        size = self.config.micro_frame_size or num_frames
        whole, rest = divmod(num_frames, size)
        return [size] * whole + [rest] * (rest > 0)

    def _batches(self, frames: Tensor) -> tuple[Tensor, ...]:
        """Split (B, C, T, H, W) into batches (b, C, H, W) of frames."""
        images = frames.transpose(1, 2).flatten(0, 1)
        return torch.split(images, self.config.micro_batch_size or len(images))

    @apply_forward_hook  # type: ignore[untyped-decorator]
    def encode(
        self,
        x: Tensor,
        return_dict: bool = True,
        *,
        generator: torch.Generator | None = None,
        sample_posterior: bool = True,
    ) -> AutoencoderKLOutput | tuple[DiagonalGaussianDistribution]:
        """Encode a clip.

        Args:
            x: (B, 3, T, H, W) in [-1, 1], H and W multiples of ``spatial_compression``.
            return_dict: whether to wrap the result.
            generator: for the sample that is drawn between the two autoencoders.
            sample_posterior: whether to draw that sample, as in the original, or to take the mean.

        Returns:
            The distribution of the latents, of shape (B, latent_channels, latent_frames(T), H / 8, W / 8).
        """
        latents = []
        for images in self._batches(x):
            posterior = self.spatial.encode(images).latent_dist
            latents.append(posterior.sample(generator) if sample_posterior else posterior.mode())
        frames = _clips(torch.cat(latents), x.shape[0]) * self.config.spatial_scaling_factor

        moments = [self.temporal.encode(chunk) for chunk in torch.split(frames, self._chunks(x.shape[2]), dim=2)]
        mean, logvar = torch.cat(moments, dim=2).chunk(2, dim=1)
        normalised = torch.cat(
            [(mean - self.latents_shift) / self.latents_scale, logvar - 2 * self.latents_scale.log()], dim=1
        )
        posterior = DiagonalGaussianDistribution(normalised)
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)

    @apply_forward_hook  # type: ignore[untyped-decorator]
    def decode(
        self, z: Tensor, return_dict: bool = True, *, num_frames: int | None = None
    ) -> DecoderOutput | tuple[Tensor]:
        """Decode latents.

        Args:
            z: (B, latent_channels, t, h, w).
            return_dict: whether to wrap the result.
            num_frames: frames of the clip, with ``latent_frames(num_frames) == t``; by default the most that fit.

        Returns:
            The clip (B, 3, num_frames, 8 h, 8 w), about in [-1, 1].

        Raises:
            OpenSoraError: if ``num_frames`` needs another number of latent frames.
        """
        num_frames = self._most_frames(z.shape[2]) if num_frames is None else num_frames
        if self.latent_frames(num_frames) != z.shape[2]:
            raise OpenSoraError(
                "the number of latent frames does not fit num_frames",
                given=f"{z.shape[2]} latent frames, num_frames={num_frames}",
                cure=f"{num_frames} frames have {self.latent_frames(num_frames)} latent frames.",
            )
        z = z * self.latents_scale.to(z.dtype) + self.latents_shift.to(z.dtype)
        chunks = self._chunks(num_frames)
        latents = torch.split(z, [self.latent_frames(frames) for frames in chunks], dim=2)
        decoded = [self.temporal.decode(chunk, frames) for chunk, frames in zip(latents, chunks, strict=True)]
        frames = torch.cat(decoded, dim=2) / self.config.spatial_scaling_factor

        images = torch.cat([self.spatial.decode(batch).sample for batch in self._batches(frames)])
        clip = _clips(images, z.shape[0])
        return DecoderOutput(sample=clip) if return_dict else (clip,)

    def _most_frames(self, latent_frames: int) -> int:
        compression, size = self.temporal.compression, self.config.micro_frame_size
        if size is None:
            return int(latent_frames * compression)
        whole, rest = divmod(latent_frames, self.latent_frames(size))
        return int(whole * size + rest * compression)

    def forward(self, sample: Tensor, sample_posterior: bool = True) -> DecoderOutput:
        """Encode and decode, as in training."""
        (posterior,) = self.encode(sample, return_dict=False, sample_posterior=sample_posterior)
        latents = posterior.sample() if sample_posterior else posterior.mode()
        return self.decode(latents, num_frames=sample.shape[2])


def _clips(images: Tensor, batch: int) -> Tensor:
    """Reshape (B T, C, H, W) to (B, C, T, H, W)."""
    return images.reshape(batch, -1, *images.shape[1:]).transpose(1, 2)
