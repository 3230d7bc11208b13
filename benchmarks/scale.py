"""How far calibration scales: real exchanges, replayed with step times of large models: docs/records/scale.md.

    python -m benchmarks.scale               # some minutes
    python -m benchmarks.scale --pairs 3     # one worker and two, by turns, on two idle cores

One calibration of the small FLUX runs in one process, and every exchange that workers would make is recorded: what each
prompt hands in, in bytes as it is pickled, and how many denoiser calls lie before it. The same calibration is then
played for other numbers of workers and step times: at each exchange everyone waits for the slowest worker, and the
driver takes messages one after the other. What a message costs is measured here; how much steps scatter is assumed, and
so is the time of a step where no GPU of ours has run the model.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import ceil
from pathlib import Path
from statistics import median
from typing import Annotated, Any, TypeVar

import numpy as np
import torch
import typer
from rich.console import Console

from benchmarks.keys import environment
from benchmarks.markdown import table, write_figures
from ertacache import calibrate, zoo
from ertacache.calibration.progress import CalibrationProgress
from ertacache.calibration.shard import Alone, holding
from ertacache.clock import now
from ertacache.distributed import Processes
from ertacache.distributed.messages import HandedIn

T = TypeVar("T")

STEPS, PROMPTS, SPEEDUP, FULL_RUNS = 30, 16, 2.0, 60
WORKERS = (1, 2, 4, 8, 16)
SCATTER = 0.03
"""Standard deviation of one worker's time for one step, relative; assumed."""
NETWORK = 0.001
"""Seconds of a round trip in a cluster, besides what messages cost the driver; assumed."""


@dataclass(frozen=True)
class Model:
    """A model whose calibration is played.

    Args:
        name: as tables show it.
        step: seconds of one step on one GPU, guidance included.
        source: where that is from.
    """

    name: str
    step: float
    source: str


MODELS = (
    Model("FLUX-dev, 1024 x 1024", 0.19, "measured, docs/records/gpu.md"),
    Model("Wan 2.1 1.3B, 81 frames, 480p", 1.3, "measured, docs/records/gpu.md"),
    Model("Wan 2.1 14B, 81 frames, 480p", 13.0, "ten times the 1.3B's operations"),
    Model("LTX-2 19B, 121 frames", 0.6, "operations of tokens times parameters, at FLUX's rate"),
    Model("the small FLUX, here", 0.02, "measured here, about"),
)


@dataclass(frozen=True)
class Exchange:
    """One exchange.

    Args:
        what: is done.
        own: bytes that one prompt hands in, in the mean.
        steps: computed steps of one prompt since the exchange before.
    """

    what: str
    own: float
    steps: float


class Recorder(Alone):
    """The shard of one process, which notes what workers would exchange."""

    def __init__(self) -> None:
        self.exchanges: list[Exchange] = []
        self.calls = 0

    def gather(self, own: Sequence[T], what: str) -> list[T]:
        """Note it."""
        size = len(pickle.dumps(HandedIn(0, list(own), what)))
        self.exchanges.append(Exchange(what, size / max(1, len(own)), self.calls))
        self.calls = 0
        return list(own)

    def progress(self, show: bool) -> CalibrationProgress:
        """A silent one, which counts denoiser calls."""
        shown, outer = CalibrationProgress(False), self

        def advance(count: int) -> None:
            outer.calls += count

        shown.advance = advance  # type: ignore[method-assign]
        return shown


def recorded() -> list[Exchange]:
    """The exchanges of one calibration; steps of one prompt in place of calls of all."""
    embedded, recorder = zoo.load("flux"), Recorder()
    asked: dict[str, Any] = {"speedup": SPEEDUP, "full_runs": FULL_RUNS, "progress": False, **embedded.arguments}
    with holding(recorder):
        policy = calibrate(embedded.pipe, embedded.calibration_prompts[:PROMPTS], **asked)
    per_step = 2 * policy.calibration.num_prompts
    return [Exchange(one.what, one.own, one.steps / per_step) for one in recorder.exchanges]


def message_cost(size: int, repeats: int = 200) -> float:
    """Seconds that a driver takes to read one message of so many bytes and to write its answer."""
    content = pickle.dumps(HandedIn(0, [np.random.default_rng(0).bytes(max(1, size))], "a step"))

    def once() -> float:
        begin = now()
        pickle.dumps(pickle.loads(content))
        return now() - begin

    return median(once() for _ in range(repeats)) + 20e-6  # the system call


def played(exchanges: Sequence[Exchange], prompts: int, workers: int, step: float, cost: Callable[[int], float]) -> Any:
    """Seconds of a calibration, and of them those in which the slowest worker has finished and all still wait.

    Args:
        exchanges: of a recorded one.
        prompts: in its place, so many.
        workers: how many share them.
        step: seconds of a computed step of one prompt.
        cost: of a message of so many bytes.
    """
    rng, each = np.random.default_rng(0), ceil(prompts / workers)
    shares = np.full(workers, each, float)
    shares[prompts - (each - 1) * workers :] = each - 1
    total = waiting = 0.0
    for one in exchanges:
        own = shares * one.steps * step * np.maximum(0.5, 1 + SCATTER * rng.standard_normal(workers))
        barrier = 0.0
        if workers > 1:
            barrier = NETWORK + workers * cost(int(one.own * each)) + workers * cost(int(one.own * prompts))
        waiting += barrier + own.max() - own.mean() * (prompts / workers) / shares.mean()
        total += own.max() + barrier
    return total, waiting


def scaling_table(exchanges: Sequence[Exchange], cost: Callable[[int], float]) -> str:
    """A row for each model and number of prompts, a column for each number of workers: speedup, and time of waiting."""
    lines = [["model", "prompts", "one worker", *(f"{number} workers" for number in WORKERS[1:])]]
    for model in MODELS:
        for prompts in (16, 64):
            alone, _ = played(exchanges, prompts, 1, model.step, cost)
            cells = []
            for number in WORKERS[1:]:
                total, waiting = played(exchanges, prompts, number, model.step, cost)
                cells.append(f"{alone / total:.1f}x, {waiting / total:.0%}")
            lines.append([model.name, str(prompts), f"{alone / 60:.3g} min", *cells])
    return table(lines)


def exchanges_table(exchanges: Sequence[Exchange]) -> str:
    """Exchanges by what they are for: how many, and the bytes of one prompt."""
    kinds: dict[str, list[float]] = {}
    for one in exchanges:
        name = "a step of a closed loop" if one.what.startswith("step") else one.what
        kinds.setdefault(name, []).append(one.own)
    rows = [[name, str(len(sizes)), f"{median(sizes):,.0f}"] for name, sizes in kinds.items()]
    return table([["exchange", "how many", "bytes a prompt"], *rows])


def load() -> Any:
    """The pipeline of a worker."""
    return zoo.load("flux").pipe


def nothing(pipe: Any) -> None:
    """What takes a worker no time, so that only its start is measured."""


def paired(pairs: int) -> list[tuple[float, float]]:
    """Seconds of a calibration with one worker and with two, of one thread each, by turns, without their start.

    Raises:
        RuntimeError: if their policies differ.
    """
    embedded = zoo.load("flux")
    asked: dict[str, Any] = {"speedup": SPEEDUP, "full_runs": 3 * FULL_RUNS, "progress": False, **embedded.arguments}
    found, prints = [], set()
    for _ in range(pairs):
        taken = []
        for number in (1, 2):
            workers, begin = Processes(number, threads=1), now()
            workers.run(nothing, load, (), {})
            start = now() - begin
            policy = calibrate(load, embedded.calibration_prompts[:PROMPTS], workers=workers, **asked)
            taken.append(now() - begin - 2 * start)
            prints.add(policy.fingerprint)
        found.append((taken[0], taken[1]))
        print(f"one worker {taken[0]:.1f} s, two {taken[1]:.1f} s: {taken[0] / taken[1]:.2f}x", flush=True)
    if len(prints) > 1:
        raise RuntimeError(f"the policies differ: {prints}")
    return found


def main(
    out: Annotated[Path, typer.Option(help="the folder for the figures")] = Path("benchmarks/results"),
    pairs: Annotated[int, typer.Option(help="measure instead: so many pairs of one worker and two")] = 0,
) -> None:
    """Record, play, and write the figures."""
    torch.set_num_threads(1)
    if pairs:
        seconds = paired(pairs)
        speedup = median(one / two for one, two in seconds)
        print(f"median of {pairs}: {speedup:.2f}x")
        write_figures(out, "scale-pairs", {**environment(), "seconds": seconds, "speedup": speedup}, {}, Console())
        return
    exchanges = recorded()
    sizes = (100, 10_000, 1_000_000)
    costs = {size: message_cost(size) for size in sizes}

    def cost(size: int) -> float:
        return float(np.interp(size, sizes, list(costs.values())))

    figures = {
        **environment(),
        "exchanges": [asdict(one) for one in exchanges],
        "message_seconds": costs,
        "models": [asdict(model) for model in MODELS],
        "scatter": SCATTER,
        "network": NETWORK,
    }
    tables = {"scale": scaling_table(exchanges, cost), "scale-exchanges": exchanges_table(exchanges)}
    print(tables["scale"], tables["scale-exchanges"], sep="\n\n")
    write_figures(out, "scale", figures, tables, Console())


if __name__ == "__main__":
    typer.run(main)
