"""A seeded, resumable training loop: step k draws the same batch whether or not the run was interrupted."""

from __future__ import annotations

import csv
import math
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch

LONGEST_STEP = 20.0
"""Seconds; what is above it was not training: compilation, or the process was stopped for a while."""


class Average:
    """Exponential moving average of parameters, with the warm-up that keeps early averages honest."""

    def __init__(self, parameters: list[torch.nn.Parameter], decay: float = 0.999) -> None:
        self.parameters, self.decay = parameters, decay
        self.values = [p.detach().clone() for p in parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.values, [p.detach() for p in self.parameters], 1 - decay)

    @torch.no_grad()
    def copy_to_parameters(self) -> None:
        for parameter, value in zip(self.parameters, self.values, strict=True):
            parameter.copy_(value)


def train(
    name: str,
    loss_at: Callable[[int, torch.Generator], torch.Tensor],
    parameters: list[torch.nn.Parameter],
    folder: Path,
    *,
    num_steps: int,
    learning_rate: float,
    matrices: list[torch.nn.Parameter] | None = None,
    seconds: float = math.inf,
    warmup: int = 200,
    save_every: float = 120.0,
) -> None:
    """Minimise ``loss_at(step, generator)`` with AdamW, a linear warm-up and a cosine decay.

    Those of the parameters that are in ``matrices`` are trained by Muon instead, whose updates are scaled to
    the size of AdamW's.

    The checkpoint ``<name>.pt`` and the loss curve ``<name>.csv`` stand in ``folder``; a second call goes on
    where the first stopped. When ``seconds`` run out before ``num_steps``, the decay is what is cut short:
    the schedule follows whichever of the two clocks is further along; a second call with more seconds begins
    at the rate that is due at its share of them. Leaves the averaged weights in place.
    """
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint, curve = folder / f"{name}.pt", folder / f"{name}.csv"
    chosen = {id(p) for p in matrices or []}
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(
            [p for p in parameters if id(p) not in chosen], lr=learning_rate, betas=(0.9, 0.99), weight_decay=0.01
        )
    ]
    if matrices:
        optimizers.append(
            torch.optim.Muon(matrices, lr=learning_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
        )
    average = Average(parameters)
    step, spent = 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        step, spent = state["step"], state["spent"]
        for optimizer, kept in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        average.values = state["average"]
        with torch.no_grad():
            for parameter, value in zip(parameters, state["parameters"], strict=True):
                parameter.copy_(value)

    def save() -> None:
        partial = checkpoint.with_suffix(".partial")
        torch.save(
            {
                "step": step,
                "spent": spent,
                "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                "average": average.values,
                "parameters": [p.detach() for p in parameters],
            },
            partial,
        )
        os.replace(partial, checkpoint)

    last, saved, losses = time.monotonic(), time.monotonic(), []
    while step < num_steps and spent < seconds:
        progress = max(step / num_steps, spent / seconds)
        rate = learning_rate * min(1, (step + 1) / warmup) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = rate
        loss = loss_at(step, torch.Generator().manual_seed(step))
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in optimizers:
            optimizer.step()
        average.update(step)
        step += 1
        losses.append(loss.item())
        now = time.monotonic()
        spent, last = spent + min(now - last, LONGEST_STEP), now
        if step % 50 == 0:
            with curve.open("a", newline="") as file:
                csv.writer(file).writerow([step, round(spent, 1), f"{rate:.2e}", f"{sum(losses) / len(losses):.5f}"])
            losses = []
        if now - saved > save_every:
            save()
            saved = now
    save()
    average.copy_to_parameters()
