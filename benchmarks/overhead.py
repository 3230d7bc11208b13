"""What a cached step costs beyond the scheduler's own step, and how near the speedup comes to the step ratio.

python -m benchmarks.overhead
"""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Annotated, Any

import numpy as np
import torch
import typer
from diffusers import FlowMatchEulerDiscreteScheduler
from rich.console import Console
from rich.table import Table

from ertacache import Method, Policy, calibrate, zoo
from ertacache.evaluation.comparison import Variant, compare
from ertacache.method.prediction import Prediction
from ertacache.runtime.policy_driver import PolicyDriver
from ertacache.runtime.policy_for_call import Resolved
from ertacache.runtime.run import Run

STEPS = 1000


class _Denoiser(torch.nn.Module):
    """Costs nothing, so that what is measured is the seams."""

    def forward(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor]:
        return (hidden_states,)


def loop_seconds(pipe: Any, shape: tuple[int, ...]) -> float:
    """One sampling loop with two guidance branches."""
    latents = torch.randn(shape)
    pipe.scheduler.set_timesteps(STEPS)
    pipe.scheduler.set_begin_index(0)
    start = time.perf_counter()
    for t in pipe.scheduler.timesteps:
        a = pipe.transformer(hidden_states=latents)[0]
        b = pipe.transformer(hidden_states=latents)[0]
        latents = pipe.scheduler.step(b + 4.0 * (a - b), t, latents, return_dict=False)[0]
    return time.perf_counter() - start


def cached_step_microseconds(shape: tuple[int, ...], repeats: int = 9) -> float:
    """The median time of a cached step with six factors, less that of the same loop without a policy."""
    pipe = SimpleNamespace(transformer=_Denoiser(), scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0))
    computed = (0, 1, 2, STEPS - 1)
    cached = tuple(i for i in range(STEPS) if i not in computed)
    prediction = Prediction((2, 1, 0), (1.5, -0.7, 0.2), (0.3, -0.2, 0.1))
    policy = Policy(STEPS, cached, Method(predictor="aligned"), dict.fromkeys(cached, prediction))
    differences = []
    for _ in range(repeats):
        plain = loop_seconds(pipe, shape)
        with Run(pipe, PolicyDriver(Resolved(policy))):
            fast = loop_seconds(pipe, shape)
        differences.append((fast - plain) / STEPS * 1e6)
    return median(differences)


def main(
    prompts: Annotated[int, typer.Option(help="held-out prompts to time")] = 8,
    repeats: Annotated[int, typer.Option(help="how often each prompt is generated, by turns with the others")] = 5,
) -> None:
    """Print both figures.

    What disturbs a timing only ever adds to it: each prompt's full run and each of its accelerated runs is timed
    several times, by turns, and the fastest of each are compared.
    """
    console = Console()
    with torch.inference_mode():
        for shape in ((1, 144, 16), (1, 4096, 64)):
            cost = cached_step_microseconds(shape)
            line = f"a cached step costs {cost:.0f} us beyond the scheduler's own, latent {shape}"
            console.print(line, highlight=False)
    embedded = zoo.load("flux")
    settings = dict(embedded.arguments)
    steps = settings.pop("num_inference_steps")
    policies = {
        speedup: calibrate(
            embedded.pipe,
            embedded.calibration_prompts[:2],
            num_inference_steps=steps,
            speedup=speedup,
            method=Method(schedule="uniform", predictor="aligned"),
            checkpoint=Path("out/overhead"),
            **settings,
        )
        for speedup in (2.0, 3.0)
    }
    variants = [Variant(f"{speedup:g}x", steps, policy=policy) for speedup, policy in policies.items()]
    once = [{**settings, "prompt": embedded.held_out_prompts[k], "seed": 1000 + k} for k in range(prompts)]
    rows = compare(embedded.pipe, Variant("full", steps), variants, once * repeats)
    full, *fast = (np.reshape(row.loop_seconds, (repeats, prompts)).min(axis=0) for row in rows)
    per_call = np.median(full) / steps / 2 * 1e3
    console.print(f"a denoiser call takes {per_call:.1f} ms, the scheduler's step included", highlight=False)
    table = Table("budget", "step ratio", "measured speedup, median", "share of the step ratio", "of the prompts")
    for (budget, policy), seconds in zip(policies.items(), fast, strict=True):
        speedups = full / seconds
        shares = speedups / policy.step_ratio
        table.add_row(
            f"{budget:g}x",
            f"{policy.step_ratio:.2f}",
            f"{np.median(speedups):.2f}",
            f"{np.median(shares):.3f}",
            f"{shares.min():.3f} to {shares.max():.3f}",
        )
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
