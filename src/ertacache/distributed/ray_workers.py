"""Workers as Ray actors, on one machine or many."""

from __future__ import annotations

import os
import platform
import queue
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ertacache import value_checks
from ertacache.distributed.driver import CarriedWorkers, Carrier
from ertacache.distributed.messages import Died, Job, Message, Reply
from ertacache.distributed.worker import work
from ertacache.errors import ArgumentError


class RayWorkers(CarriedWorkers):
    """Workers that are actors of a Ray cluster.

    Args:
        num_workers: how many.
        address: of the cluster, as for ``ray.init``; None for the one that this process is in, or a new one on this
            machine. A call to ``ray.init`` that was made before is kept.
        gpus: for each worker, in parts or whole; by default one if the cluster has any, else none.
        cpus: for each worker.
        threads: of torch in each worker; by default as many as ``cpus``. Results are the same to the bit for other
            numbers of workers if each has as many threads.
        options: further ones of the actors, such as ``runtime_env`` or ``scheduling_strategy``.

    Raises:
        ArgumentError: if Ray is not installed.
    """

    def __init__(
        self,
        num_workers: int,
        *,
        address: str | None = None,
        gpus: float | None = None,
        cpus: float = 1,
        threads: int | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.num_workers = value_checks.whole("num_workers", num_workers, at_least=1)
        self.ray, self.address, self.cpus = _ray(), address, cpus
        self.gpus, self.options = gpus, dict(options or {})
        self.threads = threads if threads is not None else max(1, int(cpus))

    @contextmanager
    def carrier(self) -> Iterator[Carrier]:
        """What starts the workers and carries their messages; joins the cluster, and leaves it at the end."""
        started = not self.ray.is_initialized()
        if started:
            own = {"include_dashboard": False} if self.address is None else {}
            self.ray.init(address=self.address, log_to_driver=False, **own)
        try:
            gpus = self.gpus if self.gpus is not None else float(bool(self.ray.cluster_resources().get("GPU")))
            options = {"num_cpus": self.cpus, "num_gpus": gpus, "max_concurrency": 3, **self.options}
            yield _Carrier(self.ray, self.num_workers, options)
        finally:
            if started:
                self.ray.shutdown()


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise ArgumentError(
            "Ray is not installed", given=str(error), cure="Install it: pip install 'ertacache[ray]'."
        ) from error
    return ray


class Actor:
    """A worker, as Ray runs it: the job in a thread of its own, which speaks by two queues."""

    def __init__(self) -> None:
        self._out: queue.Queue[Message] = queue.Queue()
        self._in: queue.Queue[Reply] = queue.Queue()

    def start(self, job: Job) -> str:
        """Begin; return where this is."""
        threading.Thread(target=work, args=(job, self), name="ertacache-worker", daemon=True).start()
        return f"{platform.node()}, process {os.getpid()}"

    def next_message(self) -> Message:
        """Wait for what the job says next."""
        return self._out.get()

    def answer(self, reply: Reply) -> None:
        """Give it the answer that it waits for."""
        self._in.put(reply)

    def send(self, message: Message) -> None:
        """See `ertacache.distributed.line_shard.Line`."""
        self._out.put(message)

    def receive(self) -> Reply:
        """See there."""
        return self._in.get()


class _Carrier:
    """See `ertacache.distributed.driver.Carrier`."""

    def __init__(self, ray: Any, num_workers: int, options: Mapping[str, Any]) -> None:
        self._ray, self.num_workers = ray, num_workers
        self._class = ray.remote(**options)(Actor)
        self._actors: dict[int, Any] = {}
        self._nodes: dict[int, Any] = {}
        self._waited: dict[Any, int] = {}

    def start(self, job: Job) -> None:
        self._kill(job.rank)
        actor = self._actors[job.rank] = self._class.remote()
        self._nodes[job.rank] = actor.start.remote(job)
        self._waited[actor.next_message.remote()] = job.rank

    def wait(self) -> tuple[int, Message]:
        ready, _ = self._ray.wait(list(self._waited), num_returns=1)
        rank = self._waited.pop(ready[0])
        try:
            message: Message = self._ray.get(ready[0])
        except self._ray.exceptions.RayError as error:
            return rank, Died(str(error).splitlines()[0])
        self._waited[self._actors[rank].next_message.remote()] = rank
        return rank, message

    def send(self, rank: int, reply: Reply) -> None:
        self._actors[rank].answer.remote(reply)

    def node(self, rank: int) -> str:
        try:
            where: str = self._ray.get(self._nodes[rank], timeout=1)
            return where
        except self._ray.exceptions.RayError:
            return "a node that never answered"

    def close(self) -> None:
        for rank in list(self._actors):
            self._kill(rank)

    def _kill(self, rank: int) -> None:
        self._waited = {ref: other for ref, other in self._waited.items() if other != rank}
        actor = self._actors.pop(rank, None)
        if actor is not None:
            self._ray.kill(actor)
