"""What runs in a worker: load the pipeline, see that all workers are alike, and do the job."""

from __future__ import annotations

import itertools
import os
import platform
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ertacache._version import __version__
from ertacache.calibration.shard import holding
from ertacache.distributed.line_shard import Line, LineShard
from ertacache.distributed.messages import Done, Failed, HandedIn, Interrupted, Job
from ertacache.errors import ArgumentError, CalibrationError


@dataclass(frozen=True)
class Credentials:
    """What must be the same for all workers.

    Args:
        node: the machine, and the process.
        versions: of what computes, by name.
        weights: a digest of the pipeline's networks.
    """

    node: str
    versions: dict[str, str]
    weights: str


def work(job: Job, line: Line) -> None:
    """Do a job, and tell the driver what came of it; errors too."""
    try:
        _do(job, line)
    except BaseException as error:
        line.send(Failed(error, traceback.format_exc()))


def _do(job: Job, line: Line) -> None:
    import torch

    if job.threads is not None:
        torch.set_num_threads(job.threads)
    pipe = loaded(job.load)
    if job.pooled:
        job.task(pipe, *job.arguments, next_item=_from_pool(line), **job.keywords)
        line.send(Done(None, ""))
        return
    shard = LineShard(job, line)
    check_alike(shard.gather([credentials_of(pipe)], "its introduction"))
    with holding(shard):
        result = job.task(pipe, *job.arguments, **job.keywords)
    line.send(Done(result if shard.is_first else None, print_of(result)))


def _from_pool(line: Line) -> Callable[[Any], Any]:
    """Make ``next_item(result)``, see `ertacache.distributed.pool.Pool`."""
    number = itertools.count()

    def next_item(result: Any) -> Any:
        line.send(HandedIn(next(number), [result], "an item"))
        reply = line.receive()
        assert not isinstance(reply, Interrupted)  # pools are not interrupted at a common place
        return reply[0]

    return next_item


def loaded(load: Any) -> Any:
    """The pipeline that a loader returns, or that a folder or an id names.

    Raises:
        ArgumentError: if it is neither of these.
    """
    from ertacache import zoo

    if callable(load) and not hasattr(load, "scheduler"):
        return load()
    if isinstance(load, (str, Path)):
        name = str(load)
        if name.startswith("zoo:"):
            return zoo.load(name.removeprefix("zoo:")).pipe
        pipe = zoo.pipeline_class(name).from_pretrained(name)
        if hasattr(pipe, "load_components"):
            pipe.load_components()
        return pipe
    raise ArgumentError(
        "with workers, a pipeline cannot be given itself, since each worker loads its own",
        given=type(load).__name__,
        cure="Give a function that returns it, or its id or folder.",
    )


def credentials_of(pipe: Any) -> Credentials:
    """What this worker has."""
    import diffusers
    import torch
    import transformers
    from torch import nn

    from ertacache.runtime.identity import identify
    from ertacache.runtime.pipeline_key import digest_of

    modules = (diffusers, torch, transformers)
    versions = {"ertacache": __version__} | {module.__name__: module.__version__ for module in modules}
    networks = {name: identify(part) for name, part in pipe.components.items() if isinstance(part, nn.Module)}
    return Credentials(f"{platform.node()}, process {os.getpid()}", versions, digest_of(sorted(networks.items())))


def check_alike(workers: Sequence[Credentials]) -> None:
    """Raise `CalibrationError` unless all workers have the same versions and weights."""
    first = workers[0]
    for other in workers[1:]:
        for name, version in first.versions.items():
            if other.versions[name] != version:
                raise CalibrationError(
                    f"two workers have different versions of {name}",
                    given=f"{version} on {first.node}, {other.versions[name]} on {other.node}",
                    cure="Install the same one on all machines.",
                )
        if other.weights != first.weights:
            raise CalibrationError(
                "two workers have different weights",
                given=f"{first.weights[:12]} on {first.node}, {other.weights[:12]} on {other.node}",
                cure="Have all load the same model in the same precision.",
            )


def print_of(result: Any) -> str:
    """A digest of what a task returned: of policies, alone or in a profile or draft; else empty."""
    policies = getattr(result, "policies", None) or [getattr(result, "policy", result)]
    prints = [getattr(policy, "fingerprint", "") for policy in policies] if isinstance(policies, (list, tuple)) else []
    return " ".join(prints)
