"""Whether all workers compute alike: the first step of one prompt, to the bit."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor

from ertacache.calibration.shard import Shard
from ertacache.runtime.driver import Driver, Step
from ertacache.runtime.repeatable_call import Call, twin_of
from ertacache.runtime.run import Run


def doubt_about(shard: Shard, pipe: Any, call: Call) -> str:
    """Compute the first step of a call in every worker, and compare the outputs to the bit.

    Args:
        shard: this process's.
        pipe: the pipeline; left as it was found.
        call: the same in all workers.

    Returns:
        A note for the user; empty if all are the same, or there is one process alone.
    """
    if shard.num_workers == 1:
        return ""
    prints = shard.gather([_first_output(pipe, call)], "the first step of the first prompt")
    others = [rank for rank, one in enumerate(prints) if one != prints[0]]
    if not others:
        return ""
    ranks = ", ".join(map(str, others))
    return (
        f"the workers' arithmetic differs (worker {ranks} from worker 0; devices, kernels or numbers of threads): with "
        "another number of workers the policy would not be the same to the bit"
    )


class _FirstStep(Driver):
    """The driver of a run that ends with its first output."""

    print = ""

    def model_output(self, step: Step) -> Tensor:
        output = step.model_output.detach().cpu().contiguous()
        self.print = hashlib.sha256(output.flatten().view(torch.uint8).numpy().tobytes()).hexdigest()
        raise _SeenError


class _SeenError(Exception):
    """Ends the run."""


def _first_output(pipe: Any, call: Call) -> str:
    driver = _FirstStep()
    try:
        with call.random.lent(), Run(twin_of(pipe, decodes=call.decodes), driver) as run:
            run.call(**call.arguments())
    except _SeenError:
        pass
    return driver.print
