"""A sampler that is one loop, such as k-diffusion's functions, as a scheduler that makes one step at a time.

The loop is run from its beginning at every step, with the outputs known so far in place of the model, up to the point
at which it asks for the next one. Loops are deterministic for a seed, so this gives exactly the latent that the loop
itself comes to; it costs elementwise operations only, T²/2 of the loop's steps in all. Where all outputs are known
beforehand, the loop is run once (`ReplayedSampler.all_steps`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from diffusers import ConfigMixin, SchedulerMixin
from torch import Tensor

from ertacache.errors import RunError
from ertacache.integrations.named_class import named_class

Evaluate = Callable[[Tensor, Tensor], Tensor]
"""From a latent and its noise level to the model output ``v``, the slope of the latent over the noise level."""
Loop = Callable[[Evaluate, Tensor, Tensor, int], Tensor]
"""A sampler: from `Evaluate`, the first latent, (batch, ...), the T + 1 noise levels, (T + 1,), and the seed of the
noise that it adds, to the last latent.

It must be a plain function: copies of the scheduler share it.
"""


class ReplayedSampler(SchedulerMixin, ConfigMixin):  # type: ignore[misc]
    """The scheduler of a `Loop`. Make it with `replayed_sampler`, which gives it a class of its own.

    Args:
        loop: the sampler.
        config: what else distinguishes it: its options, and ``prediction_type`` unless it is flow matching.
        live: whether the loop runs beside it and makes the steps itself. ``step`` then returns the latent as it was,
            and keeps no outputs. Copies are not live.

    Attributes:
        sigmas: the noise levels, (T + 1,), float32, on the CPU.
        step_index: the step that comes next, from 0.
        newest: the output that the latest step was given.
    """

    config_name = "scheduler_config.json"
    order = 1

    def __init__(self, loop: Loop, config: Mapping[str, Any], *, live: bool = False) -> None:
        self.register_to_config(**config)
        self._loop, self._live = loop, live
        self.newest: Tensor | None = None
        self.set_timesteps([1.0, 0.0])

    def set_timesteps(self, levels: Sequence[float], begin: int = 0, seed: int = 0) -> None:
        """Begin a run.

        Args:
            levels: its T + 1 noise levels, falling.
            begin: the step that it begins with; those before it were made elsewhere.
            seed: of the noise that the loop adds, if it does.
        """
        self.sigmas = torch.tensor([float(level) for level in levels])
        self.timesteps = self.sigmas[:-1]
        self.num_inference_steps = len(self.timesteps)
        self.step_index = self._begin = begin
        self._seed = seed
        self._first: Tensor | None = None
        self._outputs: list[Tensor] = []

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, return_dict: bool = False) -> tuple[Tensor]:
        """Make one step.

        Args:
            model_output: (batch, ...).
            timestep: not used; steps follow one another.
            sample: (batch, ...). The first one begins the replays, later ones are not used.

        Returns:
            The next latent, as a tuple of one.
        """
        self.newest, self.step_index = model_output, self.step_index + 1
        if self._live:
            return (sample,)
        if self._first is None:
            self._first = sample
        self._outputs.append(model_output)
        return (self._replayed(),)

    def all_steps(self, outputs: Sequence[Tensor], latent: Tensor) -> list[Tensor]:
        """Where the loop goes with outputs that are all known: it is run once, in place of a replay for each step.

        Args:
            outputs: those of the steps that are left, each in the shape of the latent.
            latent: where it begins, (batch, ...).

        Returns:
            The latents after each of the steps.

        Raises:
            RunError: if the loop asks for fewer outputs than there are steps, or for more.
        """
        asked: list[Tensor] = []

        def evaluate(here: Tensor, level: Tensor) -> Tensor:
            asked.append(here)
            if len(asked) > len(outputs):
                raise self._not_once_a_step(len(asked), len(outputs))
            return outputs[len(asked) - 1]

        last = self._loop(evaluate, latent, self.sigmas[self._begin :].to(latent.device), self._seed)
        if len(asked) < len(outputs):
            raise self._not_once_a_step(len(asked), len(outputs))
        return [*asked[1:], last]

    def _not_once_a_step(self, asked: int, steps: int) -> RunError:
        return RunError(
            "the loop does not evaluate the model once a step",
            given=f"{type(self).__name__}, {asked} evaluations or more in {steps} steps",
            cure="Use a sampler that evaluates the model once a step, such as euler.",
        )

    def _replayed(self) -> Tensor:
        assert self._first is not None
        left = iter(self._outputs)

        def evaluate(latent: Tensor, level: Tensor) -> Tensor:
            output = next(left, None)
            if output is None:
                raise _Asked(latent)
            return output

        try:
            levels = self.sigmas[self._begin :].to(self._first.device)
            return self._loop(evaluate, self._first, levels, self._seed)
        except _Asked as asked:
            return asked.latent

    def __deepcopy__(self, memo: dict[int, Any]) -> ReplayedSampler:
        twin = copy.copy(self)
        memo[id(self)] = twin
        for name, value in vars(self).items():
            setattr(twin, name, value if name == "_loop" else copy.deepcopy(value, memo))
        twin._live = False
        return twin


class _Asked(BaseException):
    """The loop asks for an output that is not known yet."""

    def __init__(self, latent: Tensor) -> None:
        self.latent = latent


def replayed_sampler(name: str, loop: Loop, config: Mapping[str, Any], *, live: bool = False) -> ReplayedSampler:
    """Make the scheduler of a sampler; arguments as for `ReplayedSampler`.

    Args:
        name: of its class, by which policies tell one sampler from another, as ``"ComfyUI euler"``.
        loop: see there.
        config: see there.
        live: see there.
    """
    made: ReplayedSampler = named_class(name, ReplayedSampler)(loop, config, live=live)
    return made
