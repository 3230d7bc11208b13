"""Save, seed and restore the global random state, from which some calls draw in spite of their generator."""

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
    """The state of the process-wide generators: torch's on every device, Python's and NumPy's.

    Args:
        torch: the states of torch's generators, of the CPU and of each accelerator.
        python: the state of ``random``.
        numpy: the state of ``numpy.random``.
    """

    torch: tuple[Tensor, ...]
    python: Any
    numpy: Any

    @classmethod
    def current(cls) -> RandomState:
        """Read the current state."""
        states = tuple(generator.get_state() for generator in _generators())
        return cls(states, random.getstate(), np.random.get_state(legacy=False))

    @classmethod
    def of(cls, seed: int, number: int) -> RandomState:
        """Make a state from a seed and a number; the numbers drawn differ from those of a generator with that seed."""
        # A call's own generator often has that seed, and what both draw is mixed.
        mixed = random.Random(f"{seed} {number}").getrandbits(63)
        seeded = (torch.Generator(generator.device).manual_seed(mixed).get_state() for generator in _generators())
        bits: Any = type(mtrand.get_bit_generator())  # NumPy lets users replace the default one
        drawn = np.random.RandomState(bits(mixed)).get_state(legacy=False)
        return cls(tuple(seeded), random.Random(mixed).getstate(), drawn)

    def put(self) -> None:
        """Set the state of the process to this one."""
        for generator, state in zip(_generators(), self.torch, strict=False):
            generator.set_state(state)
        random.setstate(self.python)
        np.random.set_state(self.numpy)

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Set the state within a ``with`` block, and restore the former one afterwards."""
        before = RandomState.current()
        self.put()
        try:
            yield
        finally:
            before.put()


def _generators() -> list[torch.Generator]:
    """Torch's default generators, of the CPU and of the accelerators, always in this order."""
    generators: list[torch.Generator] = [torch.default_generator]
    for backend in (torch.cuda, torch.xpu):
        if backend.is_available():
            backend.init()
            generators += backend.default_generators
    if torch.backends.mps.is_available():
        generators.append(torch.mps._get_default_mps_generator())
    return generators
