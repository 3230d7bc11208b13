"""Fewer steps: on the pipeline's own grid, and with a solver of higher order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from diffusers import DPMSolverMultistepScheduler, UniPCMultistepScheduler

from benchmarks.rivals.base import Knobs, Rival, Subject


def _steps(subject: Subject) -> Sequence[Knobs]:
    return [{"num_inference_steps": steps} for steps in subject.budgets]


FEWER_STEPS = Rival(
    name="fewer steps",
    source="the null hypothesis: the pipeline as it is, asked for fewer steps",
    knobs=_steps,
    attach=lambda subject, knobs, prepared: nullcontext(),
    num_steps=lambda subject, knobs: int(knobs["num_inference_steps"]),
)


def flow_shift(scheduler: Any) -> float:
    """The static shift of a flow-matching scheduler's grid, by whatever name it has there."""
    config = scheduler.config
    return float(config.get("flow_shift", config.get("shift", 1.0)))


class OnOpenSoraGrid:
    """A flow-matching solver of diffusers on the grid of Open-Sora's scheduler, whose velocity has the other sign.

    Args:
        solver: of diffusers.
        own: the pipeline's scheduler, which lays the grid.
    """

    order, init_noise_sigma = 1, 1.0

    def __init__(self, solver: Any, own: Any) -> None:
        self.solver, self.own, self.config = solver, own, solver.config

    def set_timesteps(self, num_inference_steps: int, device: Any = None, **size: Any) -> None:
        """Lay the grid for a clip of a size."""
        self.own.set_timesteps(num_inference_steps, device, **size)
        self.solver.set_timesteps(num_inference_steps, device)
        self.timesteps = self.solver.timesteps = self.own.timesteps
        levels = self.own.timesteps.double().cpu() / self.own.config.num_train_timesteps
        # Just under 1, where the logarithmic signal-to-noise ratio that the solver works with is still finite.
        self.solver.sigmas = torch.cat([levels.clamp(max=0.9999), levels.new_zeros(1)]).float()

    def set_begin_index(self, index: int) -> None:
        """Say at which step sampling begins."""
        self.solver.set_begin_index(index)

    def step(self, velocity: Any, timestep: Any, sample: Any, return_dict: bool = True) -> Any:
        """One step; ``velocity`` is data minus noise."""
        return self.solver.step(-velocity, timestep, sample, return_dict=return_dict)


class StaticShiftDPMSolver(DPMSolverMultistepScheduler):  # type: ignore[misc]
    """Ignores the ``mu`` that FluxPipeline always gives and that counts only where the shift depends on the size."""

    def set_timesteps(self, num_inference_steps: int, device: Any = None, mu: float | None = None) -> None:
        """Lay the grid with the configured shift."""
        super().set_timesteps(num_inference_steps, device)


def _solver(make: Any) -> Callable[..., Any]:
    """Swap the scheduler for one of class ``make`` on the same noise curve, as a user would."""

    @contextmanager
    def attach(subject: Subject, knobs: Knobs, prepared: Any) -> Iterator[None]:
        own = subject.pipe.scheduler
        if subject.name == "cogvideox":  # variance preserving: the curve of its own table carries over
            solver = make.from_config(own.config, solver_order=2)
        else:
            flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": flow_shift(own)}
            solver = make(solver_order=2, **flow)
        subject.pipe.scheduler = OnOpenSoraGrid(solver, own) if subject.name == "opensora" else solver
        try:
            yield
        finally:
            subject.pipe.scheduler = own

    return attach


def _own_solver(subject: Subject) -> str:
    if isinstance(subject.pipe.scheduler, UniPCMultistepScheduler):
        return "it is the pipeline's own solver, which 'fewer steps' uses"
    return ""


DPM_SOLVER = replace(
    FEWER_STEPS,
    name="fewer steps, DPM-Solver++ 2M",
    source="arXiv 2211.01095; diffusers' DPMSolverMultistepScheduler",
    attach=_solver(StaticShiftDPMSolver),
)

UNIPC = replace(
    FEWER_STEPS,
    name="fewer steps, UniPC",
    source="arXiv 2302.04867; diffusers' UniPCMultistepScheduler",
    attach=_solver(UniPCMultistepScheduler),
    refuses=_own_solver,
)
