"""The workers that a command is given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ertacache.errors import ArgumentError

if TYPE_CHECKING:
    from ertacache.distributed.processes import Processes
    from ertacache.distributed.ray_workers import RayWorkers

NumWorkers = Annotated[
    int | None,
    typer.Option("--workers", min=1, help="Share the prompts between so many processes, one for each GPU."),
]
RayAddress = Annotated[
    str | None,
    typer.Option("--ray", help="With --workers: as actors of this Ray cluster; 'auto' finds one, 'local' starts one."),
]


def workers_of(num_workers: int | None, ray: str | None) -> Processes | RayWorkers | None:
    """The workers that were asked for, or None.

    Raises:
        ArgumentError: if a cluster is given without workers, or Ray is not installed.
    """
    if num_workers is None:
        if ray is not None:
            raise ArgumentError("--ray needs --workers", given=ray, cure="Pass --workers N.")
        return None
    from ertacache.distributed import Processes, RayWorkers

    if ray is None:
        return Processes(num_workers)
    return RayWorkers(num_workers, address=None if ray == "local" else ray)
