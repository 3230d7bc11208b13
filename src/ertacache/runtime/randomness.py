"""The global random state: what a call draws from beside the generator that it was given."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.random import mtrand
from torch import Tensor


@dataclass(frozen=True)
class RandomState:
    """The state of all that draws for the whole process: torch on every device, Python's ``random``, numpy's.

    Args:
        torch: of the CPU and of each accelerator.
        python: of ``random``.
        numpy: of ``numpy.random``.
    """

    torch: tuple[Tensor, ...]
    python: Any
    numpy: Any

    @classmethod
    def current(cls) -> RandomState:
        """As it is now."""
        states = tuple(generator.get_state() for generator in _generators())
        return cls(states, random.getstate(), np.random.get_state(legacy=False))

    @classmethod
    def of(cls, seed: int, number: int) -> RandomState:
        """One of many that a seed gives; other numbers come from it than from a generator of this seed."""
        # What is drawn here is mixed with the latents that the call's own generator draws.
        mixed = random.Random(f"{seed} {number}").getrandbits(63)
        seeded = (torch.Generator(generator.device).manual_seed(mixed).get_state() for generator in _generators())
        bits: Any = type(mtrand.get_bit_generator())  # another one can be set
        drawn = np.random.RandomState(bits(mixed)).get_state(legacy=False)
        return cls(tuple(seeded), random.Random(mixed).getstate(), drawn)

    def put(self) -> None:
        """Make it the state of the process."""
        for generator, state in zip(_generators(), self.torch, strict=False):
            generator.set_state(state)
        random.setstate(self.python)
        np.random.set_state(self.numpy)

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Begin with it, and put back what stood before."""
        before = RandomState.current()
        self.put()
        try:
            yield
        finally:
            before.put()


def _generators() -> list[torch.Generator]:
    """Torch's own, of the CPU and of the accelerators, always in this order."""
    found: list[torch.Generator] = [torch.default_generator]
    for backend in (torch.cuda, torch.xpu):
        if backend.is_available():
            backend.init()
            found += backend.default_generators
    if torch.backends.mps.is_available():
        found.append(torch.mps._get_default_mps_generator())
    return found
