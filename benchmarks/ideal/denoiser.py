"""The ideal denoiser in closed form: the mean of all pictures of a set that a noisy one may be, near each pixel.

Flow matching: a picture y at noise level t is x = (1 - t) y + t noise. A trained network approximates E[y | x]; here
the set of pictures is small, so that this mean is a finite sum. Over the whole picture it is exact, and sampling by it
only repeats pictures of the set. A network sees little of the picture at low noise, and mixes what it has seen. This
locality is that of Kamb and Ganguli, "An analytic theory of creativity in convolutional diffusion models", arXiv
2412.20292, whose local score machine has the same weights; their windows are measured on trained networks, ours follow
a simple law. Equivariance under translation, which they add, is left out: emoji are centred.
"""

from __future__ import annotations

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from torch import Tensor

ALL = -1
"""The class label that stands for all pictures, for guidance."""
TRAIN_TIMESTEPS = 1000
"""The timestep of noise level 1, as in diffusers' flow-matching schedulers."""


class IdealDenoiser(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """The velocity of flow matching for a finite set of pictures.

    Args:
        num_pictures: how many the set has; `of` fills them in.
        size: their side in pixels.
        window: the side of the window around each pixel as the noise vanishes, in pixels, 3 to ``2 * size - 1``; the
            latter is the whole picture at all noise levels. See `half_width`.

    Raises:
        ValueError: if there is no such window.
    """

    pictures: Tensor
    labels: Tensor

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(self, num_pictures: int, size: int = 32, window: int = 5) -> None:
        super().__init__()
        if not 3 <= window <= 2 * size - 1:
            raise ValueError(f"a window of {window} pixels; choose 3 to {2 * size - 1}")
        self.register_buffer("pictures", torch.zeros(num_pictures, 3, size, size))
        self.register_buffer("labels", torch.zeros(num_pictures, dtype=torch.long))

    @classmethod
    def of(cls, pictures: Tensor, labels: Tensor, window: int = 5) -> IdealDenoiser:
        """Make the denoiser of a set.

        Args:
            pictures: float32 (N, 3, S, S) in -1 .. 1.
            labels: int64 (N,), the class of each, 0 or more.
            window: see the class.
        """
        made: IdealDenoiser = cls(len(pictures), pictures.shape[-1], window)
        made.pictures.copy_(pictures)
        made.labels.copy_(labels)
        return made

    def half_width(self, level: float) -> float:
        """How far the window reaches to each side of its pixel, in pixels, at a noise level from 0 to 1.

        It grows geometrically with the square of the level, to the whole picture at 1. From 3 pixels on, the window of
        a picture of 32 is 3, 6, 12 and 19 pixels wide at levels of 0.1, 0.5, 0.7 and 0.8. What was measured on a U-Net
        for CIFAR-10 is 3, 7, 11 and 13 there, and 25 at 1: file checkpoints/scales_CIFAR10_UNet_zeros_conditional.pt
        of the paper's code, as kept in henhen724/convolutional_diffusion at 21e57b8. Ours are not rounded, since a
        network does not change in jumps between noise levels: the outermost ring counts by the fraction.
        """
        smallest, largest = (self.config.window - 1) / 2, self.config.size - 1
        share = level**2
        return float(smallest ** (1 - share) * largest**share)

    def window_matrix(self, level: float) -> Tensor:
        """How much each row of a picture counts in the window of each row, float64 (S, S) in 0 .. 1; so do columns."""
        place = torch.arange(self.config.size, dtype=torch.float64, device=self.pictures.device)
        return (self.half_width(level) + 1 - (place[:, None] - place).abs()).clamp(0, 1)

    def denoised(self, x: Tensor, level: float, label: int) -> Tensor:
        """The mean of the set given one noisy picture, at each pixel given the window around it.

        Of -|x - (1 - t) y|² / (2 t²), summed over the window, the part that depends on y is what the weights need.

        Args:
            x: (3, S, S).
            level: the noise level t, over 0, up to 1.
            label: the class whose pictures count, or `ALL`.

        Returns:
            float64 (3, S, S), in -1 .. 1.
        """
        pictures = self.pictures if label == ALL else self.pictures[self.labels == label]
        known, noisy, kept = pictures.double(), x.double(), 1 - level
        matches = torch.zeros_like(known[:, 0])
        for color in range(3):  # one plane after the other, which stays in the processor's cache
            matches.addcmul_(known[:, color], noisy[color] - kept / 2 * known[:, color])
        window = self.window_matrix(level)
        weights = torch.softmax((window @ matches @ window.T).mul_(kept / level**2), dim=0)
        return torch.stack([(weights * known[:, color]).sum(dim=0) for color in range(3)])

    def forward(
        self, hidden_states: Tensor, timestep: Tensor, class_labels: Tensor, return_dict: bool = True
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        """The velocity, noise minus picture.

        Args:
            hidden_states: the noisy pictures, (B, 3, S, S).
            timestep: their noise levels times `TRAIN_TIMESTEPS`, over 0, of shape () or (B,).
            class_labels: int64 (B,), `ALL` for no class.
            return_dict: whether to wrap the result.

        Returns:
            (B, 3, S, S) in the dtype of ``hidden_states``.

        Raises:
            ValueError: if a noise level is not over 0 and at most 1.
        """
        levels = (timestep.double() / TRAIN_TIMESTEPS).expand(len(hidden_states)).tolist()
        if not all(0 < level <= 1 for level in levels):
            raise ValueError(f"noise levels are over 0 and at most 1, not {levels}")
        means = [
            self.denoised(x, level, label)
            for x, level, label in zip(hidden_states, levels, class_labels.tolist(), strict=True)
        ]
        scale = torch.tensor(levels, dtype=torch.float64, device=hidden_states.device)[:, None, None, None]
        velocity = ((hidden_states.double() - torch.stack(means)) / scale).to(hidden_states.dtype)
        return Transformer2DModelOutput(sample=velocity) if return_dict else (velocity,)
