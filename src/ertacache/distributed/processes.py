"""Workers as processes of this machine: one for each GPU, or several on the processor's cores."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from typing import Any

from ertacache import value_checks
from ertacache.distributed.driver import CarriedWorkers, Carrier
from ertacache.distributed.messages import Died, Job, Message, Reply
from ertacache.distributed.worker import work
from ertacache.errors import ArgumentError


class Processes(CarriedWorkers):
    """Workers that are processes of this machine.

    Each sees one GPU alone, if there is any. They are started as `multiprocessing` does with ``spawn``: a script that
    uses them needs ``if __name__ == "__main__":``, and the loader is a function of a module.

    Args:
        num_workers: how many; on a machine with GPUs at most as many as these.
        threads: of torch in each worker; by default the processor's cores are shared out, and with GPUs torch decides.
            Results are the same to the bit for other numbers of workers if each has as many threads.

    Raises:
        ArgumentError: if there are not so many GPUs.
    """

    def __init__(self, num_workers: int, *, threads: int | None = None) -> None:
        import torch

        self.num_workers = value_checks.whole("num_workers", num_workers, at_least=1)
        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if gpus and self.num_workers > gpus:
            raise ArgumentError(
                "there are not so many GPUs", given=f"{num_workers} workers, {gpus} GPUs", cure=f"Use {gpus} at most."
            )
        if threads is not None:
            threads = value_checks.whole("threads", threads, at_least=1)
        elif not gpus:
            threads = max(1, (os.cpu_count() or 1) // self.num_workers)
        self.threads, self.gpus = threads, gpus

    @contextmanager
    def carrier(self) -> Iterator[Carrier]:
        """What starts the workers and carries their messages."""
        yield _Carrier(self.num_workers, bool(self.gpus))


class _Carrier:
    """See `ertacache.distributed.driver.Carrier`."""

    def __init__(self, num_workers: int, one_gpu_each: bool) -> None:
        self.num_workers, self._one_gpu_each = num_workers, one_gpu_each
        self._context = multiprocessing.get_context("spawn")
        self._lines: dict[int, Connection] = {}
        self._processes: dict[int, Any] = {}

    def start(self, job: Job) -> None:
        self._end(job.rank)
        here, there = self._context.Pipe()
        process = self._context.Process(target=_main, args=(there,), daemon=True, name=f"ertacache-worker-{job.rank}")
        with _seeing(job.rank if self._one_gpu_each else None):
            process.start()
        there.close()
        self._lines[job.rank], self._processes[job.rank] = here, process
        with suppress(OSError):  # it has died already, which `wait` will say
            send(here, job)

    def wait(self) -> tuple[int, Message]:
        ranks = {id(line): rank for rank, line in self._lines.items()}
        line: Any = wait(list(self._lines.values()))[0]
        rank = ranks[id(line)]
        try:
            return rank, receive(line)
        except (EOFError, OSError):
            process = self._processes[rank]
            process.join(10)
            self._lines.pop(rank).close()
            return rank, Died(_end_of(process.exitcode))

    def send(self, rank: int, reply: Reply) -> None:
        with suppress(KeyError, OSError):  # it has died
            send(self._lines[rank], reply)

    def node(self, rank: int) -> str:
        return f"this machine, process {self._processes[rank].pid}"

    def close(self) -> None:
        for rank in list(self._processes):
            self._end(rank)

    def _end(self, rank: int) -> None:
        line, process = self._lines.pop(rank, None), self._processes.pop(rank, None)
        if line is not None:
            line.close()
        if process is not None:
            process.join(1)  # what has sent its result ends by itself
            process.kill()
            process.join()


class _Line:
    """See `ertacache.distributed.line_shard.Line`."""

    def __init__(self, line: Connection) -> None:
        self._line = line

    def send(self, message: Any) -> None:
        try:
            send(self._line, message)
        except OSError:
            raise SystemExit("the driver is gone") from None

    def receive(self) -> Reply:
        try:
            reply: Reply = receive(self._line)
            return reply
        except (EOFError, OSError):
            raise SystemExit("the driver is gone") from None


def send(line: Connection, what: Any) -> None:
    """Send by plain pickle: torch's own way shares memory with a process that may end before it is read."""
    line.send_bytes(pickle.dumps(what))


def receive(line: Connection) -> Any:
    """Wait for what `send` sent."""
    return pickle.loads(line.recv_bytes())


def _main(line: Connection) -> None:
    """The program of a worker; Ctrl-C is the driver's to hear."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        job: Job = receive(line)
    except EOFError:
        return
    work(job, _Line(line))


@contextmanager
def _seeing(gpu: int | None) -> Iterator[None]:
    """Let processes that are started meanwhile see one GPU alone, of those that this one sees."""
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = before.split(",")[gpu] if before else str(gpu)
    try:
        yield
    finally:
        if gpu is not None:
            os.environ.pop("CUDA_VISIBLE_DEVICES", None)
            if before is not None:
                os.environ["CUDA_VISIBLE_DEVICES"] = before


def _end_of(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        return f"killed by {signal.Signals(-exit_code).name}"
    return f"exit status {exit_code}"
