"""The noise of SDE samplers, kept: replays ask for the same noise again, and Brownian trees take long to find it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from typing import Any

import comfy.k_diffusion.sampling
from torch import Tensor

MOST_BYTES = 1 << 30
"""So much noise is kept for a sampler, on the device of its latents; the noise that was used last."""
SOURCES = {
    "dpmpp_2m_sde": True,
    "dpmpp_2m_sde_heun": True,
    "dpmpp_3m_sde": True,
    "dpmpp_2m_sde_gpu": False,
    "dpmpp_2m_sde_heun_gpu": False,
    "dpmpp_3m_sde_gpu": False,
}
"""The samplers that draw their noise from Brownian trees, and whether these are on the CPU."""


class KeptNoise:
    """The noise of one sampler, for all its runs.

    Args:
        on_cpu: whether its trees are on the CPU.
    """

    def __init__(self, on_cpu: bool) -> None:
        self._on_cpu, self._lock = on_cpu, Lock()
        self._kept: OrderedDict[Any, Tensor] = OrderedDict()
        self._bytes = 0

    def of(self, latent: Tensor, levels: Tensor, seed: int) -> Callable[[Tensor, Tensor], Tensor]:
        """What a sampler takes as ``noise_sampler``: gives the noise that it would draw itself.

        Args:
            latent: the first one, (batch, ...).
            levels: the noise levels of the run, (T + 1,).
            seed: of its noise.
        """
        least, most = levels[levels > 0].min(), levels.max()
        run = seed, tuple(latent.shape), latent.dtype, latent.device, float(least), float(most)

        def drawn(level: Tensor, after: Tensor) -> Tensor:
            key = *run, float(level), float(after)
            with self._lock:
                if key in self._kept:
                    self._kept.move_to_end(key)
                    return self._kept[key]
            tree = comfy.k_diffusion.sampling.BrownianTreeNoiseSampler(latent, least, most, seed=seed, cpu=self._on_cpu)
            noise: Tensor = tree(level, after)
            self._keep(key, noise)
            return noise

        return drawn

    def _keep(self, key: Any, noise: Tensor) -> None:
        with self._lock:
            if key not in self._kept:
                self._kept[key] = noise
                self._bytes += noise.nbytes
            while self._bytes > MOST_BYTES and len(self._kept) > 1:
                self._bytes -= self._kept.popitem(last=False)[1].nbytes
